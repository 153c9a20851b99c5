"""Tells whether a write-ahead log that a killed process left belongs to the database beside it.

SQLite applies any log that lies beside a database. A log does not name its database (https://www.sqlite.org/walformat.html). If the
tenant's file was replaced, pages of the old database would replace pages of the new one, which mixes the two.
So an owner writes a note into the lock file before it begins a log: the inode of the database's file, and its epoch. The note
is after the line that `LockFile` uses, and stays when the next process takes the lock. If there is a log, and:

    the lock file is another one      the directory was copied or restored as a whole: the note has no meaning
    the database is another file      it was replaced: the log is not its log
    the database's epoch is older     an older database was copied into the file: the log is not its log
    the database's status was changed long after the log's
                                      a file was copied over it, or a process was killed while it closed the database: the
                                      two look alike, so this counts only where an operator asks for a repair

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
"""A checkpoint changes the database at most this long after the log; a copy over the database is later."""

_EPOCH_SQL: Final = "SELECT epoch FROM tenantry_owner WHERE id = 1"
_ADVICE: Final = (
    "Nothing was changed. Put a file in a tenant's place with 'tenantry tenant replace-file', which keeps what is there as a restore "
    "point"
)


class _Note(NamedTuple):
    lock_inode: int
    database_inode: int
    epoch: int

    def condemns(self, database: "_Note") -> bool:
        """Return whether a log that was begun under this note cannot be the log of the database in this state."""
        return database.database_inode != self.database_inode or database.epoch < self.epoch


def note_database(lock_fd: int, database: Path, epoch: int) -> None:
    """Write the note of a database into its lock file, whose lock is held, before a log is begun for it.

    The note is synced only if a power failure could bring back an old note that contradicts the new log: a note of another file or
    of a later epoch. A sync costs as much as a commit. Without it a power failure may remove the note, and the log is then
    accepted.
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
            # Otherwise the next attempt would find nothing to sync.
            os.pwrite(lock_fd, line_before, CONTENT_BYTES)
            raise


def is_foreign(lock_path: Path, database: Path) -> bool:
    """Return whether the log beside the database is certainly not its log."""
    if not has_log(database) or (note := _read(lock_path)) is None:
        return False
    if database.lstat().st_ino != note.database_inode:
        return True
    epoch = _epoch_without_log(database)
    return epoch is not None and epoch < note.epoch


def check_fits(lock_path: Path, database: Path, *, changed_seconds_max: float | None = None) -> None:
    """Raise if the log beside the database is not its log.

    Args:
        lock_path: The tenant's lock file; the lock is held.
        database: The database, which no process has open.
        changed_seconds_max: Raise also if the database was changed longer than this after the log, which then probably belongs to
            another database; None: do not compare the times.

    Raises:
        DatabaseCorruptError: It is not its log; neither file was changed.
    """
    if is_foreign(lock_path, database):
        raise DatabaseCorruptError(
            f"{database} was replaced while the log of the database that was there lay beside it ({database.name}-wal). {_ADVICE}"
        )
    if changed_seconds_max is not None and _was_changed_late(lock_path, database, changed_seconds_max):
        raise DatabaseCorruptError(
            f"{database} was changed long after its log ({database.name}-wal): it seems that a file was copied over it. {_ADVICE}; if "
            f"no file was put there, 'touch {database}-wal' and repair again"
        )


def _was_changed_late(lock_path: Path, database: Path, seconds_max: float) -> bool:
    if not has_log(database) or _read(lock_path) is None:
        return False
    # No program can set the time of a file's status change (ctime), not even a copy that preserves the modification time.
    late_ns = database.lstat().st_ctime_ns - log_of(database).stat().st_ctime_ns
    return late_ns > seconds_max * 1e9


def _read(lock_path: Path) -> _Note | None:
    """Return the note of a lock file; None if it has none, or if it is a copy of the file that the note was written into."""
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
    """Return the epoch in the database's file, None if it cannot be read: the file may contain half a checkpoint."""
    uri = database_uri(database, "mode=ro&immutable=1")
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            row = connection.execute(_EPOCH_SQL).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None or not isinstance(row[0], int) else row[0]
