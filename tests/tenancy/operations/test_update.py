"""What operators decide on: names, limits, protection."""

# tests look at files in between; nobody waits for them

import asyncio
from pathlib import Path

import pytest

from operators import bring_to, config
from tenantry import (
    TenantRegistry,
    TenantState,
)
from tenantry.errors import (
    QueryError,
    RevisionError,
    TenantBusyError,
)
from tenantry.limits import TenantLimits


class TestUpdate:
    """What an operator decides on."""

    async def test_changes_what_is_given(self, registry: TenantRegistry):
        """Names, protection and limits; what is left out stays, and changing nothing changes nothing."""
        await bring_to(registry, TenantState.ACTIVE)
        before = await registry.get("acme")
        limits = TenantLimits(calls_in_flight_max=5, durability="normal")
        updated = await registry.update("acme", display_name="Acme Ltd.", limits=limits)
        assert (updated.display_name, updated.limits) == ("Acme Ltd.", limits)
        assert updated.deletion_protected is before.deletion_protected
        assert updated == await registry.get("acme")
        assert await registry.update("acme", display_name="Acme Ltd.", limits=limits) == updated
        assert await registry.update("acme") == updated
        assert (await registry.update("acme", deletion_protected=True)).limits == limits

    async def test_of_two_that_decided_on_the_same_one_hears_of_it(self, registry: TenantRegistry):
        """With the revision that a decision was made on it takes effect once; nothing of the other is changed."""
        await bring_to(registry, TenantState.ACTIVE)
        read = await registry.get("acme")
        won = await registry.update("acme", display_name="won", if_revision=read.revision)
        with pytest.raises(RevisionError, match="read it again") as caught:
            await registry.update(
                "acme", display_name="lost", deletion_protected=True, if_revision=read.revision
            )
        assert (caught.value.revision, caught.value.current_revision) == (read.revision, won.revision)
        assert await registry.get("acme") == won
        assert (await registry.update("acme", display_name="won too", if_revision=won.revision)).display_name

    async def test_two_processes_decide_on_the_same(self, data_dir: Path):
        """Whatever they decide, one call happens and the other hears that the tenant has changed."""
        async with TenantRegistry(config(data_dir)) as one, TenantRegistry(config(data_dir)) as two:
            await bring_to(one, TenantState.ACTIVE)
            for _ in range(10):
                revision = (await one.get("acme")).revision
                outcomes = await asyncio.gather(
                    one.suspend("acme", if_revision=revision),
                    two.delete("acme", if_revision=revision),
                    return_exceptions=True,
                )
                # Of the loser that came in the middle of the other's steps.
                failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
                assert [type(error) for error in failed] in ([RevisionError], [TenantBusyError])
                if (await one.get("acme")).state is TenantState.DELETED:
                    await one.undelete("acme")
                await one.resume("acme")

    async def test_two_processes_update_at_once(self, data_dir: Path):
        """Each changes another field at the same time: no change is lost, and each is in the audit once."""
        async with TenantRegistry(config(data_dir)) as one, TenantRegistry(config(data_dir)) as two:
            await bring_to(one, TenantState.SUSPENDED)
            for number in range(10):
                await asyncio.gather(
                    one.update("acme", display_name=f"name {number}"),
                    two.update("acme", limits=TenantLimits(calls_in_flight_max=number + 1)),
                )
                tenant = await one.get("acme")
                assert (tenant.display_name, tenant.limits.calls_in_flight_max) == (
                    f"name {number}",
                    number + 1,
                )
            updates = [entry for entry in await one.audit.list() if entry.action == "update"]
            assert len(updates) == 20

    @pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\0b", "\ud800"])
    async def test_a_name_that_is_none(self, registry: TenantRegistry, name: str):
        """It is refused, for a new tenant as for an old one, and nothing is changed."""
        await bring_to(registry, TenantState.ACTIVE)
        before = await registry.get("acme")
        with pytest.raises(QueryError):
            await registry.update("acme", display_name=name)
        with pytest.raises(QueryError):
            await registry.create("globex", display_name=name)
        assert await registry.get("acme") == before
        assert [tenant.id for tenant in await registry.list()] == ["acme"]
