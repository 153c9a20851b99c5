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
    return [_point(_setting(tenants), tenants, load) for tenants in _TENANTS[:2]]


def _curve(load: Load) -> Sequence[Comparison]:
    return [_point(str(tenants), tenants, load) for tenants in _TENANTS]


def _point(setting: str, tenants: int, load: Load) -> Comparison:
    rounds = min(load.rounds, _ROUNDS_MAX)
    return compare_zipf(
        setting, tenants, _POOL, replace(load, rounds=rounds, seconds=load.seconds * _SECONDS_FACTOR)
    )


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
