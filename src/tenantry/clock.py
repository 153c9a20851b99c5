"""The two clocks, as a parameter: tests and simulations bring their own."""

import time
from datetime import UTC, datetime
from typing import Final, Protocol


class Clock(Protocol):
    """What the core asks of time."""

    def monotonic_seconds(self) -> float:
        """Return seconds since an arbitrary moment; never goes back."""
        ...

    def now(self) -> datetime:
        """Return the present instant in UTC."""
        ...


class SystemClock:
    """The machine's clocks."""

    # A plain function, not a method around one: it is read twice for every call.
    monotonic_seconds = staticmethod(time.perf_counter)

    def now(self) -> datetime:
        """Return the present instant in UTC."""
        return datetime.now(UTC)


def as_text(instant: datetime) -> str:
    """Return an instant in UTC as the text that the catalog stores: of one width, so it can be compared."""
    return instant.isoformat(timespec="microseconds")


FIRST_INSTANT: Final = as_text(datetime.min.replace(tzinfo=UTC))
"""Before, or at, every instant that is stored."""
