"""Makes the directory entry of a new write-ahead log durable with the log's first commit.

SQLite creates the log's file when it opens a database, and syncs the directory at the first sync of the log. SQLite does not check
whether the sync of the directory failed (``unixSync`` in os_unix.c). After such a failure a loss of power can remove the log's
directory entry, and so lose every commit in the log. So tenantry also syncs the directory, after a commit and before the commit
is acknowledged. After a commit the file system has already written the directory entry, so the sync takes almost no time. A sync
before the commit would take as long as another commit.

No checkpoint may run before the entry is durable: a power failure during a checkpoint would leave a half-written database without
its log.
"""

import sqlite3
from pathlib import Path

from tenantry.errors import PersistenceConnectionError
from tenantry.files.durable_files import sync_foreign_directory
from tenantry.storage.sqlite.connections.opening import CHECKPOINT_PAGES
from tenantry.storage.sqlite.database_files.database_file import has_log, log_of


def not_durable(path: Path, problem: str) -> PersistenceConnectionError:
    """Return the error for a commit whose log has no durable directory entry; `path` is the database."""
    return PersistenceConnectionError(
        f"cannot sync the directory of {log_of(path)} ({problem}), so a power failure may lose the write: check the disk, then try again"
    )


class NewLog:
    """The log of a writer that was opened without automatic checkpoints. Only the writer's jobs use this class.

    Attributes:
        is_left_to_engine: Whether the engine makes the log durable with its first batch of writes, if no job of Python comes before.
    """

    def __init__(self, path: Path, *, is_left_to_engine: bool = False) -> None:
        self.is_left_to_engine = is_left_to_engine
        self._path = path
        self._is_durable = False

    def make_durable(self, connection: sqlite3.Connection) -> None:
        """Sync the log's directory, then turn on the writer's automatic checkpoints; a no-op after the first success.

        No transaction may be open.

        Raises:
            PersistenceConnectionError: The disk failed. Call this method again after the next commit and before any checkpoint.
        """
        if self._is_durable:
            return
        try:
            sync_foreign_directory(self._path.parent)
        except OSError as error:
            raise not_durable(self._path, str(error)) from error
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._is_durable = True

    def before_closing(self, connection: sqlite3.Connection) -> None:
        """Make the log durable, or prevent the checkpoint that SQLite makes when the writer closes next.

        After an interrupt SQLite ends a checkpoint before it writes a page, until the next statement runs (``walCheckpoint`` in wal.c), and
        leaves the log. Unlike another connection to the file, which would prevent the checkpoint too, this needs no descriptor.
        """
        if self._is_durable or not has_log(self._path):
            return
        try:
            self.make_durable(connection)
        except PersistenceConnectionError:
            connection.interrupt()
