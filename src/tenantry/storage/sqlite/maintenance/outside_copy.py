"""Copies another program's database without changing the database. The program may have the database open.

SQLite makes the copy, because a plain copy of the file could mix two states and would lack the write-ahead log. The journal mode
in the database's header decides how SQLite opens the database:

* A database with a rollback journal is read with SQLite's shared lock. Programs that write to the database wait for the copy.
* A database with a write-ahead log is read without delaying its writer.
* If the header names a write-ahead log but the log is missing, no program has the database open. The database is then read as an
  immutable file, because every other connection would create the log. If a program changes the database during the copy, the
  copy is repeated.
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
        source: The database. Other processes may have the database open, but this process must not: reading the file's header
            would release this process's locks (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        target: The new file.
        busy_seconds: The longest wait for another program that holds the database's lock.

    Raises:
        SnapshotError: The file is missing or is not a regular file. Or another program locked or changed the database during each
            attempt. Or a killed program left a rollback journal.
        DatabaseCorruptError: The file is damaged, encrypted, or not an SQLite database.
        StorageFullError: The disk has too little space for the copy.
        PersistenceError: SQLite cannot read the database.
    """
    with storage_errors(f"copy {source}"):
        try:
            source = source.resolve()  # the log is beside the file itself, not beside a link to the file
        except (RuntimeError, ValueError) as error:  # the path has a loop of links, or a NUL
            raise SnapshotError(
                f"{str(source)!r} is not the path of a file ({error}): give the path of an SQLite database"
            ) from error
        for _ in range(_TRIES_MAX):
            has_log = _header(source)[_READ_VERSION_AT] == _WITH_LOG
            found = ImmutableFile.find(source) if has_log and not _is_in_use(source) else None
            _copy(source, IMMUTABLE if found else READ_ONLY, target, busy_seconds)
            if found is None or (found.is_unchanged() and not _is_in_use(source)):
                return
            remove_database(target)
    raise SnapshotError(f"{source} was changed during each attempt to copy it: try again", is_retryable=True)


def _header(source: Path) -> bytes:
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise SnapshotError(f"{source} is not a regular file: give the path of an SQLite database")
        with source.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError as error:
        raise SnapshotError(f"{source} does not exist: give the path of an SQLite database") from error
    if not header:
        raise DatabaseCorruptError(f"{source} is empty: to create a tenant without data, use 'tenant create'")
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise DatabaseCorruptError(
            f"{source} is not an SQLite database, or is encrypted: give a database that SQLite's own shell can open"
        )
    return header


def _is_in_use(source: Path) -> bool:
    """Return whether the database has a write-ahead log or a shared memory file."""
    return any(source.with_name(f"{source.name}{suffix}").exists() for suffix in ("-wal", "-shm"))


def _copy(source: Path, parameters: str, target: Path, busy_seconds: float) -> None:
    try:
        with closing(
            sqlite3.connect(
                database_uri(source, parameters), uri=True, isolation_level=None, timeout=busy_seconds
            )
        ) as connection:
            # The untrusted schema needs no check here, because copying the database does not run the schema.
            hardening.Watch(hardening.check_seconds_max(source)).watch(connection)
            hardening.confine(connection)
            copy_database(connection, target)
    except DRIVER_ERRORS as error:
        if is_busy(error):
            raise SnapshotError(
                f"{source} is locked by another program: try again when the program does not write, or stop the program",
                is_retryable=True,
            ) from error
        if Path(f"{source}-journal").exists() and not is_damage(error):
            raise SnapshotError(
                f"{source} cannot be read, because a killed program left {source.name}-journal: open the database once with that "
                f"program, or with 'sqlite3 {source} .tables'"
            ) from error
        raise map_error(error, f"cannot copy {source}") from error
