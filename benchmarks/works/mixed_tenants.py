"""Work 5: 64 tenants with one caller each, half of the calls reads: nobody shares a commit with anybody."""

from collections.abc import Sequence
from functools import partial

from benchmarks.comparison import Comparison, Target
from benchmarks.harness import Load, Work, compare
from benchmarks.many_calls import fleet_of, fleet_side, own_picks
from benchmarks.peers import OpenFleet
from benchmarks.peers.aiosqlite_unlimited import open_fleet_unlimited
from benchmarks.peers.tenantry_registry import open_tenantry_fleet

_TENANTS = 64
_SETTING = f"{_TENANTS} tenants, 1 caller each"
_PEER = "aiosqlite per tenant"
_OPENED_BY: dict[str, OpenFleet] = {"tenantry": open_tenantry_fleet, _PEER: open_fleet_unlimited}


def _run(load: Load) -> Sequence[Comparison]:
    fleet = fleet_of(_TENANTS, load)
    sides = [
        fleet_side(name, open_fleet, fleet, partial(own_picks, fleet), load, reads=0.5, are_open=True)
        for name, open_fleet in _OPENED_BY.items()
    ]
    return [compare(_SETTING, sides, load)]


WORK = Work(
    number="5",
    title="64 tenants, 1 caller each, half reads and half writes",
    run=_run,
    targets=(Target(_SETTING, _PEER, must=1.3, reach=2),),
)
