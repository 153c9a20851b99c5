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


def check_writable(path: Path, file_version: int, connection: sqlite3.Connection) -> None:
    """Refuse a connection that cannot write to a file that this process may write to.

    Args:
        path: The file.
        file_version: The database's ``user_version``.
        connection: The writer's, not in a transaction.

    Raises:
        PersistenceConnectionError: It cannot; the next opening most likely can.
    """
    (busy_milliseconds,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        # Changes nothing, and is refused before anything is locked. BEGIN IMMEDIATE is not refused.
        connection.execute("BEGIN")
        connection.execute(f"PRAGMA user_version = {file_version:d}")
    except sqlite3.OperationalError as error:
        # Whatever else is in the way, such as another process that writes, those who write will meet.
        if is_read_only(error) and os.access(path, os.W_OK):
            raise PersistenceConnectionError(
                f"SQLite could open {path} for reading only, although this process may write to it: try again; look for too many open "
                "files (ulimit -n) and at the disk",
                code=error.sqlite_errorname,
            ) from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute(f"PRAGMA busy_timeout = {busy_milliseconds:d}")
