"""Work 6: the first call of a tenant that is closed, with its file in the page cache; the pool has room for all."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.fleet import Fleet
from benchmarks.harness import GarbageMeter, Load, Side, Work, compare
from benchmarks.many_calls import fleet_of
from benchmarks.peers import FleetStore, OpenFleet
from benchmarks.peers.aiosqlite_unlimited import open_fleet_unlimited
from benchmarks.peers.task_row import build_tasks
from benchmarks.peers.tenantry_registry import open_tenantry_fleet

_TENANTS, _QUICK_TENANTS = 400, 100
_SETTING = "tenant closed, file warm"
_PEER = "aiosqlite connect + pragmas + select"


def _run(load: Load) -> Sequence[Comparison]:
    fleet = fleet_of(_QUICK_TENANTS if load.is_quick else _TENANTS, load)
    opened_by: dict[str, OpenFleet] = {**by_engine(_open_all), _PEER: open_fleet_unlimited}
    sides = [_side(name, open_fleet, fleet, load) for name, open_fleet in opened_by.items()]
    return [compare(_SETTING, sides, load)]


def _side(name: str, open_fleet: OpenFleet, fleet: Fleet, load: Load) -> Side:
    def run(directory: Path) -> Sample:  # noqa: ARG001  # the fleet's own is used
        return load.run(_call_each_once(open_fleet, fleet))

    return Side(name, run)


async def _call_each_once(open_fleet: OpenFleet, fleet: Fleet) -> Sample:
    task = build_tasks(1)[0]
    latencies: list[float] = []
    started = time.perf_counter()
    async with open_fleet(fleet) as store:
        with GarbageMeter() as garbage:
            for tenant in fleet.tenants:
                called = time.perf_counter()
                found = await store.get(tenant, task.id)
                latencies.append(time.perf_counter() - called)
                assert found == task
        seconds = time.perf_counter() - started
    return Sample.of(latencies, seconds, gc_seconds=garbage.seconds, gc_collections=garbage.collections)


@asynccontextmanager
async def _open_all(fleet: Fleet, **settings: Any) -> AsyncIterator[FleetStore]:
    """Open a registry with room for every tenant: closing another one is not what is measured."""
    async with open_tenantry_fleet(fleet, open_tenants_max=len(fleet.tenants), **settings) as store:
        yield store


WORK = Work(
    number="6",
    title="cold call: tasks.get of a closed tenant",
    run=_run,
    targets=(
        Target(_SETTING, PYTHON, must=1, measure=Measure.P50),
        Target(_SETTING, _PEER, must=2, reach=1.2, measure=Measure.P50),
    ),
)
