"""Copies a database while others write to it.

The copy blocks for as long as the database is large; it runs on a thread of its own.
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
from tenantry.threads import check_cancelled

_PAGES_PER_STEP: Final = 256

Progress = Callable[[int, int], None]
"""Called with the number of pages left and of all pages; raising ends the copy."""


def copy_database(source: sqlite3.Connection, target: Path, progress: Progress | None = None) -> None:
    """Write a consistent copy of an open database into a new file, durably, while others write to the database.

    SQLite's online backup (https://www.sqlite.org/backup.html). A read transaction pins the source: the copy
    neither waits for the writer nor restarts when it commits, and is the state of one moment. The write-ahead log cannot be
    truncated meanwhile.

    Raises:
        sqlite3.Error: SQLite refused; no file is left.
        StorageFullError: It would leave too little space for writes; no file is left.
        OSError: The file cannot be made durable.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        source.execute("BEGIN")
        try:
            source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            (page_bytes,) = source.execute("PRAGMA page_size").fetchone()

            def go_on(_status: int, left: int, total: int) -> None:
                check_cancelled()
                check_copy_fits(target.parent, left * page_bytes, total * page_bytes)
                if progress is not None:
                    progress(left, total)

            with closing(sqlite3.connect(target, isolation_level=None)) as connection:
                # A partial copy is never used: the whole file is synced at the end.
                connection.execute("PRAGMA synchronous = OFF")
                source.backup(connection, pages=_PAGES_PER_STEP, progress=go_on)
        finally:
            if source.in_transaction:  # a disk error may have ended it
                source.execute("ROLLBACK")
        sync_file(target)
    except BaseException:
        remove_database(target)
        raise
