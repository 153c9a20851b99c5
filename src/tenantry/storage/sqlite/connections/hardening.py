"""Limits what the schema of a database can make its connection do.

The schema of a database file is code: triggers, views, CHECK constraints, generated columns and expressions in indexes run
whenever the file is read, written or checked. https://www.sqlite.org/security.html lists SQLite's defences against a hostile
file. `harden` is for every connection. `confine` is for a file whose schema was not checked yet.

``trusted_schema`` stays on for the databases of tenants. If it is off, SQLite before 3.41 refuses even ``json_valid`` in a CHECK,
which many schemas have. It would protect against functions with side effects, and connections here have none.
"""

import math
import sqlite3
import time
from pathlib import Path
from typing import Final

from tenantry.threads import is_cancelled

PRAGMAS: Final = "PRAGMA cell_size_check = ON; PRAGMA cache_size = -2000;"
"""Every connection sets these before it reads anything else.

Pages are checked when they are read, so that a damaged or forged page is found before it is used. The cache has SQLite's default of
2,000 KiB and not the size in the file's header: otherwise the header of a bundle could make each connection hold its whole database in
memory (https://www.sqlite.org/fileformat2.html, section 1.3.10).
"""

VALUE_BYTES_MAX: Final = 256 * 2**20
"""The largest text, blob or row of a foreign database: each is held in memory."""

CHECK_SECONDS_MIN: Final = 60.0
CHECK_BYTES_PER_SECOND: Final = 4 * 2**20
"""The speed of a check on the slowest disk. A check that takes longer than these two allow is not only reading."""

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
    """A progress handler that stops a connection's statement: at a deadline, or when the work on this thread is cancelled.

    A statement that is stopped fails with SQLITE_INTERRUPT (https://www.sqlite.org/c3ref/progress_handler.html).

    Args:
        seconds_max: How long the connection may work; None: no deadline.
    """

    def __init__(self, seconds_max: float | None = None) -> None:
        self._ends_at_seconds = math.inf if seconds_max is None else time.monotonic() + seconds_max

    def watch(self, connection: sqlite3.Connection) -> None:
        """Watch a connection from now on; must be called on the thread that uses the connection."""
        connection.set_progress_handler(self._is_over, _OPS_PER_LOOK)

    def _is_over(self) -> bool:
        return is_cancelled() or time.monotonic() > self._ends_at_seconds


def harden(connection: sqlite3.Connection) -> None:
    """Apply the settings of every connection."""
    connection.executescript(PRAGMAS)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)


def confine(connection: sqlite3.Connection) -> None:
    """Limit what a foreign database can make SQLite run or hold in memory (https://www.sqlite.org/c3ref/limit.html).

    Its schema calls only SQLite's own harmless functions (https://www.sqlite.org/pragma.html#pragma_trusted_schema).
    """
    connection.execute("PRAGMA trusted_schema = OFF")
    for limit, value in _CONFINED:
        connection.setlimit(limit, value)


def check_seconds_max(path: Path, seconds_min: float = CHECK_SECONDS_MIN) -> float:
    """Return how long the check of a database of this size may take."""
    return seconds_min + path.stat().st_size / CHECK_BYTES_PER_SECOND
