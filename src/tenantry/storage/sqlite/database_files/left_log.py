"""Makes a write-ahead log durable that the last owner of the database left behind.

A database that was not closed cleanly has a log, and SQLite recovers from it every frame that it can read. But a frame that can be
read is not always on the disk: after a failed fsync, Linux keeps the page, marks it as clean, and never writes it again
(https://wiki.postgresql.org/wiki/Fsync_errors). The owner's caller got an error for that fsync. The next owner would acknowledge
commits whose frames follow such a frame; after a power failure the log ends before it, and those commits are lost.

So the next owner writes the log's bytes again, each in its place, and syncs them before it acknowledges anything. A power
failure in the middle of that does no harm: the bytes that it writes are the same. A checkpoint first would not be enough: SQLite
syncs the log before it, which does not write such a frame, and a power failure in the middle of the checkpoint would leave a
database that is half old and half new, without the log that could repair it.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from tenantry.errors import PersistenceConnectionError, StorageFullError
from tenantry.files.disk_space import is_full
from tenantry.files.durable_files import sync_directory
from tenantry.storage.sqlite.database_files.database_file import database_uri, has_log, log_of

_CHUNK_BYTES: Final = 1024 * 1024
_BUSY_SECONDS: Final = 5.0


def make_log_durable(path: Path) -> None:
    """Write a leftover log again and sync it, before any commit or checkpoint; do nothing if there is no such log.

    Raises:
        sqlite3.Error: SQLite cannot read the database, or another process writes to it.
        StorageFullError: The file system needs space to write the log again.
        PersistenceConnectionError: The disk still fails; nothing was changed, and the next opening tries again.
    """
    if not has_log(path) or os.path.lexists(f"{path}-journal"):
        return  # With a rollback journal beside it, SQLite decides which of the two is valid.
    # The last connection that closes checkpoints, unless it is read-only. This one closes last.
    with closing(_connect(path, "mode=ro")) as guard:
        guard.execute("PRAGMA user_version").fetchone()
        with closing(_connect(path, "mode=rw")) as connection:
            # Prevents other processes from changing the log. The log may be opened and closed beside SQLite, whose locks are on the
            # database and the shared memory (https://www.sqlite.org/howtocorrupt.html, section 2.2).
            connection.execute("BEGIN IMMEDIATE")
            try:
                _write_again(log_of(path))
            finally:
                connection.execute("ROLLBACK")


def _write_again(log_path: Path) -> None:
    try:
        fd = os.open(log_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            offset = 0
            while chunk := os.pread(fd, _CHUNK_BYTES, offset):
                offset += os.pwrite(fd, chunk, offset)
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_directory(log_path.parent)
    except OSError as error:
        problem = f"cannot make {log_path} durable ({error}), and nothing was changed"
        if is_full(error):
            raise StorageFullError(f"{problem}: free space on the disk") from error
        raise PersistenceConnectionError(f"{problem}: look at the disk, then try again") from error


def _connect(path: Path, parameters: str) -> sqlite3.Connection:
    uri = database_uri(path, parameters)
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
