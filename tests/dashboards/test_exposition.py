"""What ``/metrics`` gives: as many series for a hundred tenants as for ten, and whether the service is ready."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from series import series_of
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.admin import create_admin_app
from tenants import make_message, until

pytestmark = pytest.mark.unmeasured

FEW, MANY = 10, 100


@pytest.fixture
async def measured(data_dir: Path) -> AsyncIterator[TenantRegistry]:
    """A registry whose pool is too small for its tenants."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=FEW - 2)) as registry:
        yield registry


@pytest.fixture
async def client(measured: TenantRegistry) -> AsyncIterator[httpx.AsyncClient]:
    """A client of its admin API, with metrics of its own."""
    collectors = CollectorRegistry()
    transport = httpx.ASGITransport(create_admin_app(measured, collectors=collectors))
    async with httpx.AsyncClient(transport=transport, base_url="http://tenantry") as opened:
        yield opened


async def series(client: httpx.AsyncClient, tenants: int) -> set[tuple[str, ...]]:
    """Return the series of tenants' calls that are exposed once so many tenants were created: an exposition is kept for a second."""
    created = (
        f'tenantry_lifecycle_duration_seconds_count{{action="create",outcome="ok",process="0"}} {tenants}.0'
    )
    while created not in (text := (await client.get("/metrics")).text):  # noqa: ASYNC110  # no event tells of it
        await asyncio.sleep(0.05)
    return series_of(text_string_to_metric_families(text))


async def test_series_do_not_grow_with_tenants(measured: TenantRegistry, client: httpx.AsyncClient):
    """A hundred tenants that all did the same have exactly the series of ten."""
    limiter = anyio.CapacityLimiter(FEW - 2)

    async def live(tenant_id: str) -> None:
        async with limiter:
            await measured.create(tenant_id)
            tenant = measured.tenant(tenant_id)
            await tenant.messages.save(make_message())
            await tenant.tasks.get("none")

    async def live_all(first: int, last: int) -> set[tuple[str, ...]]:
        async with anyio.create_task_group() as group:
            for number in range(first, last):
                group.start_soon(live, f"tenant-{number}")
        await until(lambda: measured.statistics().disk is not None)
        return await series(client, last)

    of_few = await live_all(0, FEW)
    of_many = await live_all(FEW, MANY)
    assert of_many == of_few
    await until(lambda: measured.statistics().tenants[TenantState.ACTIVE] == MANY)


@pytest.mark.parametrize(("is_open", "catalog"), [(True, "1.0"), (False, "0.0")])
async def test_whether_it_is_ready_is_a_metric(
    measured: TenantRegistry, client: httpx.AsyncClient, *, is_open: bool, catalog: str
):
    """Each probe of /readyz is a series: 1, or 0 for a catalog that cannot be written."""
    if not is_open:
        await measured.aclose()
    text = (await client.get("/metrics")).text
    ready = [line for line in text.splitlines() if line.startswith("tenantry_ready{")]
    assert ready == [
        'tenantry_ready{probe="service"} 1.0',
        f'tenantry_ready{{probe="catalog"}} {catalog}',
        'tenantry_ready{probe="pool"} 1.0',
        'tenantry_ready{probe="disk"} 1.0',
    ]
    assert (await client.get("/readyz")).status_code == (200 if is_open else 503)
