"""What a database may make its connection do: less than SQLite allows by default.

The schema of a database file is code: triggers, views, CHECK constraints, generated columns and expressions in indexes run
whenever somebody reads, writes or checks the file. https://www.sqlite.org/security.html lists SQLite's means against a hostile
file. `harden` is for every connection. `confine` is for a file whose schema was not yet compared with what it should be.

``trusted_schema`` stays on for the databases of tenants. Turned off, SQLite before 3.41 refuses even ``json_valid`` in a CHECK,
which many schemas have, and a function that it would keep a schema from calling is missing here: none has a side effect.
"""

import math
import sqlite3
import time
from pathlib import Path
from typing import Final

from tenantry.threads import is_cancelled

PRAGMAS: Final = "PRAGMA cell_size_check = ON; PRAGMA cache_size = -2000;"
"""What every connection sets before it reads anything else.

Pages are looked at when they are read, so that a damaged or forged one is found before it is used. The cache has 2,000 KiB, as by
default, whatever the file's header says: otherwise the header of a bundle could let each connection hold its whole database in
memory (https://www.sqlite.org/fileformat2.html, section 1.3.10).
"""

VALUE_BYTES_MAX: Final = 256 * 2**20
"""How large a text, a blob or a row of a foreign database may be: each is held in memory."""

CHECK_SECONDS_MIN: Final = 60.0
CHECK_BYTES_PER_SECOND: Final = 4 * 2**20
"""How fast the slowest disk checks a database. A check that takes longer than the two allow does something else."""

_OPS_PER_LOOK: Final = 20_000  # some milliseconds
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
        seconds_max: How long the connection may work; None: until it is cancelled.
    """

    def __init__(self, seconds_max: float | None = None) -> None:
        self._ends_at_seconds = math.inf if seconds_max is None else time.monotonic() + seconds_max

    def watch(self, connection: sqlite3.Connection) -> None:
        """Watch a connection from now on. The thread that calls this is the one that works."""
        connection.set_progress_handler(self._is_over, _OPS_PER_LOOK)

    def _is_over(self) -> bool:
        return is_cancelled() or time.monotonic() > self._ends_at_seconds


def harden(connection: sqlite3.Connection) -> None:
    """Set what every connection to a database has."""
    connection.executescript(PRAGMAS)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)


def confine(connection: sqlite3.Connection) -> None:
    """Limit what a foreign database can make SQLite run or hold in memory (https://www.sqlite.org/c3ref/limit.html).

    Its schema calls only SQLite's own harmless functions (https://www.sqlite.org/pragma.html#pragma_trusted_schema).
    """
    connection.execute("PRAGMA trusted_schema = OFF")
    for limit, value in _CONFINED:
        connection.setlimit(limit, value)


def check_seconds_max(path: Path) -> float:
    """Return how long the check of a database of this size may take."""
    return CHECK_SECONDS_MIN + path.stat().st_size / CHECK_BYTES_PER_SECOND
