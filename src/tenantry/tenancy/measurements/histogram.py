"""A histogram of plain integers, which one event changes in well under a microsecond."""

from bisect import bisect_left
from collections.abc import Sequence

from tenantry.tenancy.measurements.families import (
    Distribution,
    Example,
    Family,
    Kind,
    Labels,
    Measured,
)


class _Numbers:
    """The numbers for one set of label values. The examples are the values of `Example`, which takes twice as long to make as a tuple."""

    __slots__ = ("counts", "examples", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.examples: list[tuple[str, float, float] | None] = [None] * buckets
        self.total = 0.0


class Histogram:
    """A histogram with a fast method `observe`."""

    def __init__(self, name: str, documentation: str, labels: Labels, bounds: Sequence[float]) -> None:
        self._family = Family(Kind.HISTOGRAM, name, documentation, labels, tuple(bounds))
        self._bounds = self._family.bounds
        self._numbers: dict[Labels, _Numbers] = {}

    def observe(self, labels: Labels, value: float, tenant_id: str, at_seconds: float) -> None:
        """Count a value."""
        numbers = self._numbers.get(labels) or self._of(labels)
        bucket = bisect_left(self._bounds, value)
        numbers.counts[bucket] += 1
        numbers.total += value
        numbers.examples[bucket] = (tenant_id, value, at_seconds)

    def add(self, labels: Labels, other: Distribution) -> None:
        """Add the numbers of another histogram with the same bounds."""
        numbers = self._of(labels)
        numbers.counts = [one + another for one, another in zip(numbers.counts, other.counts, strict=True)]
        numbers.total += other.total
        numbers.examples = [
            max(one, another, key=_newest)
            for one, another in zip(numbers.examples, other.examples, strict=True)
        ]

    def series(self) -> dict[Labels, Distribution]:
        """Return a copy of the numbers, because a scrape and the events may run on different threads."""
        return {
            labels: Distribution(list(numbers.counts), numbers.total, [*map(_example, numbers.examples)])
            for labels, numbers in list(self._numbers.items())
        }

    def measured(self) -> Measured:
        """Return the family with its numbers."""
        return Measured(self._family, self.series())

    def _of(self, labels: Labels) -> _Numbers:
        numbers = self._numbers.get(labels)
        if numbers is None:
            numbers = self._numbers[labels] = _Numbers(len(self._bounds) + 1)
        return numbers


def _example(values: tuple[str, float, float] | None) -> Example | None:
    return None if values is None else Example(*values)


def _newest(example: tuple[str, float, float] | None) -> float:
    return 0.0 if example is None else example[2]
