"""Work 7: many more tenants than may be open, asked for by Zipf's law, nine reads to a write."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.comparison import Comparison, Target
from benchmarks.harness import Load, Work, compare
from benchmarks.many_calls import fleet_of, fleet_side, zipf_picks
from benchmarks.peers import OpenFleet
from benchmarks.peers.open_per_operation import open_fleet_per_operation
from benchmarks.peers.tenantry_registry import open_tenantry_fleet

_TENANTS, _QUICK_TENANTS = 5_000, 500
_CURVE_TENANTS = (100, 500, 2_000, 5_000, 20_000)
_CURVE_ROUNDS = 3
_EXPONENT = 1.1
_CALLERS = 64
_READS = 0.9
_SECONDS_FACTOR = 2.0  # the pool has to fill first
_SETTING = "Zipf 1.1, pool of 128, 64 callers"
_PEER = "open per operation"
_OPENED_BY: dict[str, OpenFleet] = {
    "tenantry": partial(open_tenantry_fleet, open_tenants_max=128),
    _PEER: open_fleet_per_operation,
}


def _run(load: Load) -> Sequence[Comparison]:
    load = replace(load, seconds=load.seconds * _SECONDS_FACTOR)
    return [_compare(_SETTING, _QUICK_TENANTS if load.is_quick else _TENANTS, load)]


def _curve(load: Load) -> Sequence[Comparison]:
    load = replace(load, rounds=min(load.rounds, _CURVE_ROUNDS))
    return [_compare(str(tenants), tenants, load) for tenants in _CURVE_TENANTS]


def _compare(setting: str, tenants: int, load: Load) -> Comparison:
    fleet = fleet_of(tenants, load)
    picks = partial(zipf_picks, fleet, _EXPONENT, _CALLERS)
    sides = [
        fleet_side(name, open_fleet, fleet, picks, load, reads=_READS)
        for name, open_fleet in _OPENED_BY.items()
    ]
    return compare(setting, sides, load)


WORK = Work(
    number="7",
    title="5,000 tenants (--quick: 500), Zipf 1.1, pool of 128, 64 callers, 90% reads",
    run=_run,
    targets=(Target(_SETTING, _PEER, must=3, reach=6),),
    curve=_curve,
    curve_axis="tenants, 128 of them open at most",
)
