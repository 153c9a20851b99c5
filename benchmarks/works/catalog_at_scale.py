"""Work 10: what a catalog of 100,000 tenants costs against one of 1,000."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random

from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.fleet import fill_catalog, tenant_name
from benchmarks.harness import Load, Side, Work, compare
from tenantry import RegistryConfig, TenantRegistry
from tenantry.observability.metrics import export_metrics

_SMALL, _LARGE = 1_000, 100_000
_SEED = 20_261_123
_EQUAL = 1.05
_PAGE_ROWS = 100
_OPENINGS, _CALLS = 12, 300

Call = Callable[[], Awaitable[object]]


def _run(load: Load) -> Sequence[Comparison]:
    rounds = {
        "open the registry": _open,
        "get": partial(_call_often, _get),
        "list, a page of 100": partial(_call_often, _list),
        "scrape": partial(_call_often, _scrape),
    }
    return [
        compare(
            setting,
            [Side(_name(tenants), partial(_round, measure, tenants, load)) for tenants in (_LARGE, _SMALL)],
            load,
        )
        for setting, measure in rounds.items()
    ]


def _name(tenants: int) -> str:
    return f"{tenants:,} tenants"


def _round(
    measure: Callable[[Path, int], Awaitable[Sample]],
    tenants: int,
    load: Load,
    directory: Path,  # noqa: ARG001  # the catalogs outlive the round
) -> Sample:
    data_dir = load.once(f"a catalog of {tenants:,} tenants", partial(_fill, load.directory, tenants))
    return asyncio.run(measure(data_dir, tenants))


def _fill(directory: Path, tenants: int) -> Path:
    data_dir = directory / f"catalog-{tenants}"
    fill_catalog(data_dir, tenants)
    return data_dir


async def _open(data_dir: Path, _: int) -> Sample:
    latencies: list[float] = []
    started = time.perf_counter()
    for _ in range(_OPENINGS):
        called = time.perf_counter()
        registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
        await registry.open()
        latencies.append(time.perf_counter() - called)
        await registry.aclose()
    return Sample.of(latencies, time.perf_counter() - started)


async def _call_often(make: Callable[[TenantRegistry, int], Call], data_dir: Path, tenants: int) -> Sample:
    latencies: list[float] = []
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        call = make(registry, tenants)
        await call()
        started = time.perf_counter()
        for _ in range(_CALLS):
            called = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - called)
        return Sample.of(latencies, time.perf_counter() - started)


def _get(registry: TenantRegistry, tenants: int) -> Call:
    random = Random(_SEED)
    return lambda: registry.get(tenant_name(random.randrange(tenants)))


def _list(registry: TenantRegistry, tenants: int) -> Call:
    """Read page after page, and begin again after the last."""
    del tenants  # a cursor leads on
    cursor: str | None = None

    async def call() -> None:
        nonlocal cursor
        page = await registry.list(limit=_PAGE_ROWS, cursor=cursor)
        assert len(page) == _PAGE_ROWS
        cursor = page.next_cursor

    return call


def _scrape(registry: TenantRegistry, tenants: int) -> Call:
    collectors = CollectorRegistry()
    export_metrics(registry, collectors)
    expected = f'tenantry_tenants{{state="active"}} {float(tenants)}'

    async def call() -> None:
        assert expected in generate_latest(collectors).decode()

    return call


WORK = Work(
    number="10",
    title="a catalog of 100,000 tenants against one of 1,000",
    run=_run,
    targets=tuple(
        Target(setting, _name(_SMALL), must=1.5, reach=_EQUAL, measure=Measure.P50)
        for setting in ("open the registry", "get", "list, a page of 100", "scrape")
    ),
)
