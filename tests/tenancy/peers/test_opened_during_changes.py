"""A tenant is opened in one process while another process changes it: the opening tenant gets the changes."""

from pathlib import Path

import pytest

from registries import config
from tenantry import TenantRegistry
from tenantry.errors import TenantRateLimitedError
from tenantry.limits import TenantLimits
from tenantry.tenancy.actors.actor import TenantActor
from tenantry.tenancy.tenant_record import TenantRecord


async def test_limits_that_change_during_an_opening(data_dir: Path):
    """Limits are in effect when `update` returns, although the tenant was being opened with its earlier record."""
    limits = TenantLimits(calls_per_second_max=1, calls_burst_max=1)
    async with TenantRegistry(config(data_dir)) as operator, TenantRegistry(config(data_dir)) as opening:
        await operator.create("acme")
        await operator._parts.pool.close_tenant(operator.tenant("acme").id, "idle")
        opener = opening._parts.tools.opener
        open_actor = opener._opened_actor

        async def open_late(tenant: TenantRecord, *, is_new: bool = False) -> TenantActor:
            await operator.update("acme", limits=limits)
            return await open_actor(tenant, is_new=is_new)

        opener._opened_actor = open_late  # type: ignore[method-assign]
        await opening.tenant("acme").tasks.get("none")
        with pytest.raises(TenantRateLimitedError):
            await opening.tenant("acme").tasks.get("none")
