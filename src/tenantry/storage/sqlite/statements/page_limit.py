"""How large a database may grow: SQLite's own limit of pages, and the error of a write that exceeds it.

https://www.sqlite.org/pragma.html#pragma_max_page_count. SQLite does not lower it below the size of the
database, so no stored data is lost. Pages that a delete freed are used again before the database grows.
"""

import os
import sqlite3
from pathlib import Path
from typing import Final, TypeVar

from tenantry.errors import PersistenceError, StorageFullError

T = TypeVar("T")

_PAGES_MAX: Final = 2**31 - 1  # no limit: the most that every version of the pragma can read
_DISK_FREE_BYTES_MIN: Final = 1024 * 1024


def set_page_limit(database_bytes_max: int | None, connection: sqlite3.Connection) -> None:
    """Set how many bytes the database may grow to, in whole pages; None: as far as SQLite can."""
    pages = _PAGES_MAX
    if database_bytes_max is not None:
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        pages = min(pages, database_bytes_max // page_bytes)
    connection.execute(f"PRAGMA max_page_count = {pages:d}").close()


def with_limit_named(outcome: T, doing: str, database_bytes_max: int | None, path: Path | None) -> T:
    """Return the outcome of a write; if it is an error because of the limit, return one that names the limit."""
    if (
        database_bytes_max is None
        or not isinstance(outcome, PersistenceError)
        or outcome.code != "SQLITE_FULL"
    ):
        return outcome
    if path is not None and _is_disk_full(path):
        return outcome
    error = outcome.for_another_caller()
    limit = f"database_bytes_max ({database_bytes_max} bytes)"
    error.args = (
        f"{doing}: {limit} has no room for this: delete something, or raise the limit ({outcome.code})",
    )
    if isinstance(error, StorageFullError):
        error.limit, error.limit_value = "database_bytes_max", database_bytes_max
    return error


def _is_disk_full(path: Path) -> bool:
    """Return whether the disk is full: SQLite has one code for that and for its limit of pages.

    A full disk stays full when the write is undone, for the write-ahead log keeps its size.
    """
    try:
        found = os.statvfs(path.parent)
    except OSError:  # the other requests of the batch must still get their outcomes
        return True
    return found.f_bavail * found.f_frsize < _DISK_FREE_BYTES_MIN
