"""Makes a write-ahead log durable if the last owner of a database left the log behind.

A database that was not closed cleanly has a log, from which SQLite recovers every readable frame. A readable frame may still be
missing on the disk: after a failed fsync, Linux keeps the page in memory, marks the page as clean, and never writes the page again
(https://wiki.postgresql.org/wiki/Fsync_errors). The last owner got an error for its fsync, but the next owner does not know about
the missing frame. If the next owner appends commits to the log and the power fails, the log ends before the missing frame. Commits
that were already acknowledged are then lost.

So the next owner rewrites the log's bytes in place and syncs the log before the first commit. A power failure during the rewrite
is harmless, because the rewrite does not change any byte. A checkpoint would not be enough, because SQLite syncs the log before
the checkpoint, but this sync does not write the missing frame. A power failure during the checkpoint would then leave a database
that is half old and half new, and the log could not repair the database.
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
    """Rewrite and sync a leftover log, before any commit or checkpoint; a no-op without a log.

    Raises:
        sqlite3.Error: SQLite cannot read the database, or another process writes to the database.
        StorageFullError: The disk has too little space to rewrite the log.
        PersistenceConnectionError: The disk still fails. Nothing was changed, and the next opening tries the rewrite again.
    """
    if not has_log(path) or os.path.lexists(f"{path}-journal"):
        return  # If the database also has a rollback journal, SQLite decides whether the log or the journal is valid.
    # SQLite checkpoints when the last connection closes, unless this connection is read-only. So `guard` closes last.
    with closing(_connect(path, "mode=ro")) as guard:
        guard.execute("PRAGMA user_version").fetchone()
        with closing(_connect(path, "mode=rw")) as connection:
            # The transaction prevents other processes from changing the log. Closing the log here releases no lock, because
            # SQLite locks only the database and the shared memory (https://www.sqlite.org/howtocorrupt.html, section 2.2).
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
        problem = f"cannot make {log_path} durable ({error}); nothing was changed"
        if is_full(error):
            raise StorageFullError(f"{problem}: free space on the disk") from error
        raise PersistenceConnectionError(f"{problem}: check the disk, then try again") from error


def _connect(path: Path, parameters: str) -> sqlite3.Connection:
    uri = database_uri(path, parameters)
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
