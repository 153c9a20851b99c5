"""Measures a registry: counts its events, and reads its current state at a scrape."""

from collections.abc import Callable, Iterator

from tenantry.tenancy.hooks import Hooks
from tenantry.tenancy.measurements.event_counts import EventCounts
from tenantry.tenancy.measurements.families import Measured
from tenantry.tenancy.measurements.process_numbers import process_numbers
from tenantry.tenancy.measurements.state_numbers import state_numbers
from tenantry.tenancy.statistics import RegistryStatistics


class Measurements:
    """The numbers of one registry.

    Counting costs a few microseconds for each batch. It therefore begins only when somebody wants the numbers.
    """

    def __init__(self, hooks: Hooks, statistics: Callable[[], RegistryStatistics]) -> None:
        self._hooks = hooks
        self._statistics = statistics
        self._counts: EventCounts | None = None

    def start(self) -> EventCounts:
        """Count the events from now on; idempotent."""
        if self._counts is None:
            self._counts = EventCounts()
            self._hooks.add(self._counts.observe)
        return self._counts

    def measured(self) -> list[Measured]:
        """Return all families with their numbers. The first call begins the counting if `start` has not."""
        return list(all_numbers(self.start(), self._statistics()))


def all_numbers(counts: EventCounts, statistics: RegistryStatistics) -> Iterator[Measured]:
    """Yield all families with their numbers."""
    yield from counts.measured()
    yield from state_numbers(statistics, counts.forwarded_calls())
    yield from process_numbers()
