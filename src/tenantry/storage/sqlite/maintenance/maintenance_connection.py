"""Connections for checks and maintenance of closed databases."""

import sqlite3
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from tenantry.errors import DatabaseCorruptError
from tenantry.files.durable_files import sync_foreign_directory
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections import hardening
from tenantry.storage.sqlite.connections.connect_hooks import hooks_of, run_hooks
from tenantry.storage.sqlite.connections.functions import add_functions
from tenantry.storage.sqlite.connections.hardening import Watch, check_seconds_max
from tenantry.storage.sqlite.database_files.database_file import database_uri, is_missing, missing_error
from tenantry.storage.sqlite.database_files.left_log import make_log_durable
from tenantry.storage.sqlite.errors import map_connection_error
from tenantry.storage.sqlite.migrations.migrator import read_file_version

P = ParamSpec("P")
T = TypeVar("T")

READ_ONLY: Final = "mode=ro"
IMMUTABLE: Final = "mode=ro&immutable=1"
WRITABLE: Final = "mode=rw"
BUSY_SECONDS: Final = 5.0


def repeated_on_damage(work: Callable[P, T]) -> Callable[P, T]:
    """Repeat a function once after `DatabaseCorruptError`, because SQLite also reports damage if the disk failed to read once."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except DatabaseCorruptError:
            return work(*args, **kwargs)

    return run


def connect(
    path: Path,
    parameters: str,
    *,
    seconds_min: float | None = None,
    busy_seconds: float = BUSY_SECONDS,
    schemas: Sequence[Schema] = (),
) -> sqlite3.Connection:
    """Open a closed database; cancelling the caller interrupts the connection's statements.

    The time limit of the statements is `seconds_min` plus a time that depends on the size of the file; None means no limit. The
    connect hooks of `schemas` define the functions that the statements may call.

    Raises:
        sqlite3.Error: SQLite cannot open the database.
        DatabaseCorruptError: The database is missing.
        PersistenceConnectionError: The database's directory cannot be synced, or a connect hook failed.
    """
    if is_missing(path):
        raise missing_error(path)
    if parameters == WRITABLE:
        make_log_durable(path)
    connection = sqlite3.connect(
        database_uri(path, parameters), uri=True, isolation_level=None, timeout=busy_seconds
    )
    try:
        run_hooks(hooks_of(schemas), connection)
        Watch(None if seconds_min is None else check_seconds_max(path, seconds_min)).watch(connection)
        connection.executescript(hardening.PRAGMAS)
        add_functions(connection)
        # EXTRA also syncs the removal of a rollback journal: the removal is the commit. With a write-ahead log, EXTRA equals FULL.
        connection.execute("PRAGMA synchronous = EXTRA")
        if parameters == WRITABLE:
            # The first read creates a missing log. SQLite syncs the directory at the first commit, but ignores an error of this sync.
            read_file_version(connection)
            sync_foreign_directory(path.parent)
    except OSError as error:
        connection.close()
        raise map_connection_error(error, f"cannot sync {path.parent}") from error
    except BaseException:
        connection.close()
        raise
    return connection
