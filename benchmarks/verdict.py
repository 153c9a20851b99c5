"""Whether a work's targets were met."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.comparison import Comparison, Measure, Spread, Target
from benchmarks.harness import Work


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a work gave."""

    name: str
    work: Work
    comparisons: Sequence[Comparison]
    curve: Sequence[Comparison] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a target.

    Attributes:
        target: The target.
        subject: The side that was held against the target's.
        ratio: The median over the rounds is what counts; the quartiles say how much it is worth.
        errors: Calls of the subject that failed: with any nothing is met.
    """

    target: Target
    subject: str
    ratio: Spread
    errors: int

    @property
    def is_met(self) -> bool:
        """Whether it is what it must be."""
        return not self.errors and self._reaches(self.target.must)

    @property
    def is_reached(self) -> bool:
        """Whether it is what it should reach for."""
        return not self.errors and self.target.reach is not None and self._reaches(self.target.reach)

    @property
    def words(self) -> str:
        """``met``, ``reached`` or ``NOT MET``."""
        if self.errors:
            return f"NOT MET, {self.errors} errors"
        return "reached" if self.is_reached else "met" if self.is_met else "NOT MET"

    def _reaches(self, wanted: float) -> bool:
        return self.ratio.median >= wanted if self._more_is_better else self.ratio.median <= wanted

    @property
    def _more_is_better(self) -> bool:
        return self.target.measure.more_is_better


def judge(targets: Sequence[Target], comparisons: Sequence[Comparison]) -> list[Verdict]:
    """Return what became of the targets whose sides were measured."""
    by_setting = {comparison.setting: comparison for comparison in comparisons}
    verdicts: list[Verdict] = []
    for target in targets:
        comparison = by_setting.get(target.setting)
        if comparison is None:
            continue
        ratio = comparison.spread(target)
        if ratio is not None:
            subject = comparison.subject
            verdicts.append(Verdict(target, subject, ratio, comparison.errors(subject)))
    return verdicts


def bound(value: float | None, measure: Measure) -> str:
    """Return ``≥ 10`` or ``≤ 1.1``."""
    if value is None:
        return "-"
    return f"{'≥' if measure.more_is_better else '≤'} {value:.3g}"
