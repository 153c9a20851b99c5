"""What the tests of idempotency keys share.

Import it by name (``tests/support`` is on pytest's path): ``from keyed_writes import keyed``.
"""

from datetime import datetime, timedelta

from samples import NOON
from tenantry.clock import SystemClock

RETENTION_SECONDS = 60.0


class MovedClock(SystemClock):
    """The machine's clocks, but for the time of day, which moves when told to."""

    def __init__(self) -> None:
        self._now = NOON

    def now(self) -> datetime:
        """Return the time of day."""
        return self._now

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)
