"""The clock that the core reads; tests and simulations can pass their own clock."""

import time
from datetime import UTC, datetime
from typing import Final, Protocol


class Clock(Protocol):
    """The clock that the core reads."""

    def monotonic_seconds(self) -> float:
        """Return the seconds since an arbitrary moment; the number never decreases."""

    def now(self) -> datetime:
        """Return the present instant in UTC."""


class SystemClock:
    """The machine's clocks."""

    # Every call to a tenant reads the clock twice, so this is the function itself and not a slower method that calls it.
    monotonic_seconds = staticmethod(time.perf_counter)

    def now(self) -> datetime:
        """Return the present instant in UTC."""
        return datetime.now(UTC)


def as_text(instant: datetime) -> str:
    """Return an instant in UTC as a string for the catalog. All such strings have the same length, so they sort by time."""
    return instant.isoformat(timespec="microseconds")


FIRST_INSTANT: Final = as_text(datetime.min.replace(tzinfo=UTC))
"""The earliest instant that can be stored."""
