"""Work 24: what a lone caller of a quiet tenant notices of 512 callers of another process that flood another tenant.

Both tenants are open in the quiet caller's process. The flood is compared with one of the same size in the quiet caller's process.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.fleet import Fleet
from benchmarks.harness import (
    Caller,
    Load,
    Measured,
    Side,
    Work,
    check_durable,
    check_rows,
    compare,
    measure,
)
from benchmarks.many_calls import fleet_of, mixed_caller, use_each
from benchmarks.other_process import NEVER_HANDED_OVER, other_process
from benchmarks.peers.tenantry_registry import TenantryFleet
from tenantry import RegistryConfig, TenantRegistry

_FLOODERS = 512
_SECONDS_FACTOR = 2.0  # so that some ten quiet calls are beyond the 99th percentile
_FORWARDED, _LOCAL, _NONE = "forwarded flood", "flood of the same process", "no flood"
_READS = {"save": 0.0, "get": 1.0}
_SEED = 20_261_130


def _run(load: Load) -> Sequence[Comparison]:
    load = replace(load, seconds=load.seconds * _SECONDS_FACTOR)
    fleet = fleet_of(2, load)
    return [
        compare(
            f"quiet tenant, {what}",
            [Side(side, partial(_round, load, fleet, side, reads)) for side in (_FORWARDED, _LOCAL, _NONE)],
            load,
        )
        for what, reads in _READS.items()
    ]


def _round(load: Load, fleet: Fleet, side: str, reads: float, directory: Path) -> Sample:  # noqa: ARG001  # the fleet's own is used
    return load.run(_measure(load, fleet, side, reads))


async def _measure(load: Load, fleet: Fleet, side: str, reads: float) -> Sample:
    loud, quiet = fleet.tenants
    saved: Counter[str] = Counter()
    async with TenantRegistry(RegistryConfig(data_dir=fleet.data_dir, **NEVER_HANDED_OVER)) as registry:
        store = TenantryFleet(registry)
        durability = check_durable(await store.durability(loud))
        await use_each(store, saved, fleet.tenants)
        caller = mixed_caller(store, saved, cycle([quiet]), reads, _SEED)
        if side == _FORWARDED:
            measured, errors, flooded = await _beside_other_process(load, fleet, caller, saved, reads)
        else:
            count = _FLOODERS if side == _LOCAL else 0
            flood = [mixed_caller(store, saved, cycle([loud]), reads, _SEED + n) for n in range(count)]
            measured, errors, flooded = await _beside_flood(load, flood, caller)
    check_rows(*fleet.add_acknowledged(saved, failed=measured.failed + errors), measured.failed + errors)
    sample = measured.sample(durability, calls_of_the_flood=flooded)
    return replace(sample, errors=sample.errors + errors)


async def _beside_other_process(
    load: Load, fleet: Fleet, caller: Caller, saved: Counter[str], reads: float
) -> tuple[Measured, int, int]:
    loud, _ = fleet.tenants
    with other_process(fleet.data_dir) as process:
        process.start_calls([loud], callers=_FLOODERS, reads=reads, seed=_SEED, seconds=load.seconds)
        measured = await measure([caller], load)
        report = await process.report()
    saved.update(report.saved)
    return measured, report.errors, len(report.latencies)


async def _beside_flood(load: Load, flood: Sequence[Caller], caller: Caller) -> tuple[Measured, int, int]:
    until = time.perf_counter() + load.warm_up_seconds + load.seconds
    async with asyncio.TaskGroup() as group:
        flooders = [group.create_task(_flood_until(until, one)) for one in flood]
        measured = await measure([caller], load)
    counts = [task.result() for task in flooders]
    return measured, sum(errors for _, errors in counts), sum(calls for calls, _ in counts)


async def _flood_until(until: float, caller: Caller) -> tuple[int, int]:
    """Call without a pause; return how many calls were answered, and how many failed."""
    calls = errors = 0
    while time.perf_counter() < until:
        try:
            await caller.call(caller.prepare())
            calls += 1
        except Exception:  # noqa: BLE001  # any failure of a side is a result, and is counted
            errors += 1
    return calls, errors


WORK = Work(
    number="24",
    title="a quiet tenant beside 512 callers of another process",
    run=_run,
    targets=tuple(Target(f"quiet tenant, {what}", _LOCAL, must=1.5, measure=Measure.P99) for what in _READS),
)
