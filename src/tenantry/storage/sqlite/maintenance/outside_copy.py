"""Copies a database of another program, which may have it open, and changes nothing of it.

SQLite makes the copy. A raw copy could mix two states, and a write-ahead log belongs to the database. How the database is opened depends
on the journal that its header names:

* A database without a write-ahead log is read under SQLite's shared lock. A program that writes to it waits meanwhile.
* A database with a log is read beside its writer, as its other readers read it.
* A database that would have a log and has none is open in no program. It is read as an immutable file, because every other way
  of reading would create the log. If a program changes it meanwhile, the copy is made again.
"""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

from tenantry.errors import DatabaseCorruptError, SnapshotError
from tenantry.files.atomic_file import storage_errors
from tenantry.storage.sqlite.connections import hardening
from tenantry.storage.sqlite.connections.immutable import ImmutableFile
from tenantry.storage.sqlite.database_files.database_file import database_uri, remove_database
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, is_busy, is_damage, map_error
from tenantry.storage.sqlite.maintenance.maintenance_connection import BUSY_SECONDS, IMMUTABLE, READ_ONLY
from tenantry.storage.sqlite.maintenance.online_backup import copy_database

_MAGIC: Final = b"SQLite format 3\0"
_READ_VERSION_AT: Final = 19  # https://www.sqlite.org/fileformat2.html, section 1.3.3
_WITH_LOG: Final = 2
_HEADER_BYTES: Final = 100
_TRIES_MAX: Final = 3


def copy_outside(source: Path, target: Path, *, busy_seconds: float = BUSY_SECONDS) -> None:
    """Write a consistent copy of a database into a new file.

    Args:
        source: The database. Other processes may have it open; this process may not, because reading the file's header would
            release this process's locks (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        target: The new file.
        busy_seconds: How long to wait for another program that holds the database's lock.

    Raises:
        SnapshotError: There is no such file, it is not a regular file, another program holds its lock or changes it all the time, or a
            program that was killed left a rollback journal.
        DatabaseCorruptError: It is damaged, encrypted, or not an SQLite database.
        StorageFullError: There is no space for the copy.
        PersistenceError: SQLite cannot read it.
    """
    with storage_errors(f"copy {source}"):
        source = source.resolve()  # the log lies beside the file, and not beside a link to it
        for _ in range(_TRIES_MAX):
            has_log = _header(source)[_READ_VERSION_AT] == _WITH_LOG
            found = ImmutableFile.find(source) if has_log and not _is_in_use(source) else None
            _copy(source, IMMUTABLE if found else READ_ONLY, target, busy_seconds)
            if found is None or (found.is_unchanged() and not _is_in_use(source)):
                return
            remove_database(target)
    raise SnapshotError(f"{source} was changed each time while it was copied: try again", is_retryable=True)


def _header(source: Path) -> bytes:
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise SnapshotError(f"{source} is not a regular file: give the path of an SQLite database")
        with source.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError as error:
        raise SnapshotError(f"there is no file {source}: give the path of an SQLite database") from error
    if not header:
        raise DatabaseCorruptError(f"{source} is empty: to create a tenant without data, use 'tenant create'")
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise DatabaseCorruptError(
            f"{source} is not an SQLite database, or it is encrypted: give a database that SQLite's own shell can open"
        )
    return header


def _is_in_use(source: Path) -> bool:
    """Return whether a log, or the memory that its readers share, is beside the database."""
    return any(source.with_name(f"{source.name}{suffix}").exists() for suffix in ("-wal", "-shm"))


def _copy(source: Path, parameters: str, target: Path, busy_seconds: float) -> None:
    try:
        with closing(
            sqlite3.connect(
                database_uri(source, parameters), uri=True, isolation_level=None, timeout=busy_seconds
            )
        ) as connection:
            # Not its schema, which is not trusted: it is not run here.
            hardening.Watch(hardening.check_seconds_max(source)).watch(connection)
            hardening.confine(connection)
            copy_database(connection, target)
    except DRIVER_ERRORS as error:
        if is_busy(error):
            raise SnapshotError(
                f"{source} is locked by another program: try again when it does not write, or stop it",
                is_retryable=True,
            ) from error
        if Path(f"{source}-journal").exists() and not is_damage(error):
            raise SnapshotError(
                f"{source} cannot be read, because a program that was killed left {source.name}-journal: let that program, or "
                f"sqlite3 {source} .tables, open it once"
            ) from error
        raise map_error(error, f"cannot copy {source}") from error
