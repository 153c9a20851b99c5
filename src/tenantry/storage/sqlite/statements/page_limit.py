"""Limits the size of a database with SQLite's page limit, and names the limit in the error of a write that exceeds it.

SQLite never sets the limit below the database's current size (https://www.sqlite.org/pragma.html#pragma_max_page_count), so no
stored data is lost. SQLite reuses pages freed by deletes before the database grows.
"""

import os
import sqlite3
from pathlib import Path
from typing import Final, TypeVar

from tenantry.errors import PersistenceError, StorageFullError

T = TypeVar("T")

_PAGES_MAX: Final = 2**31 - 1  # no limit: the largest number that every version of the pragma accepts
_DISK_FREE_BYTES_MIN: Final = 1024 * 1024


def set_page_limit(database_bytes_max: int | None, connection: sqlite3.Connection) -> None:
    """Set the maximum size of the database, rounded down to whole pages; None sets SQLite's own maximum."""
    pages = _PAGES_MAX
    if database_bytes_max is not None:
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        pages = min(pages, database_bytes_max // page_bytes)
    connection.execute(f"PRAGMA max_page_count = {pages:d}").close()


def with_limit_named(outcome: T, doing: str, database_bytes_max: int | None, path: Path | None) -> T:
    """Return the outcome of a write; replace an error caused by the limit with an error that names the limit."""
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
        f"{doing}: the write would exceed {limit}: delete something, or raise the limit ({outcome.code})",
    )
    if isinstance(error, StorageFullError):
        error.limit, error.limit_value = "database_bytes_max", database_bytes_max
    return error


def _is_disk_full(path: Path) -> bool:
    """Return whether the disk is full; SQLite's error code is the same for a full disk and for the page limit.

    A full disk remains full after the write is rolled back, because the write-ahead log keeps its size.
    """
    try:
        found = os.statvfs(path.parent)
    except OSError:  # ignored, because other requests of the batch must get their outcomes
        return True
    return found.f_bavail * found.f_frsize < _DISK_FREE_BYTES_MIN
