"""The plain form of metrics: families of numbers by label values. This form is also sent between processes."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Labels: TypeAlias = tuple[str, ...]


class Kind(enum.Enum):
    """The kinds of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """The description of a metric.

    Attributes:
        name: The name; the name of a counter is without ``_total``.
        labels: The names of the labels.
        bounds: The upper bounds of a histogram's buckets, without the last bucket, which has no bound.
    """

    kind: Kind
    name: str
    documentation: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()


class Example(NamedTuple):
    """The newest value in one bucket of a histogram, and its tenant."""

    tenant_id: str
    value: float
    at_seconds: float


class Distribution(NamedTuple):
    """The numbers of a histogram for one set of label values.

    Attributes:
        counts: The number of values in each bucket; the last bucket has no upper bound.
        total: The sum of all values.
        examples: The newest value of each bucket; None for an empty bucket.
    """

    counts: list[int]
    total: float
    examples: list[Example | None]


Value: TypeAlias = float | Distribution
Series: TypeAlias = Mapping[Labels, Value]


class Measured(NamedTuple):
    """A family with its numbers, by label values."""

    family: Family
    series: Series


def counter(name: str, documentation: str, series: Mapping[Labels, float], *labels: str) -> Measured:
    """Return a counter."""
    return Measured(Family(Kind.COUNTER, name, documentation, labels), series)


def gauge(name: str, documentation: str, series: Mapping[Labels, float], *labels: str) -> Measured:
    """Return a gauge."""
    return Measured(Family(Kind.GAUGE, name, documentation, labels), series)


def number(name: str, documentation: str, value: float | None) -> Measured:
    """Return a gauge without labels; without a series if the value is None."""
    return gauge(name, documentation, {} if value is None else {(): value})


def by(counts: Mapping[str, float]) -> dict[Labels, float]:
    """Return the series of a family with one label from a mapping of the label's values."""
    return {(str(label),): value for label, value in counts.items()}
