"""Detects a writer whose file SQLite could only open for reading.

If SQLite cannot open a file for writing, for example with too many open files, it opens the file for reading without an error
(https://www.sqlite.org/c3ref/open.html). Every write through such a connection fails, and the catalog's connection is closed only when
the process ends.
"""

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from tenantry.errors import PersistenceConnectionError
from tenantry.storage.sqlite.connections.script import run_script
from tenantry.storage.sqlite.errors import is_read_only

if TYPE_CHECKING:
    from types import ModuleType


def check_writable(
    path: Path,
    file_version: int,
    busy_timeout_seconds: float,
    connection: sqlite3.Connection,
    engine: "ModuleType | None" = None,
) -> None:
    """Raise `PersistenceConnectionError` if the connection cannot write, outside a transaction, to a file that this process may write."""
    busy_timeout = f"PRAGMA busy_timeout = {round(busy_timeout_seconds * 1000):d};"
    try:
        # Setting user_version to its current value changes nothing, but a read-only connection refuses this before it takes a
        # lock. BEGIN IMMEDIATE would not be refused.
        run_script(
            f"PRAGMA busy_timeout = 0; BEGIN; PRAGMA user_version = {file_version:d}; ROLLBACK; {busy_timeout}",
            engine,
            connection,
        )
    except sqlite3.OperationalError as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute(busy_timeout)
        # Later writes report other obstacles themselves, for example another process that writes.
        if is_read_only(error) and os.access(path, os.W_OK):
            raise PersistenceConnectionError(
                f"SQLite opened {path} for reading only, although this process may write to the file: try again; check the limit of open "
                "files (ulimit -n) and the disk",
                code=error.sqlite_errorname,
            ) from error
