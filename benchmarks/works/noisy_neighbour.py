"""Work 8: what 50 quiet tenants notice of one that 256 callers flood; see `benchmarks.neighbours`."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.comparison import Comparison, Measure, Target
from benchmarks.engines import NATIVE, PYTHON, by_engine
from benchmarks.harness import Load, Side, Work, compare
from benchmarks.many_calls import fleet_of
from benchmarks.neighbours import FLOODERS, QUIET, SECONDS_FACTOR, run_round
from benchmarks.peers.aiosqlite_unlimited import open_fleet_unlimited
from benchmarks.peers.tenantry_registry import open_tenantry_fleet

if TYPE_CHECKING:
    from benchmarks.peers import OpenFleet

_LOUD, _CALM = "with the flood", "without it"


def _run(load: Load) -> Sequence[Comparison]:
    load = replace(load, seconds=load.seconds * SECONDS_FACTOR)
    fleet = fleet_of(1 + QUIET, load)
    opened_by: dict[str, OpenFleet] = {
        **by_engine(open_tenantry_fleet),
        "aiosqlite per tenant": open_fleet_unlimited,
    }
    return [
        compare(
            _setting(name),
            [
                Side(_LOUD, partial(run_round, open_fleet, fleet, FLOODERS, load)),
                Side(_CALM, partial(run_round, open_fleet, fleet, 0, load)),
            ],
            load,
        )
        for name, open_fleet in opened_by.items()
    ]


def _setting(side: str) -> str:
    return f"quiet calls, {side}"


WORK = Work(
    number="8",
    title="50 quiet tenants beside one with 256 callers",
    run=_run,
    targets=tuple(
        Target(_setting(name), _CALM, must=3, reach=1.5, measure=Measure.P99) for name in (NATIVE, PYTHON)
    ),
)
