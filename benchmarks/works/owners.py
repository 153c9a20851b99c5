"""Work 25: what it takes until a tenant of another process is there for a caller, and what becomes of a tenant that two processes call.

- the first forwarded call of a tenant, with the connection between the processes open
- a hand-over: another process makes 128 calls of a tenant that its owner does not use, and after 64 of them becomes the owner
- two processes with 8 callers each call one tenant at the same time: the slower process against the faster
- an archive: this process archives a tenant of another process, in which four callers call another tenant
"""

import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.comparison import ITSELF, Comparison, Measure, Sample, Target
from benchmarks.fleet import Fleet, build_fleet
from benchmarks.harness import BenchmarkError, Load, Side, Work, check_durable, check_rows, compare
from benchmarks.many_calls import TASKS, fleet_of
from benchmarks.other_process import other_process, other_processes, reports_of
from benchmarks.peers.message_row import message_builder
from benchmarks.peers.task_row import build_tasks
from tenantry import RegistryConfig, TenantRegistry

_TENANTS, _QUICK_TENANTS = 120, 20
_HANDED_OVER, _QUICK_HANDED_OVER = 10, 3
_CALLS = 128
_CALLERS = 8
_TENANTRY, _SLOWER, _FASTER = "tenantry", "the slower process", "the faster process"
_ARCHIVED, _QUICK_ARCHIVED, _ARCHIVE_CALLERS = 20, 5, 4
_ARCHIVE = "archive of a tenant of another process"
_ARCHIVE_SECONDS_MAX = 0.1
_FIRST_CALL = "first forwarded call of a tenant, get"
_HAND_OVER = f"hand-over, the slowest of {_CALLS} saves"
_READS = {"save": 0.0, "get": 1.0}
_SEED = 20_261_130


def _run(load: Load) -> Sequence[Comparison]:
    tenants = fleet_of(_QUICK_TENANTS if load.is_quick else _TENANTS, load)
    return [
        compare(_FIRST_CALL, [Side(_TENANTRY, partial(_first_calls, load, tenants))], load),
        compare(_HAND_OVER, [Side(_TENANTRY, partial(_hand_overs, load, tenants))], load),
        *(_at_once(load, tenants, what, reads) for what, reads in _READS.items()),
        compare(_ARCHIVE, [Side(_TENANTRY, partial(_archives, load))], load),
    ]


def _first_calls(load: Load, fleet: Fleet, directory: Path) -> Sample:  # noqa: ARG001  # the fleet's own is used
    return load.run(_measure_first_calls(fleet))


async def _measure_first_calls(fleet: Fleet) -> Sample:
    first, *tenants = fleet.tenants
    task_id = build_tasks(1)[0].id
    latencies = []
    with other_process(fleet.data_dir) as owner:
        used = owner.use(fleet.tenants)
        async with TenantRegistry(RegistryConfig(data_dir=fleet.data_dir)) as registry:
            await registry.tenant(first).tasks.get(task_id)
            started = time.perf_counter()
            for tenant in tenants:
                called = time.perf_counter()
                assert await registry.tenant(tenant).tasks.get(task_id) is not None
                latencies.append(time.perf_counter() - called)
            seconds = time.perf_counter() - started
    check_rows(*fleet.add_acknowledged(used.saved))
    return Sample.of(latencies, seconds)


def _hand_overs(load: Load, fleet: Fleet, directory: Path) -> Sample:  # noqa: ARG001  # the fleet's own is used
    return load.run(
        _measure_hand_overs(fleet, fleet.tenants[: _QUICK_HANDED_OVER if load.is_quick else _HANDED_OVER])
    )


