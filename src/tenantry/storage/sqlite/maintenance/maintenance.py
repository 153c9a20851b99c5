"""Compacts, checkpoints, repairs and converts closed databases.

These functions block for a time that grows with the size of the database; each call runs on its own thread.
"""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from tenantry.errors import DatabaseCorruptError, PersistenceConnectionError
from tenantry.files.disk_space import check_copy_fits
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections.hardening import CHECK_SECONDS_MIN
from tenantry.storage.sqlite.database_files.checkpoint import truncate_log
from tenantry.storage.sqlite.database_files.ownership import hand_over
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, map_error
from tenantry.storage.sqlite.maintenance.integrity import check_connection
from tenantry.storage.sqlite.maintenance.maintenance_connection import (
    BUSY_SECONDS,
    WRITABLE,
    connect,
    repeated_on_damage,
)

_GROWTH_PAGES_MAX: Final = 64


@repeated_on_damage
def compact(path: Path, *, busy_seconds: float = BUSY_SECONDS, schemas: Sequence[Schema] = ()) -> None:
    """Rebuild a database without the space of deleted rows, and leave a single checkpointed file.

    VACUUM is one transaction (https://www.sqlite.org/lang_vacuum.html), so an interruption leaves the database unchanged. VACUUM
    needs as much free disk space as the size of the database, and the same amount again for temporary files
    (https://www.sqlite.org/tempfiles.html).
    """
    if path.exists():
        size_bytes = path.stat().st_size
        copies = 2 if _has_temporary_files(path.parent) else 1
        check_copy_fits(path.parent, copies * size_bytes, size_bytes)
    try:
        with closing(connect(path, WRITABLE, busy_seconds=busy_seconds, schemas=schemas)) as connection:
            connection.execute("VACUUM")
            truncate_log(connection)
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot compact {path}") from error


def _has_temporary_files(directory: Path) -> bool:
    """Return whether SQLite's temporary files are on the directory's file system."""
    places = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108
    for place in filter(None, places):
        if os.access(place, os.W_OK | os.X_OK):
            return Path(place).stat().st_dev == directory.stat().st_dev
    return True


@repeated_on_damage
def checkpoint(path: Path) -> None:
    """Write the write-ahead log into the database, and leave a single file."""
    try:
        with closing(connect(path, WRITABLE)) as connection:
            if not truncate_log(connection):
                raise PersistenceConnectionError(
                    f"cannot checkpoint {path}: another program has the database open: close the database there"
                )
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot checkpoint {path}") from error


def _check_rebuilt(connection: sqlite3.Connection, path: Path) -> None:
    """Check a database whose indexes were rebuilt. The error says what to do about the remaining problems."""
    try:
        check_connection(connection, name=str(path), is_thorough=True)
    except DatabaseCorruptError as error:
        raise DatabaseCorruptError(
            f"{error}: restore a snapshot, or correct the rows in an export and replace the tenant's file with it",
            code=error.code,
        ) from error


def repair(path: Path, *, busy_seconds: float = BUSY_SECONDS, schemas: Sequence[Schema] = ()) -> None:
    """Check a database thoroughly, and rebuild the indexes if only indexes are damaged."""
    try:
        with closing(
            connect(
                path,
                WRITABLE,
                seconds_min=CHECK_SECONDS_MIN,
                busy_seconds=busy_seconds,
                schemas=schemas,
            )
        ) as connection:
            try:
                check_connection(connection, name=str(path), is_thorough=True)
            except DatabaseCorruptError:
                connection.execute("REINDEX")
                _check_rebuilt(connection, path)
            truncate_log(connection)
    except DRIVER_ERRORS as error:
        mapped = map_error(error, f"cannot repair {path}")
        if isinstance(mapped, DatabaseCorruptError):
            raise DatabaseCorruptError(f"{mapped}: restore a snapshot", code=mapped.code) from error
        raise mapped from error


@repeated_on_damage
def use_rollback_journal(path: Path) -> None:
    """Switch a copied database to a rollback journal, so that the copy can be read in a directory that is not writable."""
    try:
        with closing(connect(path, WRITABLE, seconds_min=CHECK_SECONDS_MIN)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot prepare {path}") from error


@repeated_on_damage
def assign_to_tenant(path: Path, tenant_uid: str) -> None:
    """Assign a copied database, which no process uses, to another tenant, and leave a single file."""
    try:
        with closing(connect(path, WRITABLE, seconds_min=CHECK_SECONDS_MIN)) as connection:
            _limit_growth(connection)
            hand_over(connection, tenant_uid)
            # The copied tenant's idempotency keys and marks do not apply to the new tenant's writes.
            connection.execute("DROP TABLE IF EXISTS tenantry_idempotency")
            connection.execute("DROP TABLE IF EXISTS tenantry_forwarded")
            truncate_log(connection)
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot prepare {path}") from error


def _limit_growth(connection: sqlite3.Connection) -> None:
    """Limit the growth of a database to a few pages, which are enough for the next statements."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + _GROWTH_PAGES_MAX:d}").close()
