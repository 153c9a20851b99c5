"""Work 29: what a call costs by the number of tenants, up to 50,000, asked for by Zipf's law; a pool of 512, nine reads to a write."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.comparison import Comparison, Measure, Target
from benchmarks.engines import PYTHON
from benchmarks.harness import Load, Work
from benchmarks.zipf import ZIPF_CALLERS, compare_zipf

_TENANTS = (100, 1_000, 10_000, 50_000)
_ROUNDS_MAX = 3
_POOL = 512
_SECONDS_FACTOR = 2.0  # the pool has to fill first


def _run(load: Load) -> Sequence[Comparison]:
    """Compare at the sizes that fit the pool and that do not; the larger ones are points of the curve only."""
    return [_compare(tenants, load) for tenants in _TENANTS[:2]]


def _curve(load: Load) -> Sequence[Comparison]:
    return [Comparison(str(tenants), _compare(tenants, load).samples) for tenants in _TENANTS]


def _compare(tenants: int, load: Load) -> Comparison:
    """Compare once at each size: the first sizes are points of the curve, too."""
    longer = replace(load, rounds=min(load.rounds, _ROUNDS_MAX), seconds=load.seconds * _SECONDS_FACTOR)
    setting = _setting(tenants)
    return load.once(setting, lambda: compare_zipf(setting, tenants, _POOL, longer))


def _setting(tenants: int) -> str:
    return f"{tenants:,} tenants"


WORK = Work(
    number="29",
    title=f"100 to 50,000 tenants, Zipf 1.1, pool of {_POOL}, {ZIPF_CALLERS} callers, 90% reads",
    run=_run,
    targets=tuple(
        Target(_setting(tenants), PYTHON, must=1, measure=measure)
        for tenants in _TENANTS[:2]
        for measure in (Measure.RATE, Measure.CPU)
    ),
    curve=_curve,
    curve_axis=f"tenants, {_POOL} of them open at most",
)
