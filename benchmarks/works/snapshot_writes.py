"""Work 14: what the callers of a tenant notice of its snapshots.

8 callers save without a pause, with snapshots one after the other and without any. The database has 50,000 messages before,
so that a copy takes a while.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.harness import BenchmarkError, Load, Side, Work, compare
from tenantry import RegistryConfig, TenantHandle, TenantRegistry
from tenantry.testing.conformance.samples import make_message

_CALLERS = 8
_ROWS, _QUICK_ROWS = 50_000, 5_000
_ROWS_PER_SAVE = 1_000
_SETTING = "8 callers, messages.save"
_WITH, _WITHOUT = "with snapshots", "without"


def _run(load: Load) -> Sequence[Comparison]:
    sides = [Side(_WITH, partial(_round, load, True)), Side(_WITHOUT, partial(_round, load, False))]
    return [compare(_SETTING, sides, load)]


def _round(load: Load, has_snapshots: bool, directory: Path) -> Sample:  # noqa: FBT001  # bound by name
    return load.run(_save(load, directory, has_snapshots=has_snapshots))


async def _save(load: Load, directory: Path, *, has_snapshots: bool) -> Sample:
    latencies: list[float] = []
    async with TenantRegistry(RegistryConfig(data_dir=directory / "data")) as registry:
        await registry.create("acme")
        tenant = registry.tenant("acme")
        rows = _QUICK_ROWS if load.is_quick else _ROWS
        for _ in range(rows // _ROWS_PER_SAVE):
            await tenant.messages.save_many([make_message() for _ in range(_ROWS_PER_SAVE)])
        snapshots = asyncio.create_task(_take_snapshots(registry)) if has_snapshots else None
        started = time.perf_counter()
        until = started + load.seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(_CALLERS):
                group.create_task(_save_until(until, tenant, latencies))
        seconds = time.perf_counter() - started
        if snapshots is not None:
            snapshots.cancel()
            with suppress(asyncio.CancelledError):
                await snapshots
            taken = len(await registry.snapshots.list("acme"))
            if not taken:
                raise BenchmarkError("the round was too short for one snapshot: give it more --seconds")
            return Sample.of(latencies, seconds, details={"snapshots": taken})
    return Sample.of(latencies, seconds)


async def _take_snapshots(registry: TenantRegistry) -> None:
    while True:
        await registry.snapshots.create("acme")


async def _save_until(until: float, tenant: TenantHandle, latencies: list[float]) -> None:
    while time.perf_counter() < until:
        message = make_message()
        called = time.perf_counter()
        await tenant.messages.save(message)
        latencies.append(time.perf_counter() - called)


WORK = Work(
    number="14",
    title="one tenant, 8 callers, messages.save beside snapshots of it",
    run=_run,
    targets=(Target(_SETTING, _WITHOUT, must=5, reach=2, measure=Measure.P99),),
)
