"""Creating a tenant if it does not exist: programs and scripts that can be run again."""

import asyncio

import pytest

from operators import bring_to
from tenantry import TenantRegistry, TenantState
from tenantry.errors import TenantExistsError

KEPT = [TenantState.ACTIVE, TenantState.SUSPENDED, TenantState.ARCHIVED, TenantState.QUARANTINED]


@pytest.mark.parametrize("state", KEPT)
async def test_a_tenant_that_exists(registry: TenantRegistry, state: TenantState):
    """It is returned as it is, whatever its state; the audit says that nothing was created."""
    await bring_to(registry, state)
    before = await registry.get("acme")
    assert await registry.create("acme", display_name="Other", if_not_exists=True) == before
    assert await registry.get("acme") == before
    (entry, *_) = await registry.audit.list()
    assert (entry.action, entry.outcome) == ("create", "ok")
    assert entry.detail == {"is_created": False}
    assert entry.tenant_uid == before.uid


async def test_a_tenant_that_is_deleted(registry: TenantRegistry):
    """It is about to be purged, so it is refused with what to do; after the purge a new tenant is created."""
    await bring_to(registry, TenantState.DELETED)
    deleted = await registry.get("acme")
    with pytest.raises(TenantExistsError, match=r"\(deleted, kept until .*\): undelete or purge it"):
        await registry.create("acme", if_not_exists=True)
    assert await registry.get("acme") == deleted
    await registry.purge("acme", force=True)
    assert (await registry.create("acme", if_not_exists=True)).uid != deleted.uid


async def test_two_at_once(registry: TenantRegistry):
    """Both callers get the same tenant."""
    one, other = await asyncio.gather(*(registry.create("acme", if_not_exists=True) for _ in range(2)))
    assert one == other
