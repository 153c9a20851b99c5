"""Detects whether a write-ahead log left behind by a killed process belongs to the current database file.

SQLite applies any log beside a database, and the log does not name the database (https://www.sqlite.org/walformat.html). If a
tenant's file were replaced, SQLite would write pages from the log into the wrong database. So an owner writes a note into the
lock file before the owner starts a log. The note has the inode of the database file and the database's epoch. The note follows
the line that `LockFile` uses, and stays when the next process acquires the lock. If a log exists:

    the lock file is another file     the whole directory was copied or restored, so the note is ignored
    the database is another file      the database was replaced, so the log is foreign
    the database's epoch is older     an older database was copied into the file, so the log is foreign
    the database's status was changed long after the log's
                                      either a file was copied over the database, or a process was killed while it closed the
                                      database; only a repair that an operator requests treats the log as foreign

These functions block.
"""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from tenantry.errors import DatabaseCorruptError
from tenantry.files.lock_file import CONTENT_BYTES
from tenantry.storage.sqlite.database_files.database_file import database_uri, has_log, log_of

CHANGED_SECONDS_MAX: Final = 60.0
"""The longest time between the last change of a log and its checkpoint. A database that changed later was probably copied."""

_EPOCH_SQL: Final = "SELECT epoch FROM tenantry_owner WHERE id = 1"
_ADVICE: Final = (
    "Nothing was changed. To replace a tenant's file, use 'tenantry tenant replace-file', which keeps the current database as a "
    "restore point"
)


class _Note(NamedTuple):
    lock_inode: int
    database_inode: int
    epoch: int

    def condemns(self, database: "_Note") -> bool:
        """Return whether a log that was started with this note cannot belong to the given database."""
        return database.database_inode != self.database_inode or database.epoch < self.epoch


def note_database(lock_fd: int, database: Path, epoch: int) -> None:
    """Write the note of a database into its lock file, whose lock is held, before the database gets a new log.

    A sync costs as much as a commit. So the note is synced only if the old note names another file or a later epoch. A power
    failure could restore such an old note, and that note would contradict the new log. Without a sync, a power failure may remove
    the note, and the log is then accepted.
    """
    line_before = os.pread(lock_fd, CONTENT_BYTES, CONTENT_BYTES)
    before = _parsed(line_before)
    note = _Note(os.fstat(lock_fd).st_ino, database.lstat().st_ino, epoch)
    if note == before:
        return
    line = b"[%d, %d, %d]" % note
    os.pwrite(lock_fd, line.ljust(CONTENT_BYTES - 1) + b"\n", CONTENT_BYTES)
    if before is not None and before.lock_inode == note.lock_inode and before.condemns(note):
        try:
            os.fsync(lock_fd)
        except OSError:
            # The old note is restored, because otherwise the next attempt would find the new note and would not sync it.
            os.pwrite(lock_fd, line_before, CONTENT_BYTES)
            raise


def is_foreign(lock_path: Path, database: Path) -> bool:
    """Return whether the log beside the database certainly belongs to another database."""
    if not has_log(database) or (note := _read(lock_path)) is None:
        return False
    if database.lstat().st_ino != note.database_inode:
        return True
    epoch = _epoch_without_log(database)
    return epoch is not None and epoch < note.epoch


def check_fits(lock_path: Path, database: Path, *, changed_seconds_max: float | None = None) -> None:
    """Raise `DatabaseCorruptError` if the log beside the database seems to belong to another database.

    Args:
        lock_path: The tenant's lock file; the caller holds the lock.
        database: The database, which no process has open.
        changed_seconds_max: The longest allowed time from the log's last change to the database's last change; None for no limit.
    """
    if is_foreign(lock_path, database):
        raise DatabaseCorruptError(
            f"{database} was replaced, but its log {database.name}-wal still belongs to the former database. {_ADVICE}"
        )
    if changed_seconds_max is not None and _was_changed_late(lock_path, database, changed_seconds_max):
        raise DatabaseCorruptError(
            f"{database} was changed long after its log {database.name}-wal: another file was probably copied over the database. "
            f"{_ADVICE}; if no file was copied, run 'touch {database}-wal' and repair again"
        )


def _was_changed_late(lock_path: Path, database: Path, seconds_max: float) -> bool:
    if not has_log(database) or _read(lock_path) is None:
        return False
    # The status change time (ctime) is compared, because programs can set the modification time but not the ctime.
    late_ns = database.lstat().st_ctime_ns - log_of(database).stat().st_ctime_ns
    return late_ns > seconds_max * 1e9


def _read(lock_path: Path) -> _Note | None:
    """Return the note in a lock file; None if the file has no note, or is a copy of the file for which the note was written."""
    try:
        fd = os.open(lock_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        note = _parsed(os.pread(fd, CONTENT_BYTES, CONTENT_BYTES))
        return note if note is not None and note.lock_inode == os.fstat(fd).st_ino else None
    finally:
        os.close(fd)


def _parsed(line: bytes) -> _Note | None:
    try:
        return _Note(*map(int, json.loads(line)))
    except (ValueError, TypeError):
        return None


def _epoch_without_log(database: Path) -> int | None:
    """Return the epoch in the database file; None if the file cannot be read, for example after an interrupted checkpoint."""
    uri = database_uri(database, "mode=ro&immutable=1")
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            row = connection.execute(_EPOCH_SQL).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None or not isinstance(row[0], int) else row[0]
