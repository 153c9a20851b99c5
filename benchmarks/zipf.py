"""Tenants that callers ask for by Zipf's law, nine reads to a write: tenantry's engines, a peer without a pool, and the limit."""

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.comparison import Comparison
from benchmarks.engines import by_engine
from benchmarks.harness import Load, compare
from benchmarks.many_calls import fleet_of, fleet_side, zipf_picks
from benchmarks.peers.limit import fleet_limit
from benchmarks.peers.open_per_operation import open_fleet_per_operation
from benchmarks.peers.tenantry_registry import open_tenantry_fleet

if TYPE_CHECKING:
    from benchmarks.peers import OpenFleet

ZIPF_CALLERS = 64
OPEN_PER_OPERATION = "open per operation"

_EXPONENT = 1.1
_READS = 0.9


def compare_zipf(setting: str, tenants: int, pool: int, load: Load) -> Comparison:
    """Compare the sides on so many tenants, of which tenantry and the limit keep `pool` open at most."""
    fleet = fleet_of(tenants, load)
    picks = partial(zipf_picks, fleet, _EXPONENT, ZIPF_CALLERS)
    opened_by: dict[str, OpenFleet] = {
        **by_engine(partial(open_tenantry_fleet, open_tenants_max=pool)),
        OPEN_PER_OPERATION: open_fleet_per_operation,
    }
    sides = [
        fleet_side(name, open_fleet, fleet, picks, load, reads=_READS)
        for name, open_fleet in opened_by.items()
    ]
    limit = fleet_limit(fleet, picks, load, reads=_READS, pool=pool)
    return compare(setting, [*sides, *limit], load)
