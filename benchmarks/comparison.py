"""What was measured of a side in a round, how two sides compare over the rounds, and what that should be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import quantiles
from typing import Any, Self

ITSELF = "itself"
"""The side of a target that is no ratio; see `Target`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One side in one round.

    Attributes:
        calls: Answered in `seconds`.
        p50_seconds: Of a call as its caller saw it; None where there are no callers.
        p99_seconds: The same.
        errors: Calls that failed, and `first_error` in words.
        bytes_each: Where memory is measured: of one open tenant.
        cpu_seconds: The processor time of all calls, in this process and in the server or the child that works for it.
        gc_seconds: How long the garbage collector held everything up, out of `seconds`.
        gc_collections: How often.
        durability: As read back from the connection that writes; None where nothing is written.
        details: Whatever else the JSON should say.
    """

    calls: int
    seconds: float
    p50_seconds: float | None = None
    p99_seconds: float | None = None
    errors: int = 0
    first_error: str | None = None
    bytes_each: float | None = None
    cpu_seconds: float | None = None
    gc_seconds: float = 0.0
    gc_collections: int = 0
    durability: dict[str, Any] | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, latencies: Sequence[float], seconds: float, **others: Any) -> Self:
        """Return the sample of these latencies; at least one."""
        ordered = sorted(latencies)
        calls = len(ordered)
        return cls(calls, seconds, ordered[calls // 2], ordered[calls * 99 // 100], **others)

    @property
    def calls_per_second(self) -> float:
        """The rate."""
        return self.calls / self.seconds


class Measure(Enum):
    """What of two samples is compared."""

    RATE = "rate"
    P50 = "p50"
    P99 = "p99"
    BYTES = "bytes"
    CPU = "cpu"

    @property
    def more_is_better(self) -> bool:
        """Whether a ratio should be high."""
        return self is Measure.RATE

    def of(self, sample: Sample) -> float | None:
        """Return it."""
        match self:
            case Measure.RATE:
                return sample.calls_per_second
            case Measure.P50:
                return sample.p50_seconds
            case Measure.P99:
                return sample.p99_seconds
            case Measure.BYTES:
                return sample.bytes_each
            case Measure.CPU:
                return None if sample.cpu_seconds is None else sample.cpu_seconds / sample.calls


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the quartiles and extremes that say how much it is worth."""

    median: float
    lower_quartile: float
    upper_quartile: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """Return the spread of the values that there are, if any."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        # One round has no quartiles; its value stands for them.
        lower, middle, upper = quantiles(known, n=4, method="inclusive") if len(known) > 1 else known * 3
        return cls(middle, lower, upper, min(known), max(known))


@dataclass(frozen=True, slots=True)
class Comparison:
    """All samples of one setting, by side and in the order of the rounds; the first side is what others are held against."""

    setting: str
    samples: dict[str, list[Sample]]

    @property
    def subject(self) -> str:
        """The side that is held against the others."""
        return next(iter(self.samples))

    def value(self, measure: Measure, side: str) -> Spread | None:
        """Return a side's own."""
        return Spread.of([measure.of(sample) for sample in self.samples[side]])

    def ratio(self, measure: Measure, side: str) -> Spread | None:
        """Return the subject's as a multiple of a side's, within each round."""
        pairs = zip(self.samples[self.subject], self.samples[side], strict=True)
        return Spread.of([_ratio(measure.of(ours), measure.of(theirs)) for ours, theirs in pairs])

    def spread(self, target: "Target") -> Spread | None:
        """Return what a target asks for; None if its side was not measured, or is the subject."""
        if target.side == ITSELF:
            return self.value(target.measure, self.subject)
        if target.side == self.subject:
            return None
        return self.ratio(target.measure, target.side) if target.side in self.samples else None

    def errors(self, side: str) -> int:
        """Return how many calls failed in all rounds."""
        return sum(sample.errors for sample in self.samples[side])


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio must be, and what to reach for.

    Attributes:
        setting: Of which comparison.
        side: The subject is held against this one; with `ITSELF` its own value counts, in seconds, bytes or calls per second.
        must: At least, or at most where less is better.
        reach: The same.
        measure: What is compared.
    """

    setting: str
    side: str
    must: float
    reach: float | None = None
    measure: Measure = Measure.RATE


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
