"""A tenant is opened in one process while another process changes it: the opening tenant gets the changes."""

import asyncio
from pathlib import Path

import pytest

from registries import config
from tenantry import TenantRegistry
from tenantry.errors import TenantNotFoundError, TenantRateLimitedError
from tenantry.events import Event, OperationStepped
from tenantry.limits import TenantLimits
from tenantry.tenancy.actors.actor import TenantActor
from tenantry.tenancy.tenant_record import TenantRecord
from tenants import HANG_SECONDS, until


async def test_limits_that_change_during_an_opening(data_dir: Path):
    """Limits are in effect when `update` returns, although the tenant was being opened with its earlier record."""
    limits = TenantLimits(calls_per_second_max=1, calls_burst_max=1)
    async with TenantRegistry(config(data_dir)) as operator, TenantRegistry(config(data_dir)) as opening:
        await operator.create("acme")
        await operator._parts.pool.close_tenant(operator.tenant("acme").id, "idle")
        opener = opening._parts.tools.opener
        open_actor = opener._opened_actor

        async def open_late(tenant: TenantRecord, **how: bool) -> TenantActor:
            await operator.update("acme", limits=limits)
            return await open_actor(tenant, **how)

        opener._opened_actor = open_late  # type: ignore[method-assign]
        await opening.tenant("acme").tasks.get("none")
        with pytest.raises(TenantRateLimitedError):
            await opening.tenant("acme").tasks.get("none")


async def test_an_operation_that_ends_during_an_opening(data_dir: Path):
    """An opening that has read an operation's intent, and finds the operation's lock free, reads the record again: it may have ended."""
    begun = asyncio.Event()

    def note_begun(event: Event) -> None:
        if isinstance(event, OperationStepped) and (event.action, event.step) == ("restore", "begun"):
            begun.set()

    async with (
        TenantRegistry(config(data_dir), hooks=[note_begun]) as operator,
        TenantRegistry(config(data_dir)) as opening,
    ):
        await operator.create("acme")
        snapshot = await operator.snapshots.create("acme")
        catalog = opening._parts.backends.catalog
        may_be_locked, looks = catalog.may_be_locked, []
        restore = asyncio.create_task(operator.snapshots.restore("acme", snapshot.id))

        async def look_after_the_end(name: str) -> bool:
            await restore
            looks.append(await may_be_locked(name))
            return looks[-1]

        catalog.may_be_locked = look_after_the_end  # type: ignore[method-assign]
        await begun.wait()
        assert await opening.tenant("acme").tasks.get("none") is None
        assert looks == [False]


async def test_a_rename_during_an_opening(data_dir: Path):
    """An opening waits for the operation that it has found, and the operation does not wait for the opening."""
    settings = config(data_dir, call_timeout_seconds=600, pool_wait_timeout_seconds=600)
    async with TenantRegistry(settings) as operator, TenantRegistry(settings) as opening:
        await operator.create("acme")
        await operator._parts.pool.close_tenant(operator.tenant("acme").id, "idle")
        opener = opening._parts.tools.opener
        open_actor = opener._opened_actor
        renames: list[asyncio.Task[TenantRecord]] = []

        async def open_beside_rename(tenant: TenantRecord, **how: bool) -> TenantActor:
            actor = await open_actor(tenant, **how)
            if not renames:
                renames.append(asyncio.create_task(operator.rename("acme", "other")))
                # The operation has asked this process for the tenant, which this process holds now.
                await until(lambda: any(one._calls for one in opening._parts.peers._accepted))
            return actor

        opener._opened_actor = open_beside_rename  # type: ignore[method-assign]
        async with asyncio.timeout(HANG_SECONDS):
            with pytest.raises(TenantNotFoundError):
                await opening.tenant("acme").tasks.get("none")
            (rename,) = renames
            assert (await rename).id == "other"
        assert await opening.tenant("other").tasks.get("none") is None
