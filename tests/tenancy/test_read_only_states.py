"""A state that allows reads and no writes: none of today's does, so a row of the table is exchanged for it."""

from pathlib import Path

import pytest

from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import TenantSuspendedError
from tenantry.lifecycle import STATES, Permission, TenantState
from tenantry.tenancy.handle import TenantHandle
from tenantry.testing.conformance.samples import make_message
from tenants import database_path


@pytest.fixture(autouse=True)
def _suspended_tenants_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = STATES[TenantState.SUSPENDED]
    allows = rules.allows | {Permission.READ, Permission.STAY_OPEN}
    monkeypatch.setitem(STATES, TenantState.SUSPENDED, rules._replace(allows=allows))


async def check_is_read_only(acme: TenantHandle) -> None:
    """Check that reads are answered and every kind of write is refused."""
    assert [message.content for message in await acme.messages.get_history("general")] == ["one"]
    with pytest.raises(TenantSuspendedError, match="resume it first"):
        await acme.messages.save(make_message("two"))
    with pytest.raises(TenantSuspendedError):
        await acme.idempotent("key").messages.save(make_message("two"))
    with pytest.raises(TenantSuspendedError):
        async with acme.transaction():
            pass


async def test_reads_go_on_and_writes_are_refused(registry: TenantRegistry):
    """The open tenant refuses writes from the operation on, one that opens does too, and both take them after the next one."""
    await registry.create("acme")
    acme = registry.tenant("acme")
    await acme.messages.save(make_message("one"))
    await registry.suspend("acme")
    await check_is_read_only(acme)
    await registry.resume("acme")
    await acme.messages.save(make_message("two"))
    assert len(await acme.messages.get_history("general")) == 2


async def test_a_tenant_that_is_opened(data_dir: Path):
    """A registry that opens the tenant later finds its state in the record."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
        await registry.tenant("acme").messages.save(make_message("one"))
        await registry.suspend("acme")
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        with pytest.raises(TenantSuspendedError):
            await registry.tenant("acme").messages.save(make_message("two"))
        database = database_path(data_dir, "acme")
        assert not database.with_name("tenant.db-wal").exists()  # a refused write needs no writer
        await check_is_read_only(registry.tenant("acme"))


async def test_another_process_is_followed(registry: TenantRegistry, data_dir: Path):
    """A registry that has the tenant open learns that another one changed its state."""
    await registry.create("acme")
    acme = registry.tenant("acme")
    await acme.messages.save(make_message("one"))
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as other:
        await other.suspend("acme")
    await registry._parts.periodic_tasks._follow_others()
    for task in list(registry._parts.periodic_tasks._background):
        await task
    await check_is_read_only(acme)
