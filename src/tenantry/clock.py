"""The clock that the core reads; tests and simulations can pass their own clock."""

import time
from datetime import UTC, datetime
from typing import Final, Protocol


class Clock(Protocol):
    """The clock that the core reads."""

    def monotonic_seconds(self) -> float:
        """Return the seconds since an arbitrary moment; the number never decreases."""

    def now(self) -> datetime:
        """Return the current time in UTC."""


class SystemClock:
    """The machine's clocks."""

    # This attribute is the function itself, because every call to a tenant reads the clock twice and a method would be slower.
    monotonic_seconds = staticmethod(time.perf_counter)

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)


def as_text(instant: datetime) -> str:
    """Return an instant in UTC as a string for the catalog. All such strings have the same length, so they sort by time."""
    return instant.isoformat(timespec="microseconds")


FIRST_INSTANT: Final = as_text(datetime.min.replace(tzinfo=UTC))
"""The earliest instant that can be stored."""
