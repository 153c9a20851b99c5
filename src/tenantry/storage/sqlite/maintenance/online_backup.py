"""Copies a database that other connections may write to.

A copy blocks for a time that grows with the size of the database; each copy runs on its own thread.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from tenantry.files.disk_space import check_copy_fits
from tenantry.files.durable_files import sync_file
from tenantry.storage.sqlite.database_files.database_file import remove_database
from tenantry.storage.sqlite.moves.tables import find_journal, remove_journal
from tenantry.threads import check_cancelled

_PAGES_PER_STEP: Final = 256

Progress = Callable[[int, int], None]
"""A callback with the number of remaining pages and the number of all pages. An exception from the callback stops the copy."""


def copy_database(source: sqlite3.Connection, target: Path, progress: Progress | None = None) -> None:
    """Write a consistent copy of an open database into a new file, durably. Other connections may write during the copy.

    The copy uses SQLite's online backup (https://www.sqlite.org/backup.html) in a read transaction. So the copy is the state of
    one moment, does not wait for the writer, and does not restart when the writer commits. The write-ahead log cannot be truncated
    during the copy.

    Raises:
        sqlite3.Error: SQLite failed; no file is left.
        StorageFullError: The disk has too little space for the copy and for other writes; no file is left.
        OSError: The file cannot be synced; no file is left.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        source.execute("BEGIN")
        try:
            has_journal = find_journal(source)
            (page_bytes,) = source.execute("PRAGMA page_size").fetchone()

            def go_on(_status: int, left: int, total: int) -> None:
                check_cancelled()
                check_copy_fits(target.parent, left * page_bytes, total * page_bytes)
                if progress is not None:
                    progress(left, total)

            with closing(sqlite3.connect(target, isolation_level=None)) as connection:
                # No single write needs a sync, because the whole file is synced at the end.
                connection.execute("PRAGMA synchronous = OFF")
                source.backup(connection, pages=_PAGES_PER_STEP, progress=go_on)
                if has_journal:
                    # A copy that is made during a move must not record its own changes.
                    remove_journal(connection)
        finally:
            if source.in_transaction:  # a disk error may have ended the transaction
                source.execute("ROLLBACK")
        sync_file(target)
    except BaseException:
        remove_database(target)
        raise
