"""Runs the demo: busy, quiet and rare companies share a pool that has no place for all of them; then all records are checked.

Of the quiet companies, every second one is rare: it works only every `_RARE_INTERVAL_SECONDS`. The pool has places for the busy
companies and for those that work every `_QUIET_INTERVAL_SECONDS`, so these stay open. The rare companies evict each other.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import anyio
from prometheus_client import CollectorRegistry

from tenantry.config import RegistryConfig
from tenantry.demo.check import CheckResult, check_company
from tenantry.demo.company import Company, Timings
from tenantry.events import BatchFinished, Event, PoolWaited
from tenantry.observability import export_metrics
from tenantry.storage.backends import fit_pool
from tenantry.tenancy.actors.pool import PoolStatistics
from tenantry.tenancy.catalog.actor import CATALOG_NAME
from tenantry.tenancy.registry import TenantRegistry

_PROGRESS_INTERVAL_SECONDS: Final = 0.25
_QUIET_INTERVAL_SECONDS: Final = 2.0
_RARE_INTERVAL_SECONDS: Final = 10.0
_CREATE_CONCURRENCY: Final = 8


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """The settings of a demo.

    Attributes:
        database: The URL of an empty PostgreSQL database for the companies; None for files in the data directory.
        open_tenants_max: The size of the pool. The pool is smaller if the process may open too few files.
    """

    data_dir: Path
    database: str | None = None
    seconds: float = 10.0
    busy_companies: int = 3
    callers: int = 64
    quiet_companies: int = 200
    open_tenants_max: int = 128


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a demo, for a display."""

    phase: str
    fraction: float
    writes: int
    reads: int
    pool: PoolStatistics | None


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of a demo.

    Attributes:
        elapsed_seconds: The duration of the working phase.
        timings: The durations of all calls, by statement.
        batches: The number of batches and the number of their calls, by channel.
        pool: The pool's counters at the end of the working phase.
        pool_waits: The number of callers that waited until a tenant was open.
        check: The result of the check after all tenants were reopened.
        metric_families: The names of the exported metric families.
    """

    elapsed_seconds: float
    timings: Timings
    batches: dict[str, tuple[int, int]]
    pool: PoolStatistics
    pool_waits: int
    check: CheckResult
    metric_families: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every acknowledged record exists, in its own company."""
        return not self.check.missing and not self.check.foreign


class _Tally:
    """Counts batches and waits from events."""

    def __init__(self) -> None:
        self.batches: dict[str, tuple[int, int]] = {}
        self.waits = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, BatchFinished) and event.tenant_id != CATALOG_NAME:
            batches, calls = self.batches.get(event.channel, (0, 0))
            self.batches[event.channel] = (batches + 1, calls + len(event.calls))
        elif isinstance(event, PoolWaited):
            self.waits += 1


async def run_demo(settings: DemoSettings, show: Callable[[Progress], None]) -> DemoResult:
    """Run the demo and return its result."""
    config = _config(settings)
    timings, tally, collectors = Timings(), _Tally(), CollectorRegistry()
    registry = TenantRegistry(config, hooks=[tally])
    export_metrics(registry, collectors)
    async with registry:
        companies = await _create(registry, settings, timings, show)
        tally.batches.clear()
        tally.waits = 0
        started = perf_counter()
        await _work(
            companies, settings, lambda fraction: show(_progress("working", fraction, timings, registry))
        )
        elapsed_seconds = perf_counter() - started
        pool = registry.statistics().pool
        families = tuple(sorted(family.name for family in collectors.collect()))
    check = await _check(
        companies, config, lambda fraction: show(_progress("checking", fraction, timings, None))
    )
    return DemoResult(elapsed_seconds, timings, tally.batches, pool, tally.waits, check, families)


def _config(settings: DemoSettings) -> RegistryConfig:
    # The environment may name a database with real tenants, which the demo must not use.
    config = fit_pool(
        RegistryConfig.from_environment(
            data_dir=settings.data_dir, database=settings.database, databases={}, default_backend=None
        )
    )
    places = min(settings.open_tenants_max, config.open_tenants_max)
    return config.model_copy(update={"open_tenants_max": places})


async def _create(
    registry: TenantRegistry, settings: DemoSettings, timings: Timings, show: Callable[[Progress], None]
) -> list[Company]:
    busy = [f"busy-{number}" for number in range(1, settings.busy_companies + 1)]
    quiet = [f"quiet-{number:03d}" for number in range(1, settings.quiet_companies + 1)]
    limiter = anyio.CapacityLimiter(_CREATE_CONCURRENCY)
    created = 0

    async def create(tenant_id: str) -> None:
        nonlocal created
        async with limiter:
            await registry.create(tenant_id, display_name=tenant_id.replace("-", " ").title())
        created += 1
        show(_progress("creating", created / len([*busy, *quiet]), timings, registry))

    async with anyio.create_task_group() as group:
        for tenant_id in (*busy, *quiet):
            group.start_soon(create, tenant_id)
    return [
        Company(registry.tenant(tenant_id), timings, seed) for seed, tenant_id in enumerate((*busy, *quiet))
    ]


async def _work(companies: Sequence[Company], settings: DemoSettings, show: Callable[[float], None]) -> None:
    """Let every agent work until the time is up; each agent finishes its last action, so all outcomes are known."""
    started = perf_counter()
    until = started + settings.seconds
    busy, quiet = companies[: settings.busy_companies], companies[settings.busy_companies :]

    async def agent(company: Company, name: str, pause_seconds: float) -> None:
        while perf_counter() < until:
            await company.work(name)
            if pause_seconds:
                await anyio.sleep(max(0.0, min(pause_seconds, until - perf_counter())))

    async def quiet_agent(company: Company, phase: float, interval_seconds: float) -> None:
        # Quiet companies start at different times within the interval, to avoid simultaneous writes.
        await anyio.sleep(min(phase * interval_seconds, settings.seconds))
        await agent(company, "agent-0", interval_seconds)

    async def display() -> None:
        while perf_counter() < until:
            show((perf_counter() - started) / settings.seconds)
            await anyio.sleep(_PROGRESS_INTERVAL_SECONDS)

    async with anyio.create_task_group() as group:
        group.start_soon(display)
        for company in busy:
            for number in range(settings.callers):
                group.start_soon(agent, company, f"agent-{number}", 0.0)
        for number, company in enumerate(quiet):
            interval_seconds = _RARE_INTERVAL_SECONDS if number % 2 else _QUIET_INTERVAL_SECONDS
            group.start_soon(quiet_agent, company, number / len(quiet), interval_seconds)


async def _check(
    companies: Sequence[Company], config: RegistryConfig, show: Callable[[float], None]
) -> CheckResult:
    found = CheckResult(0, 0, 0)
    async with TenantRegistry(config) as registry:
        for number, company in enumerate(companies, start=1):
            found += await check_company(company, registry.tenant(company.handle.id))
            show(number / len(companies))
            await asyncio.sleep(0)
    return found


def _progress(phase: str, fraction: float, timings: Timings, registry: TenantRegistry | None) -> Progress:
    return Progress(
        phase=phase,
        fraction=min(fraction, 1.0),
        writes=timings.count(is_read=False),
        reads=timings.count(is_read=True),
        pool=registry.statistics().pool if registry is not None else None,
    )
