"""A registry on PostgreSQL whose connections are all held, or whose server does not answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from operators import contents
from postgres_servers import Database
from registries import config
from tenantry import Fetch, Statement, TenantRegistry, TenantState
from tenants import HANG_SECONDS, make_message, until

pytestmark = pytest.mark.anyio

TENANTS = ("acme", "globex")
SLOW = Statement("test.slow", "SELECT 1 FROM pg_sleep(?::float8)", (10 * HANG_SECONDS,), Fetch.ONE)


@asynccontextmanager
async def every_connection_held(registry: TenantRegistry, by: str) -> AsyncIterator[None]:
    """Hold both connections during the block: with an open transaction of each tenant, or with a statement that goes on and on."""
    async with AsyncExitStack() as stack:
        statements = []
        for tenant_id in TENANTS:
            if by == "transactions":
                await stack.enter_async_context(registry.tenant(tenant_id).transaction())
            else:
                reading = registry.tenant(tenant_id)._session.read(SLOW)
                statements.append(asyncio.create_task(reading))
        await until(lambda: registry.statistics().connections["postgres"].in_use == len(TENANTS))
        try:
            yield
        finally:
            for statement in statements:
                statement.cancel()
            await asyncio.gather(*statements, return_exceptions=True)


@pytest.mark.parametrize("by", ["transactions", "statements"])
async def test_operators_are_served_while_tenants_hold_every_connection(
    data_dir: Path, postgres_database: Database, by: str
):
    """Who sees that tenants hold every connection can suspend one, and readiness stays."""
    settings = config(data_dir, database=f"{postgres_database.url}&tenantry_connections_max={len(TENANTS)}")
    async with TenantRegistry(settings) as registry, asyncio.timeout(HANG_SECONDS):
        for tenant_id in (*TENANTS, "quiet"):
            await registry.create(tenant_id)
            await registry.tenant(tenant_id).messages.save(make_message("before"))
        async with every_connection_held(registry, by):
            await registry.check_catalog()
            assert (await registry.suspend("quiet", reason="test")).state is TenantState.SUSPENDED
            assert (await registry.get("acme")).state is TenantState.ACTIVE
            assert registry.statistics().connections["postgres"].in_use == len(TENANTS)
        assert await contents(registry.tenant("acme")) == ["before"]
