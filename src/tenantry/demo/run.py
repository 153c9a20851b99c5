"""Runs the demo: the companies share a pool that has no place for all of them; then all records are checked."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import anyio
from prometheus_client import CollectorRegistry

from tenantry.config import POSTGRES, SQLITE, Durability, RegistryConfig
from tenantry.demo.check import check_companies
from tenantry.demo.company import Company, Timings
from tenantry.demo.load import DemoSettings, LoadResult, Progress, work
from tenantry.events import BatchFinished, Event, PoolWaited
from tenantry.observability import export_metrics
from tenantry.storage.backends import fit_pool
from tenantry.tenancy.actors.pool import PoolStatistics
from tenantry.tenancy.catalog.actor import CATALOG_NAME
from tenantry.tenancy.registry import TenantRegistry

_CREATE_CONCURRENCY: Final = 8


@dataclass(frozen=True, slots=True)
class DemoResult(LoadResult):
    """The result of a demo.

    Attributes:
        backend: Where the companies are: ``sqlite`` for files, ``postgres`` for a server.
        engine: What runs the statements of files, ``native`` or ``python``, see `EngineChoice`; None for a server.
        engine_reason: Why files have the engine ``python``; else None.
        durability: The time at which a write was acknowledged.
        batches: The number of batches and the number of their calls, by channel.
        pool: The pool's counters at the end of the working phase.
        pool_waits: The number of callers that waited until a tenant was open.
        metric_families: The names of the exported metric families.
    """

    backend: str
    engine: str | None
    engine_reason: str | None
    durability: Durability
    batches: dict[str, tuple[int, int]]
    pool: PoolStatistics
    pool_waits: int
    metric_families: tuple[str, ...]


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
        elapsed_seconds = await work(
            companies,
            settings,
            lambda fraction: show(Progress.of("working", fraction, timings, registry.statistics().pool)),
        )
        statistics = registry.statistics()
        families = tuple(sorted(family.name for family in collectors.collect()))
    async with TenantRegistry(config) as again:
        check = await check_companies(
            companies,
            lambda company_id: nullcontext(again.tenant(company_id)),
            lambda fraction: show(Progress.of("checking", fraction, timings)),
        )
    chosen = statistics.engine
    is_in_files = settings.database is None
    return DemoResult(
        elapsed_seconds=elapsed_seconds,
        timings=timings,
        check=check,
        backend=SQLITE if is_in_files else POSTGRES,
        engine=chosen.name if is_in_files else None,
        engine_reason=chosen.reason if is_in_files else None,
        durability=config.durability,
        batches=tally.batches,
        pool=statistics.pool,
        pool_waits=tally.waits,
        metric_families=families,
    )


def _config(settings: DemoSettings) -> RegistryConfig:
    # The environment may name a database with real tenants, which the demo must not use.
    config = fit_pool(
        RegistryConfig.from_environment(
            data_dir=settings.data_dir,
            database=settings.database,
            databases={},
            default_backend=None,
            **({} if settings.engine is None else {"engine": settings.engine}),
        )
    )
    places = min(settings.open_tenants_max, config.open_tenants_max)
    return config.model_copy(update={"open_tenants_max": places})


async def _create(
    registry: TenantRegistry, settings: DemoSettings, timings: Timings, show: Callable[[Progress], None]
) -> list[Company]:
    tenant_ids = settings.company_ids
    limiter = anyio.CapacityLimiter(_CREATE_CONCURRENCY)
    created = 0

    async def create(tenant_id: str) -> None:
        nonlocal created
        async with limiter:
            await registry.create(tenant_id, display_name=tenant_id.replace("-", " ").title())
        created += 1
        show(Progress.of("creating", created / len(tenant_ids), timings, registry.statistics().pool))

    async with anyio.create_task_group() as group:
        for tenant_id in tenant_ids:
            group.start_soon(create, tenant_id)
    return [Company(registry.tenant(tenant_id), timings, seed) for seed, tenant_id in enumerate(tenant_ids)]
