"""The SQL functions that tenantry adds to every connection."""

import hashlib
import math
import sqlite3
from array import array
from typing import Final

from tenantry.storage.sqlite.connections.pace import PROCESS

DIGESTED_BYTES_MAX: Final = 64 * 2**20
"""The longest argument of `sha256`, of which Python holds a copy in memory."""

_VALUES_PER_LOOK: Final = (
    256  # calling `give_way_in_function` for each row would take 1 µs, longer than the addition
)


def add_functions(connection: sqlite3.Connection) -> None:
    """Add ``exact_sum`` and ``sha256``, which indexes and triggers of a schema may call."""
    connection.create_aggregate("exact_sum", 1, _ExactSum)  # type: ignore[arg-type]  # typeshed wants int
    connection.create_function("sha256", 1, _sha256, deterministic=True)


def _sha256(value: str | bytes) -> str:
    """Return the SHA-256 digest of a string's UTF-8 bytes, or of bytes, in hexadecimal."""
    PROCESS.give_way_in_function()
    content = value.encode("utf-8") if isinstance(value, str) else value
    if len(content) > DIGESTED_BYTES_MAX:
        raise ValueError(f"sha256 takes at most {DIGESTED_BYTES_MAX} bytes, not {len(content)}")
    return hashlib.sha256(content).hexdigest()


class _ExactSum:
    """The correctly rounded sum of a column (`math.fsum`); SQLite's own sum() rounds after every row."""

    def __init__(self) -> None:
        self._values = array("d")

    def step(self, value: float | None) -> None:
        if value is not None:
            self._values.append(value)
            if not len(self._values) % _VALUES_PER_LOOK:
                PROCESS.give_way_in_function()

    def finalize(self) -> float:
        try:
            return math.fsum(self._values)
        except OverflowError:
            # For an OverflowError SQLite would report a blob that is too big, and Python would print an exception that no caller can catch.
            return math.inf
