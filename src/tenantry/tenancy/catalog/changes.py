"""Tells the cache of tenants' records whether the catalog has changed, also where the back end has no change token.

A SQLite file has a change token: the cache asks it before each use, and sees every commit at once. A database server has none, and a
question for each call would cost a trip. There the registry asks once in every ``catalog_poll_interval_seconds``, and the cache may
use what it read until a poll sees a change. So a change by another process is seen within `UNPOLLED_SECONDS_MAX`, and this process's
own changes are seen at once.

The delay is harmless to writes. An operation that ends a tenant's writes raises the epoch in the tenant's database, and the next write
with the older epoch is refused and looks into the catalog again.
"""

from collections.abc import Callable
from typing import Final

from tenantry.storage.protocol import ChangeToken

UNPOLLED_SECONDS_MAX: Final = 1.0
"""The age after which a poll's result no longer counts: then every call reads the catalog, until the next poll."""


class PolledChanges:
    """A change token that polls and this process's own writes change.

    Args:
        monotonic_seconds: The clock for the age of a poll's result.
    """

    def __init__(self, monotonic_seconds: Callable[[], float]) -> None:
        self._monotonic_seconds = monotonic_seconds
        self._polled_at_seconds = float("-inf")
        self.changes_by_others: int | None = None
        """The result of the last poll; None before the first poll."""
        self._own_writes = 0

    def token(self) -> ChangeToken | None:
        """Return the token; None if the last poll is too old. Records that were read before the last poll or write are then unusable."""
        is_old = self._monotonic_seconds() - self._polled_at_seconds > UNPOLLED_SECONDS_MAX
        if is_old or self.changes_by_others is None:
            return None
        return (self.changes_by_others, self._own_writes)

    def note_poll(self, changes_by_others: int, *, began_at_seconds: float) -> None:
        """Take the result of a poll. Only changes that were committed before the poll began are certainly in the result."""
        if began_at_seconds >= self._polled_at_seconds:
            self._polled_at_seconds = began_at_seconds
            self.changes_by_others = changes_by_others

    def note_write(self) -> None:
        """Note that a write of this process has ended, even if the write failed: the write may have been committed."""
        self._own_writes += 1
