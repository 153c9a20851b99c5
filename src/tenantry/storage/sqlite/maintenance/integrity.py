"""Checks databases for damage, and reads their versions, row counts and owners.

These functions block for a time that grows with the size of the database; each call runs on its own thread.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantry.errors import DatabaseCorruptError, SnapshotError, TenantryError
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections.hardening import CHECK_SECONDS_MIN
from tenantry.storage.sqlite.connections.immutable import ImmutableFile
from tenantry.storage.sqlite.errors import (
    DRIVER_ERRORS,
    error_text,
    is_damage,
    is_interrupted,
    is_machine_failure,
    map_connection_error,
    map_error,
)
from tenantry.storage.sqlite.maintenance.maintenance_connection import (
    IMMUTABLE,
    READ_ONLY,
    WRITABLE,
    connect,
    repeated_on_damage,
)
from tenantry.storage.sqlite.migrations.migrator import read_file_version
from tenantry.storage.sqlite.statements.sql_text import quoted

_PROBLEMS_SHOWN_MAX: Final = 5
# SQLite's messages if the connection lacks what a schema pack's connect hook adds; only the first one has a code of its own.
_LACKS_FUNCTION: Final = ("no such collation sequence", "unknown function", "no such function")


@dataclass(frozen=True, slots=True)
class DatabaseReport:
    """The contents of a database that passed a check.

    Attributes:
        tenant_uid: The stable key of the tenant that owns the database; None if the database names no owner.
    """

    size_bytes: int
    schema_versions: dict[str, int]
    row_counts: dict[str, int]
    tenant_uid: str | None


@repeated_on_damage
def check(
    path: Path,
    schemas: Sequence[Schema] = (),
    *,
    is_thorough: bool = False,
    has_check_constraints: bool = False,
    seconds_min: float = CHECK_SECONDS_MIN,
) -> DatabaseReport:
    """Check a closed database without locking or changing the file, and report on the database's contents.

    A thorough check (``integrity_check``) also compares indexes with their tables; otherwise ``quick_check`` runs. The time
    limit is `seconds_min` plus a time that depends on the size of the file. The check calls functions of the packs' connect hooks.

    On a read-only connection SQLite ignores CHECK constraints. With `has_check_constraints` the rows are also checked against
    CHECK constraints. The file is then opened for writing, and the caller must own the file.

    Raises:
        DatabaseCorruptError: The file is damaged, or not a database.
        SnapshotError: The database is not known to be damaged, but a virtual table in it cannot be read, or this process lacks a
            function or a collation that an index needs.
        QueryError: The check took too long for a database of this size, or was cancelled.
    """
    parameters = WRITABLE if has_check_constraints else IMMUTABLE
    try:
        with closing(connect(path, parameters, seconds_min=seconds_min, schemas=schemas)) as connection:
            _check_integrity(connection, path, "integrity_check" if is_thorough else "quick_check")
            return DatabaseReport(
                size_bytes=path.stat().st_size,
                schema_versions=_schema_versions(connection),
                row_counts=_row_counts(connection),
                tenant_uid=_tenant_uid(connection),
            )
    except (*DRIVER_ERRORS, OSError) as error:
        raise _unreadable(error, path) from error


def check_connection(connection: sqlite3.Connection, *, name: str, is_thorough: bool) -> None:
    """Check an open database that others may use. The check raises `sqlite3.Error` for damage that SQLite cannot describe."""
    _check_integrity(connection, name, "integrity_check" if is_thorough else "quick_check")


@repeated_on_damage
def check_closed(path: Path, *, is_thorough: bool = False, schemas: Sequence[Schema] = ()) -> None:
    """Check a database that no process has open, and any write-ahead log that a crash left, without changing any file.

    Args:
        path: The database file.
        is_thorough: Whether to compare indexes with their tables too.
        schemas: The packs whose connect hooks define functions that the check calls.
    """
    parameters = IMMUTABLE if ImmutableFile.find(path) else READ_ONLY
    try:
        with closing(connect(path, parameters, seconds_min=CHECK_SECONDS_MIN, schemas=schemas)) as connection:
            check_connection(connection, name=str(path), is_thorough=is_thorough)
    except DRIVER_ERRORS as error:
        raise _unreadable(error, path) from error


def read_closed_versions(path: Path) -> dict[str, int] | None:
    """Return the version of each schema in a closed database, without a lock; None if a process opens the database.

    The result is also None if the versions in the database contradict each other; opening the database then reports the error.
    """
    found = ImmutableFile.find(path)
    if found is None:
        return None
    try:
        with closing(connect(path, IMMUTABLE)) as connection:
            versions = _schema_versions(connection)
            is_sound = read_file_version(connection) == sum(versions.values())
    except DRIVER_ERRORS:  # opening the database reports this error
        return None
    return versions if is_sound and found.is_unchanged() else None


def read_tenant_uid(path: Path) -> str | None:
    """Return the stable key of the tenant that owns a copied database; None if the copy names no owner."""
    try:
        with closing(connect(path, IMMUTABLE)) as connection:
            return _tenant_uid(connection)
    except (*DRIVER_ERRORS, OSError) as error:
        raise _unreadable(error, path) from error


def _unreadable(error: Exception, path: Path) -> TenantryError:
    """Return the error for a database that cannot be read.

    The error reports damage unless the check was interrupted, the machine failed, or this process lacks a function of the schema.
    """
    if is_interrupted(error):
        return map_error(
            error, f"the check of {path} was cancelled, or took too long for a database of this size"
        )
    if is_machine_failure(error) or isinstance(error, OSError):
        return map_connection_error(error, f"cannot read {path}")
    if str(error).startswith(_LACKS_FUNCTION):
        return SnapshotError(
            f"{path} cannot be checked here: {error_text(error)}: start this process with all schema packs of the tenants"
        )
    return DatabaseCorruptError(f"{path} cannot be read as a database: {error_text(error)}")


def _check_integrity(connection: sqlite3.Connection, name: Path | str, pragma: str) -> None:
    rows = connection.execute(f"PRAGMA {pragma}({_PROBLEMS_SHOWN_MAX})")
    # A row may have several lines, but reasons, tables and logs need a message of one line.
    problems = [line for (row,) in rows for line in str(row).splitlines()]
    if problems != ["ok"]:
        raise DatabaseCorruptError(f"{name} is damaged: {'; '.join(problems)}")


def _schema_versions(connection: sqlite3.Connection) -> dict[str, int]:
    if "schema_migrations" not in _tables(connection):
        return {}
    return dict(connection.execute("SELECT schema, max(version) FROM schema_migrations GROUP BY schema"))


def _row_counts(connection: sqlite3.Connection) -> dict[str, int]:
    counts = {}
    for table in _tables(connection):
        try:
            (counts[table],) = connection.execute(f"SELECT count(*) FROM {quoted(table)}").fetchone()  # noqa: S608
        except sqlite3.OperationalError as error:
            if is_damage(error) or error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            raise SnapshotError(
                f"table {table!r} of the database cannot be read ({error}): a table that belongs to a virtual table was renamed or "
                "dropped; create the virtual table again or drop it, then try again",
                code=error.sqlite_errorname,
            ) from error
    return counts


def _tenant_uid(connection: sqlite3.Connection) -> str | None:
    if "tenantry_owner" not in _tables(connection):
        return None
    row = connection.execute("SELECT tenant_uid FROM tenantry_owner WHERE id = 1").fetchone()
    return None if row is None else row[0]


def _tables(connection: sqlite3.Connection) -> list[str]:
    sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    return [name for (name,) in connection.execute(sql)]