async def _measure_hand_overs(fleet: Fleet, tenants: Sequence[str]) -> Sample:
    build = message_builder()
    slowest, moved_after = [], []
    with other_process(fleet.data_dir) as owner:
        used = owner.use(tenants)
        durability, saved = check_durable(used.durability), used.saved
        started = time.perf_counter()
        async with TenantRegistry(RegistryConfig(data_dir=fleet.data_dir)) as registry:
            for tenant_id in tenants:
                tenant = registry.tenant(tenant_id)
                latencies, forwarded = [], 0
                for _ in range(_CALLS):
                    message, called = build(), time.perf_counter()
                    await tenant.messages.save(message)
                    latencies.append(time.perf_counter() - called)
                    forwarded += tenant.statistics() is None
                if forwarded == _CALLS:
                    raise BenchmarkError(f"{tenant_id} was not handed over within {_CALLS} calls")
                slowest.append(max(latencies))
                moved_after.append(forwarded)
                saved[tenant_id] += _CALLS
        seconds = time.perf_counter() - started
    check_rows(*fleet.add_acknowledged(saved))
    return Sample.of(slowest, seconds, durability=durability, details={"moved_after_calls": moved_after})


def _at_once(load: Load, fleet: Fleet, what: str, reads: float) -> Comparison:
    """Let two processes call one tenant in each round, and compare the slower of the two with the other."""
    setting = f"two processes, {_CALLERS} callers each, one tenant, {what}"
    samples: dict[str, list[Sample]] = {_SLOWER: [], _FASTER: []}
    for index in range(load.rounds):
        load.progress(f"{setting}, round {index + 1} of {load.rounds}")
        slower, faster = sorted(_call_at_once(load, fleet, reads), key=lambda one: one.calls_per_second)
        samples[_SLOWER].append(slower)
        samples[_FASTER].append(faster)
    return Comparison(setting, samples)


def _call_at_once(load: Load, fleet: Fleet, reads: float) -> Sequence[Sample]:
    tenant = fleet.tenants[0]
    with other_processes(2, fleet.data_dir) as processes:
        used = processes[0].use([tenant])
        durability, saved = check_durable(used.durability), Counter(used.saved)
        for number, process in enumerate(processes):
            process.start_calls(
                [tenant],
                callers=_CALLERS,
                reads=reads,
                seed=_SEED + number * _CALLERS,
                seconds=load.seconds,
            )
        reports = load.run(reports_of(processes))
    for report in reports:
        saved.update(report.saved)
    failed = sum(report.errors for report in reports)
    check_rows(*fleet.add_acknowledged(saved, failed=failed), failed)
    return [report.sample(durability=durability) for report in reports]


def _archives(load: Load, directory: Path) -> Sample:
    count = _QUICK_ARCHIVED if load.is_quick else _ARCHIVED
    fleet = build_fleet(directory / "fleet", 1 + count, build_tasks(TASKS))
    return load.run(_measure_archives(fleet))


async def _measure_archives(fleet: Fleet) -> Sample:
    busy, *archived = fleet.tenants
    latencies = []
    with other_process(fleet.data_dir) as owner:
        used = owner.use(fleet.tenants)
        durability, saved = check_durable(used.durability), used.saved
        async with TenantRegistry(RegistryConfig(data_dir=fleet.data_dir)) as registry:
            seconds = len(archived) * _ARCHIVE_SECONDS_MAX
            owner.start_calls([busy], callers=_ARCHIVE_CALLERS, reads=0.5, seed=_SEED, seconds=seconds)
            for tenant in archived:
                called = time.perf_counter()
                await registry.archive(tenant)
                latencies.append(time.perf_counter() - called)
        report = await owner.report()
    saved.update(report.saved)
    check_rows(*fleet.add_acknowledged(saved, failed=report.errors), report.errors)
    return Sample.of(
        latencies,
        sum(latencies),
        errors=report.errors,
        first_error=report.first_error,
        durability=durability,
        details={"slowest_seconds": max(latencies)},
    )


WORK = Work(
    number="25",
    title="tenants of other processes: the first call, a hand-over, two processes at once",
    run=_run,
    targets=(
        Target(_HAND_OVER, ITSELF, must=0.020, measure=Measure.P99),
        Target(_ARCHIVE, ITSELF, must=_ARCHIVE_SECONDS_MAX, measure=Measure.P99),
        *(
            Target(f"two processes, {_CALLERS} callers each, one tenant, {what}", _FASTER, must=0.25)
            for what in _READS
        ),
    ),
)
