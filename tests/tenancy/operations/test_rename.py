"""A tenant under another id."""

# tests look at files in between; nobody waits for them

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import pytest

from operators import WAYS_TO_A_STATE, bring_to, config, contents, files_of, spoil
from tenantry import (
    TenantRegistry,
    TenantState,
)
from tenantry.errors import (
    DatabaseCorruptError,
    TenantExistsError,
    TenantNotFoundError,
    TenantryError,
)
from tenantry.events import (
    OperationStepped,
)
from tenants import (
    Recorder,
    database_path,
    make_message,
    query,
    tenant_files,
    until,
)


class TestRename:
    """A tenant under another id."""

    async def test_keeps_everything_but_the_id(self, registry: TenantRegistry, data_dir: Path):
        """Data, key and directory stay; the new id serves, a handle of the old one says that it does not exist."""
        await bring_to(registry, TenantState.ACTIVE)
        before, old = await registry.get("acme"), registry.tenant("acme")
        renamed = await registry.rename("acme", "umbrella")
        changed = {"id": "umbrella", "previous_id": "acme", "revision": renamed.revision}
        assert renamed == before.model_copy(update=changed)
        assert await contents(registry.tenant("umbrella")) == ["of acme"]
        for call in (contents(old), old.messages.save(make_message()), registry.get("acme")):
            with pytest.raises(TenantNotFoundError, match="'acme' does not exist"):
                await call
        assert files_of(data_dir, "acme") >= {"tenant.db", "lock"}
        assert [tenant.id for tenant in await registry.list()] == ["umbrella"]

    async def test_can_be_repeated(self, registry: TenantRegistry):
        """Who has lost the answer asks again and hears the same; to its own id a tenant is renamed at once."""
        await bring_to(registry, TenantState.ACTIVE)
        assert await registry.rename("acme", "acme") == await registry.get("acme")
        renamed = await registry.rename("acme", "umbrella")
        assert await registry.rename("acme", "umbrella") == renamed
        with pytest.raises(TenantNotFoundError, match="'acme' does not exist"):
            await registry.rename("acme", "another")
        with pytest.raises(TenantNotFoundError):
            await registry.rename("nobody", "somebody")
        await registry.delete("umbrella")
        await registry.purge("umbrella", force=True)
        with pytest.raises(TenantNotFoundError):
            await registry.rename("acme", "umbrella")

    async def test_an_id_that_is_taken(self, registry: TenantRegistry):
        """By a tenant in whatever state but purged: nothing changes."""
        await bring_to(registry, TenantState.ACTIVE)
        await bring_to(registry, TenantState.DELETED, "globex")
        with pytest.raises(TenantExistsError) as caught:
            await registry.rename("acme", "globex")
        assert caught.value.tenant_id == "globex"
        assert await contents(registry.tenant("acme")) == ["of acme"]
        await registry.purge("globex", force=True)
        assert (await registry.rename("acme", "globex")).id == "globex"
        assert await contents(registry.tenant("globex")) == ["of acme"]

    async def test_an_id_that_is_taken_meanwhile(self, registry: TenantRegistry, data_dir: Path):
        """Somebody else takes it between the look and the change: the tenant is as before, and usable."""
        await bring_to(registry, TenantState.ACTIVE)
        await bring_to(registry, TenantState.ACTIVE, "globex")
        before = await registry.get("acme")

        def take(event: object) -> None:
            if isinstance(event, OperationStepped) and event.step == "begun":
                query(data_dir / "catalog.db", "UPDATE tenants SET id = 'umbrella' WHERE id = 'globex'")

        registry.add_hook(take)
        with pytest.raises(TenantExistsError):
            await registry.rename("acme", "umbrella")
        after = await registry.get("acme")
        assert after == before.model_copy(update={"revision": after.revision})
        assert await contents(registry.tenant("acme")) == ["of acme"]

    async def test_two_tenants_swap_their_ids(self, registry: TenantRegistry):
        """By a third id, while both are open: each id then serves the other's data, and takes writes to it."""
        for tenant_id in ("a", "b"):
            await bring_to(registry, TenantState.ACTIVE, tenant_id)
        for old, new in (("a", "tmp"), ("b", "a"), ("tmp", "b")):
            await registry.rename(old, new)
        for tenant_id, other in (("a", "b"), ("b", "a")):
            await registry.tenant(tenant_id).messages.save(make_message("later"))
            assert await contents(registry.tenant(tenant_id)) == ["later", f"of {other}"]

    async def test_the_old_id_is_another_tenants(self, registry: TenantRegistry, data_dir: Path):
        """A new tenant under the old id has a directory of its own, and so has one after that."""
        await bring_to(registry, TenantState.ACTIVE)
        for number, new_id in enumerate(("first", "second"), start=1):
            await registry.rename("acme", new_id)
            assert (await registry.create("acme")).location == f"acme.{number}"
            await registry.tenant("acme").messages.save(make_message(f"acme.{number}"))
        assert await contents(registry.tenant("first")) == ["of acme"]
        assert await contents(registry.tenant("second")) == ["acme.1"]
        assert await contents(registry.tenant("acme")) == ["acme.2"]
        await registry.delete("second")
        await registry.purge("second", force=True)
        assert {path.parent.name for path in tenant_files(data_dir)} == {"acme", "acme.2"}

    @pytest.mark.parametrize("state", sorted(set(WAYS_TO_A_STATE) - {TenantState.ACTIVE}))
    async def test_in_every_state(self, registry: TenantRegistry, state: TenantState):
        """The state, its reason and its time go with it."""
        await bring_to(registry, state)
        before = await registry.get("acme")
        renamed = await registry.rename("acme", "umbrella")
        changed = {"id": "umbrella", "previous_id": "acme", "revision": renamed.revision}
        assert renamed == before.model_copy(update=changed)

    async def test_without_its_files(self, registry: TenantRegistry, data_dir: Path):
        """A tenant whose directory is gone can be renamed: nobody can have it open."""
        await bring_to(registry, TenantState.SUSPENDED)
        shutil.rmtree(database_path(data_dir, "acme").parent)
        assert (await registry.rename("acme", "umbrella")).state is TenantState.SUSPENDED

    async def test_under_load(self, registry: TenantRegistry):
        """Of 64 callers that write meanwhile nobody's acknowledged write is lost; the others hear that the id is gone."""
        await bring_to(registry, TenantState.ACTIVE)
        hook = Recorder()
        registry.add_hook(hook)
        acknowledged: list[str] = []
        outcomes: Counter[type] = Counter()

        async def write(caller: int) -> None:
            for number in range(1000):
                try:
                    await registry.tenant("acme").messages.save(make_message(f"{caller}-{number}"))
                except TenantryError as error:
                    outcomes[type(error)] += 1
                    return
                acknowledged.append(f"{caller}-{number}")

        callers = [asyncio.ensure_future(write(caller)) for caller in range(64)]
        await until(lambda: len(acknowledged) >= 256)
        await registry.rename("acme", "umbrella")
        await asyncio.gather(*callers)
        assert outcomes == {TenantNotFoundError: 64}
        stored = await registry.tenant("umbrella").messages.get_history("general")
        assert sorted(m.content for m in stored) == sorted([*acknowledged, "of acme"])

    async def test_callers_wait_for_the_end_of_it(self, registry: TenantRegistry):
        """Who calls while it is renamed is neither refused as busy nor served by the past: the new id's caller is served."""
        await bring_to(registry, TenantState.ACTIVE)
        calls: list[asyncio.Future[list[str]]] = []

        def call(event: object) -> None:
            if isinstance(event, OperationStepped) and event.step == "begun":
                calls.append(asyncio.ensure_future(contents(registry.tenant("acme"))))

        registry.add_hook(call)
        await registry.rename("acme", "umbrella")
        with pytest.raises(TenantNotFoundError):
            await calls[0]

    async def test_damage_is_noted_of_the_tenant_that_has_it(self, data_dir: Path):
        """A tenant whose file turns out damaged after its id went to another: that other is not quarantined for it."""
        async with TenantRegistry(config(data_dir)) as registry:
            for tenant_id in ("acme", "globex"):
                await bring_to(registry, TenantState.ACTIVE, tenant_id)
        spoil(database_path(data_dir, "acme"))
        async with TenantRegistry(config(data_dir)) as registry:
            tenant = await registry.get("acme")
            await registry.rename("acme", "damaged")
            await registry.rename("globex", "acme")
            # What an actor reports that was open until then.
            registry._parts.failed_tenants.start_closing(tenant, DatabaseCorruptError("damaged"))
            await registry._parts.failed_tenants.wait_ended()
            assert (await registry.get("damaged")).state is TenantState.QUARANTINED
            assert (await registry.get("acme")).state is TenantState.ACTIVE
            assert await contents(registry.tenant("acme")) == ["of globex"]
            await registry.delete("damaged")
            await registry.purge("damaged", force=True)
            registry._parts.failed_tenants.start_closing(tenant, DatabaseCorruptError("damaged"))
            await registry._parts.failed_tenants.wait_ended()
            states = query(data_dir / "catalog.db", "SELECT id, state FROM tenants ORDER BY id")
            assert states == [("acme", "active"), ("damaged", "purged")]
