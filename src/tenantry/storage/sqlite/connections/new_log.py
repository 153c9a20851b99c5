"""Makes the name of a new write-ahead log durable with the first commit in it.

SQLite creates the log's file when it opens a database, and syncs the directory when it syncs the log for the first time. It does not
check whether the sync of the directory failed (``unixSync`` in os_unix.c). A power failure can then remove the log's name, and with
it every commit in the log. So tenantry syncs the directory too, after the commit and before it is acknowledged. By then the file
system has written the name together with the log's content, and the sync costs almost nothing. Before the commit it would cost as
much as another commit.

Until the name is durable there may be no checkpoint: a power failure in the middle of a checkpoint would leave a database that is half old
and half new, without its log.
"""

import sqlite3
from pathlib import Path

from tenantry.errors import PersistenceConnectionError
from tenantry.files.durable_files import sync_foreign_directory
from tenantry.storage.sqlite.connections.opening import CHECKPOINT_PAGES, SQLiteOptions, open_reader
from tenantry.storage.sqlite.database_files.database_file import has_log, log_of


class NewLog:
    """The log of a writer that was opened without automatic checkpoints; used by the writer's jobs only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_durable = False

    def make_durable(self, connection: sqlite3.Connection) -> None:
        """Sync the name and turn automatic checkpoints of the writer on, between transactions; a no-op after the first success.

        Raises:
            PersistenceConnectionError: The disk failed. Call again after the next commit, and before a checkpoint.
        """
        if self._is_durable:
            return
        try:
            sync_foreign_directory(self._path.parent)
        except OSError as error:
            raise PersistenceConnectionError(
                f"cannot make the name of {log_of(self._path)} durable ({error}), so the write may or may not be kept: look at the disk, "
                "then try again"
            ) from error
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._is_durable = True

    def keeper(self, options: SQLiteOptions, connection: sqlite3.Connection) -> sqlite3.Connection | None:
        """Return a connection that prevents a checkpoint when the writer closes; None if the writer may checkpoint.

        SQLite checkpoints when the last connection closes, unless that one is read-only. Close this one after the writer.
        """
        if self._is_durable or not has_log(self._path):
            return None
        try:
            self.make_durable(connection)
        except PersistenceConnectionError:
            keeper = open_reader(options)
            keeper.execute("PRAGMA user_version").fetchone()  # SQLite opens the log at the first read
            return keeper
        return None
