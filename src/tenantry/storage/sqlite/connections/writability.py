"""Detects a writer that SQLite could only open for reading.

If a file cannot be opened for writing, for example with too many open files, SQLite opens it for reading without an error
(https://www.sqlite.org/c3ref/open.html). Every write through that connection fails until it is closed, and the catalog's
connection is closed only when the process ends.
"""

import os
import sqlite3
from pathlib import Path

from tenantry.errors import PersistenceConnectionError
from tenantry.storage.sqlite.errors import is_read_only


def check_writable(
    path: Path, file_version: int, busy_timeout_seconds: float, connection: sqlite3.Connection
) -> None:
    """Raise `PersistenceConnectionError` if a writer, not in a transaction, cannot write to a file that this process may write to."""
    busy_timeout = f"PRAGMA busy_timeout = {round(busy_timeout_seconds * 1000):d};"
    try:
        # Has no effect, and is refused before a lock is taken; BEGIN IMMEDIATE would not be refused. As one script: after
        # each call Python waits for the interpreter lock.
        connection.executescript(
            f"PRAGMA busy_timeout = 0; BEGIN; PRAGMA user_version = {file_version:d}; ROLLBACK; {busy_timeout}"
        )
    except sqlite3.OperationalError as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute(busy_timeout)
        # Other obstacles, such as another process that writes, are reported by the writes themselves.
        if is_read_only(error) and os.access(path, os.W_OK):
            raise PersistenceConnectionError(
                f"SQLite could open {path} for reading only, although this process may write to it: try again; look for too many open "
                "files (ulimit -n) and at the disk",
                code=error.sqlite_errorname,
            ) from error
