"""Work 7: many more tenants than may be open, asked for by Zipf's law, nine reads to a write."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.comparison import Comparison, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.harness import Load, Work, compare
from benchmarks.many_calls import fleet_of, fleet_side, zipf_picks
from benchmarks.peers.limit import EIGHT_THREADS, fleet_limit
from benchmarks.peers.open_per_operation import open_fleet_per_operation
from benchmarks.peers.tenantry_registry import open_tenantry_fleet

_TENANTS, _QUICK_TENANTS = 5_000, 500
_POOL, _LARGE_POOL = 128, 512
_CURVE_TENANTS = (100, 500, 2_000, 5_000, 20_000)
_CURVE_ROUNDS = 3
_EXPONENT = 1.1
_CALLERS = 64
_READS = 0.9
_SECONDS_FACTOR = 2.0  # the pool has to fill first
_PEER = "open per operation"


def _setting(pool: int) -> str:
    return f"Zipf 1.1, pool of {pool}, {_CALLERS} callers"


def _run(load: Load) -> Sequence[Comparison]:
    load = replace(load, seconds=load.seconds * _SECONDS_FACTOR)
    tenants = _QUICK_TENANTS if load.is_quick else _TENANTS
    return [_compare(_setting(pool), tenants, pool, load, is_limited=True) for pool in (_POOL, _LARGE_POOL)]


def _curve(load: Load) -> Sequence[Comparison]:
    load = replace(load, rounds=min(load.rounds, _CURVE_ROUNDS))
    return [_compare(str(tenants), tenants, _POOL, load) for tenants in _CURVE_TENANTS]


def _compare(setting: str, tenants: int, pool: int, load: Load, *, is_limited: bool = False) -> Comparison:
    fleet = fleet_of(tenants, load)
    picks = partial(zipf_picks, fleet, _EXPONENT, _CALLERS)
    tenantry = by_engine(partial(open_tenantry_fleet, open_tenants_max=pool))
    sides = [
        fleet_side(name, open_fleet, fleet, picks, load, reads=_READS)
        for name, open_fleet in {**tenantry, _PEER: open_fleet_per_operation}.items()
    ]
    limit = fleet_limit(fleet, picks, load, reads=_READS, pool=pool) if is_limited else []
    return compare(setting, [*sides, *limit], load)


WORK = Work(
    number="7",
    title="5,000 tenants (--quick: 500), Zipf 1.1, 64 callers, 90% reads",
    run=_run,
    targets=(
        Target(_setting(_POOL), PYTHON, must=1),
        Target(_setting(_POOL), _PEER, must=3, reach=6),
        Target(_setting(_LARGE_POOL), PYTHON, must=1),
        Target(_setting(_LARGE_POOL), _PEER, must=4.5, reach=10),
        Target(_setting(_LARGE_POOL), EIGHT_THREADS, must=0.4, reach=0.7),
    ),
    curve=_curve,
    curve_axis="tenants, 128 of them open at most",
)
