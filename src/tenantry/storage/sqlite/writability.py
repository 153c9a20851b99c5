"""Finds a writer that SQLite could open for reading only.

Where opening a file for writing fails, for too many open files for example, SQLite opens it for reading without a word
(https://www.sqlite.org/c3ref/open.html). Every write through that connection fails until it is closed, which the catalog's is when
the process ends.
"""

import os
import sqlite3
from pathlib import Path

from tenantry.errors import PersistenceConnectionError
from tenantry.storage.sqlite.errors import is_read_only


def check_writable(
    path: Path, file_version: int, busy_timeout_seconds: float, connection: sqlite3.Connection
) -> None:
    """Refuse a connection that cannot write to a file that this process may write to.

    Args:
        path: The file.
        file_version: The database's ``user_version``.
        busy_timeout_seconds: The connection's.
        connection: The writer's, not in a transaction.

    Raises:
        PersistenceConnectionError: It cannot; the next opening most likely can.
    """
    busy_timeout = f"PRAGMA busy_timeout = {round(busy_timeout_seconds * 1000):d};"
    try:
        # Changes nothing, and is refused before anything is locked. BEGIN IMMEDIATE is not refused. As one script: at the end of each
        # call Python waits for its turn among all threads.
        connection.executescript(
            f"PRAGMA busy_timeout = 0; BEGIN; PRAGMA user_version = {file_version:d}; ROLLBACK; {busy_timeout}"
        )
    except sqlite3.OperationalError as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute(busy_timeout)
        # Whatever else is in the way, such as another process that writes, those who write will meet.
        if is_read_only(error) and os.access(path, os.W_OK):
            raise PersistenceConnectionError(
                f"SQLite could open {path} for reading only, although this process may write to it: try again; look for too many open "
                "files (ulimit -n) and at the disk",
                code=error.sqlite_errorname,
            ) from error
