"""The version of the SQLite library that Python is linked to."""

import sqlite3
from typing import Final

from tenantry.eventlog import EventLog

SQLITE_VERSION: Final = sqlite3.sqlite_version
"""The version, for example ``3.46.1``."""

SQLITE_VERSION_LOGGED: Final = "tenantry.sqlite.version"

# The bug is fixed in these two versions and from 3.51.3 on (https://www.sqlite.org/wal.html, section 11).
_WAL_FIXED_FROM: Final = (3, 51, 3)
_WAL_FIXED_ALSO: Final = {(3, 44, 6), (3, 50, 7)}


def has_wal_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Return whether a version of SQLite has the WAL-reset bug. A single writer per file avoids the bug."""
    return version < _WAL_FIXED_FROM and version not in _WAL_FIXED_ALSO


def log_sqlite_version(log: EventLog) -> None:
    """Log SQLite's version, and whether that version has the WAL-reset bug."""
    log.info(SQLITE_VERSION_LOGGED, version=SQLITE_VERSION, has_wal_reset_bug=has_wal_reset_bug())
