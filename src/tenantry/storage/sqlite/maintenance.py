"""Changes a closed database: compacts, checkpoints, repairs and converts it.

These functions block for as long as the database is large; they run on a thread of their own.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from tenantry.errors import DatabaseCorruptError, PersistenceConnectionError
from tenantry.files.disk_space import check_copy_fits
from tenantry.storage.sqlite.checkpoint import truncate_log
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, map_error
from tenantry.storage.sqlite.integrity import check_connection
from tenantry.storage.sqlite.maintenance_connection import WRITABLE, connect, repeated_on_damage
from tenantry.storage.sqlite.ownership import hand_over

_GROWTH_PAGES_MAX: Final = 64


@repeated_on_damage
def compact(path: Path) -> None:
    """Rebuild a database without the space that deleted rows left, and leave one checkpointed file.

    VACUUM is one transaction (https://www.sqlite.org/lang_vacuum.html): cut short, the file is as it was. It needs as much
    free space as the database is large, and as much again where temporary files are (https://www.sqlite.org/tempfiles.html).

    Raises:
        StorageFullError: It would leave too little space to those who write; the database is as it was.
        PersistenceError: SQLite refused; the database is as it was.
    """
    if path.exists():
        size_bytes = path.stat().st_size
        copies = 2 if _has_temporary_files(path.parent) else 1
        check_copy_fits(path.parent, copies * size_bytes, size_bytes)
    try:
        with closing(connect(path, WRITABLE)) as connection:
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
    """Write what the write-ahead log holds into the database and leave one file.

    Raises:
        PersistenceError: SQLite refused, or another program reads the database at this moment.
    """
    try:
        with closing(connect(path, WRITABLE)) as connection:
            if not truncate_log(connection):
                raise PersistenceConnectionError(f"cannot checkpoint {path}: another program has it open")
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot checkpoint {path}") from error


def repair(path: Path) -> None:
    """Check a database thoroughly, and build its indexes anew if that is all that is wrong with it.

    Raises:
        DatabaseCorruptError: It is damaged beyond that.
        PersistenceError: SQLite refused for another reason, such as a full disk.
    """
    try:
        with closing(connect(path, WRITABLE, is_timed=True)) as connection:
            try:
                check_connection(connection, name=str(path), is_thorough=True)
            except DatabaseCorruptError:
                connection.execute("REINDEX")
                check_connection(connection, name=str(path), is_thorough=True)
            truncate_log(connection)
    except DRIVER_ERRORS as error:
        mapped = map_error(error, f"cannot repair {path}")
        if isinstance(mapped, DatabaseCorruptError):
            raise DatabaseCorruptError(f"{mapped}: restore a snapshot", code=mapped.code) from error
        raise mapped from error


@repeated_on_damage
def use_rollback_journal(path: Path) -> None:
    """Make a copy a database with a rollback journal: one file, which can be read where nothing can be written.

    Raises:
        PersistenceError: SQLite refused.
    """
    try:
        with closing(connect(path, WRITABLE, is_timed=True)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot prepare {path}") from error


@repeated_on_damage
def assign_to_tenant(path: Path, tenant_uid: str) -> None:
    """Make a copy, which nobody uses, another tenant's database, and leave one file.

    Raises:
        PersistenceError: SQLite refused.
    """
    try:
        with closing(connect(path, WRITABLE, is_timed=True)) as connection:
            _limit_growth(connection)
            hand_over(connection, tenant_uid)
            # A key that was used for a write of the other tenant says nothing about writes of this one.
            connection.execute("DROP TABLE IF EXISTS tenantry_idempotency")
            truncate_log(connection)
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot prepare {path}") from error


def _limit_growth(connection: sqlite3.Connection) -> None:
    """Let a database grow by a few pages and no more: the work to come needs no others."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + _GROWTH_PAGES_MAX:d}").close()
