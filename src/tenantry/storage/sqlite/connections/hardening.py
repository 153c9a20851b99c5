"""Limits what the schema of a database can make its connection do.

The schema of a database file is code: triggers, views, CHECK constraints, generated columns and expressions in indexes run
whenever the file is read, written or checked. https://www.sqlite.org/security.html lists SQLite's defences against a hostile
file. `harden` is for every connection. Call `confine` for a file whose schema has not been checked.

``trusted_schema`` stays on for the databases of tenants. With `trusted_schema` off, SQLite before 3.41 refuses ``json_valid`` in a
CHECK constraint, which many schemas use. The setting guards against functions with side effects; tenantry's functions have none.
"""

import math
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tenantry.storage.sqlite.connections.script import run_script
from tenantry.threads import is_cancelled

if TYPE_CHECKING:
    from types import ModuleType

PRAGMAS: Final = "PRAGMA cell_size_check = ON; PRAGMA cache_size = -2000;"
"""Every connection sets these before it reads anything else.

SQLite checks each page when it reads the page, so a damaged or forged page is found before it is used. The cache has SQLite's default
size of 2,000 KiB instead of the size in the file's header. Otherwise the header of a bundle could make each connection hold the whole
database in memory (https://www.sqlite.org/fileformat2.html, section 1.3.10).
"""

VALUE_BYTES_MAX: Final = 256 * 2**20
"""The largest text, blob or row of a foreign database, because SQLite holds each in memory."""

CHECK_SECONDS_MIN: Final = 60.0
CHECK_BYTES_PER_SECOND: Final = 4 * 2**20
"""The speed of a check on the slowest disk. A check that exceeds its limit spends time on more than reading the file."""

_OPS_PER_LOOK: Final = 20_000  # a few milliseconds
_CONFINED: Final = (
    (sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX),
    (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200),
    (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 50),
    (sqlite3.SQLITE_LIMIT_VDBE_OP, 1_000_000),
    (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
    (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 10),
    (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
    (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
)


class Watch:
    """A progress handler that stops a connection's statement after `seconds_max`, or when the work on this thread is cancelled.

    A stopped statement fails with SQLITE_INTERRUPT (https://www.sqlite.org/c3ref/progress_handler.html).
    """

    def __init__(self, seconds_max: float | None = None) -> None:
        self._ends_at_seconds = math.inf if seconds_max is None else time.monotonic() + seconds_max

    def watch(self, connection: sqlite3.Connection) -> None:
        """Install this progress handler on a connection. Call this method on the thread that uses the connection."""
        connection.set_progress_handler(self._is_over, _OPS_PER_LOOK)

    def _is_over(self) -> bool:
        return is_cancelled() or time.monotonic() > self._ends_at_seconds


def harden(connection: sqlite3.Connection, engine: "ModuleType | None" = None) -> None:
    """Apply the settings that every connection has; see `run_script` for the engine."""
    run_script(PRAGMAS, engine, connection)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)


def confine(connection: sqlite3.Connection) -> None:
    """Limit the work and the memory that a foreign database can demand of SQLite (https://www.sqlite.org/c3ref/limit.html).

    The database's schema can call only SQLite's own harmless functions (https://www.sqlite.org/pragma.html#pragma_trusted_schema).
    """
    connection.execute("PRAGMA trusted_schema = OFF")
    for limit, value in _CONFINED:
        connection.setlimit(limit, value)


def check_seconds_max(path: Path, seconds_min: float = CHECK_SECONDS_MIN) -> float:
    """Return the time limit for a check of the database, which grows with the file's size."""
    return seconds_min + path.stat().st_size / CHECK_BYTES_PER_SECOND
