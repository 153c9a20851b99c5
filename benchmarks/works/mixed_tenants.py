"""Work 5: 64 tenants with one caller each, half of the calls reads: nobody shares a commit with anybody."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.comparison import Comparison, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.harness import Load, Work, compare
from benchmarks.many_calls import fleet_of, fleet_side, own_picks
from benchmarks.peers.aiosqlite_unlimited import open_fleet_unlimited
from benchmarks.peers.limit import EIGHT_THREADS, fleet_limit
from benchmarks.peers.tenantry_registry import open_tenantry_fleet

if TYPE_CHECKING:
    from benchmarks.peers import OpenFleet

_TENANTS = 64
_SETTING = f"{_TENANTS} tenants, 1 caller each"
_PEER = "aiosqlite per tenant"
_READS = 0.5


def _run(load: Load) -> Sequence[Comparison]:
    fleet = fleet_of(_TENANTS, load)
    opened_by: dict[str, OpenFleet] = {**by_engine(open_tenantry_fleet), _PEER: open_fleet_unlimited}
    picks = partial(own_picks, fleet)
    sides = [
        fleet_side(name, open_fleet, fleet, picks, load, reads=_READS, are_open=True)
        for name, open_fleet in opened_by.items()
    ]
    limit = fleet_limit(fleet, picks, load, reads=_READS, pool=_TENANTS, are_open=True)
    return [compare(_SETTING, [*sides, *limit], load)]


WORK = Work(
    number="5",
    title="64 tenants, 1 caller each, half reads and half writes",
    run=_run,
    targets=(
        Target(_SETTING, PYTHON, must=1),
        Target(_SETTING, _PEER, must=2.9, reach=5),
        Target(_SETTING, EIGHT_THREADS, must=0.33, reach=0.6),
    ),
)
