"""Lifecycle operations beside another process on the same data directory."""

# tests look at files in between; nobody waits for them

import json
from functools import partial
from pathlib import Path

import pytest

from operators import INTENT, bring_to, config, contents, files_of, spoil
from others import other_process
from tenantry import (
    TenantRecord,
    TenantRegistry,
    TenantState,
)
from tenantry.errors import (
    TenantBusyError,
    TenantExistsError,
    TenantNotFoundError,
    TenantOwnedElsewhereError,
)
from tenantry.events import (
    OperationStepped,
)
from tenantry.files import lock_file
from tenantry.tenancy.tenant_record import Intent
from tenants import (
    database_path,
    held_file,
    make_message,
    query,
    stored_contents,
    tenant_files,
    until,
)


class TestProcesses:
    """Lifecycle operations beside another process on the same data directory."""

    @pytest.mark.parametrize("step", ["begun", "closed", "compacted", "finished"])
    async def test_busy_while_another_is_at_it(self, registry: TenantRegistry, data_dir: Path, step: str):
        """While a stopped process is at a call the others are told so; when it dies the next call finishes that one."""
        await bring_to(registry, TenantState.SUSPENDED)
        with other_process(data_dir) as other:
            assert other.do("archive", "acme", reason="quiet", stop_at=step) == "stopped"
            if step == "finished":
                assert (await registry.archive("acme")).reason == "quiet"
            else:
                for call in (registry.resume, registry.archive, registry.delete, registry.unarchive):
                    with pytest.raises(TenantBusyError, match="busy with 'archive'") as caught:
                        await call("acme")
                    assert (caught.value.action, caught.value.is_retryable) == ("archive", True)
                    assert caught.value.retry_after_seconds is not None
                with pytest.raises(TenantBusyError):
                    await registry.rename("acme", "umbrella")
                with pytest.raises(TenantBusyError):
                    await registry.update("acme", display_name="Acme")
            await bring_to(registry, TenantState.ACTIVE, "globex")  # nobody else notices
            other.kill()
        # Whichever comes next finds the old or the new state; here the new, since compacting can be finished.
        unarchived = await registry.unarchive("acme")
        assert (unarchived.state, unarchived.intent) == (TenantState.ACTIVE, None)
        assert await contents(registry.tenant("acme")) == ["of acme"]
        async with TenantRegistry(registry.config):
            assert list((data_dir / "operations").iterdir()) == []

    async def test_a_leftover_that_cannot_be_finished_is_taken_back(self, data_dir: Path):
        """A database that cannot be compacted any more: whoever meets the leftover hears why, and the tenant is as before."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.SUSPENDED)
            before = await registry.get("acme")
        with other_process(data_dir) as other:
            assert other.do("archive", "acme", reason="quiet", stop_at="closed") == "stopped"
            other.kill()
        spoil(database_path(data_dir, "acme"))
        async with TenantRegistry(config(data_dir)) as registry:
            after = await registry.get("acme")
            assert after == before.model_copy(update={"revision": after.revision})
            [entry, *_] = await registry.audit.list()
            assert (entry.action, entry.outcome) == ("archive", "corrupt")
            assert (await registry.resume("acme")).state is TenantState.ACTIVE

    async def test_an_id_that_is_being_purged(self, registry: TenantRegistry, data_dir: Path):
        """While another process purges a tenant its id cannot be taken; afterwards it can."""
        await bring_to(registry, TenantState.DELETED)
        await bring_to(registry, TenantState.ACTIVE, "globex")
        with other_process(data_dir) as other:
            assert other.do("purge", "acme", force=True, stop_at="begun") == "stopped"
            with pytest.raises(TenantBusyError):
                await registry.create("acme")
            with pytest.raises(TenantExistsError):
                await registry.rename("globex", "acme")
            assert other.go_on() == "ok"
        assert (await registry.rename("globex", "acme")).id == "acme"
        assert await contents(registry.tenant("acme")) == ["of globex"]

    async def test_one_that_was_only_slow(self, registry: TenantRegistry, data_dir: Path):
        """A stopped process that goes on finishes its call as if nothing had been."""
        await bring_to(registry, TenantState.SUSPENDED)
        with other_process(data_dir) as other:
            assert other.do("archive", "acme", stop_at="closed") == "stopped"
            with pytest.raises(TenantBusyError):
                await registry.unarchive("acme")
            assert other.go_on() == "ok"
        assert (await registry.get("acme")).state is TenantState.ARCHIVED

    async def test_a_call_that_is_finished_and_another_begun_meanwhile(self, data_dir: Path):
        """Who was about to finish a dead process's call looks again under the lock: it may be another's other call by then."""
        async with TenantRegistry(config(data_dir, catalog_poll_interval_seconds=0.01)) as registry:
            await bring_to(registry, TenantState.SUSPENDED)
            # It is not to finish anything by itself here: the next time that it would is in a minute.
            await until(
                lambda: (
                    registry._parts.periodic_tasks._chores is not None
                    and registry._parts.periodic_tasks._chores.done()
                )
            )
            with other_process(data_dir) as other:
                assert other.do("archive", "acme", stop_at="begun") == "stopped"
                other.kill()
            leftover = await registry.get("acme")
            await registry.delete("acme")  # finishes the archive first
            with other_process(data_dir) as other:
                assert other.do("purge", "acme", force=True, stop_at="begun") == "stopped"
                other.kill()
            for _ in range(2):
                await registry._runner.finish_leftover(leftover, by="tenantry")
        assert tenant_files(data_dir) == []
        assert query(data_dir / "catalog.db", "SELECT state, intent FROM tenants") == [("purged", None)]

    @pytest.mark.parametrize("action", ["archive", "purge", "rename", "repair"])
    async def test_another_process_lets_go(self, data_dir: Path, action: str):
        """A tenant that another process has open is closed there at once, and its callers there are forwarded or refused."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.QUARANTINED if action == "repair" else TenantState.ACTIVE)
        async with TenantRegistry(config(data_dir)) as registry:
            with other_process(data_dir, catalog_poll_interval_seconds=0.05) as other:
                if action == "repair":
                    await registry.repair("acme")
                    await registry.quarantine("acme", reason="again")
                else:
                    assert other.do("save", "acme", "theirs") == "ok"
                if action == "purge":
                    await registry.delete("acme")
                    await registry.purge("acme", force=True)
                    assert tenant_files(data_dir) == []
                elif action == "rename":
                    await registry.rename("acme", "umbrella")
                    await registry.create("acme")
                    await registry.tenant("acme").messages.save(make_message("new"))
                    assert await contents(registry.tenant("umbrella")) == ["of acme", "theirs"]
                elif action == "archive":
                    await registry.archive("acme")
                    assert files_of(data_dir, "acme") == {"tenant.db", "lock"}
                    assert stored_contents(data_dir, "acme") == ["of acme", "theirs"]
                else:
                    await registry.repair("acme")
                outcome = await other.ask("save", "acme")
                refusal = {"archive": "TenantStateError", "purge": "TenantNotFoundError"}.get(action)
                assert outcome == "ok" if refusal is None else outcome["error"] == refusal

    async def test_an_id_is_never_served_from_the_past(self, data_dir: Path):
        """A tenant that another registry has open is renamed and its id taken at once: who asks there is served the new one."""
        async with TenantRegistry(config(data_dir, catalog_poll_interval_seconds=1)) as there:
            await bring_to(there, TenantState.ACTIVE)
            async with TenantRegistry(config(data_dir)) as here:
                await here.rename("acme", "umbrella")
                await here.create("acme")
            assert await contents(there.tenant("acme")) == []
            assert await contents(there.tenant("umbrella")) == ["of acme"]

    async def test_another_process_that_does_not_let_go(self, data_dir: Path):
        """A process that hangs with the tenant open: the call gives up, says whose it is, and the tenant is as before."""
        async with TenantRegistry(config(data_dir, call_timeout_seconds=1)) as registry:
            await bring_to(registry, TenantState.ACTIVE)
            await registry.create("globex")
        async with TenantRegistry(config(data_dir, call_timeout_seconds=1)) as registry:
            with other_process(data_dir) as other:
                assert other.do("save", "acme") == "ok"
                assert other.do("suspend", "globex", stop_at="suspended") == "stopped"
                for call in (partial(registry.archive, "acme"), partial(registry.rename, "acme", "umbrella")):
                    before = await registry.get("acme")
                    with pytest.raises(TenantOwnedElsewhereError) as caught:
                        await call()
                    assert caught.value.pid == other.pid
                    after = await registry.get("acme")
                    assert after == before.model_copy(update={"revision": after.revision})
                with pytest.raises(TenantOwnedElsewhereError, match="does not answer"):
                    await registry.delete("acme")
                assert (await registry.get("acme")).state is TenantState.DELETED
                with pytest.raises(TenantOwnedElsewhereError):
                    await registry.purge("acme", force=True)
                with pytest.raises(TenantNotFoundError):
                    await contents(registry.tenant("acme"))
                other.kill()
            assert (await registry.purge("acme")).state is TenantState.PURGED
            assert files_of(data_dir, "acme") == set()

    async def test_damage_that_is_noted_meanwhile_stays_noted(self, data_dir: Path):
        """Another process sets the tenant apart while a call of several steps is at it, and that one fails: not forgotten."""
        async with TenantRegistry(config(data_dir, call_timeout_seconds=1)) as registry:
            await bring_to(registry, TenantState.ACTIVE)

            def note(event: object) -> None:
                if isinstance(event, OperationStepped) and event.step == "begun":
                    changes = "state = 'quarantined', reason = 'damaged', revision = revision + 1"
                    query(data_dir / "catalog.db", f"UPDATE tenants SET {changes}")

            registry.add_hook(note)
            await registry._parts.pool.close_tenant("acme", "idle")
            lock = database_path(data_dir, "acme").with_name("lock")
            with held_file(lock), pytest.raises(TenantOwnedElsewhereError):
                await registry.rename("acme", "umbrella")
            tenant = await registry.get("acme")
            assert (tenant.state, tenant.reason, tenant.intent) == (
                TenantState.QUARANTINED,
                "damaged",
                None,
            )
            assert (await registry.rename("acme", "umbrella")).state is TenantState.QUARANTINED

    async def test_a_call_of_a_newer_tenantry(self, data_dir: Path):
        """What this version cannot finish it leaves alone: the tenant is busy, and everybody else is served."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.ACTIVE)
        query(data_dir / "catalog.db", f"UPDATE tenants SET intent = '{INTENT}'")
        async with TenantRegistry(config(data_dir)) as registry:
            with pytest.raises(TenantBusyError, match="busy with 'transmogrify'"):
                await contents(registry.tenant("acme"))
            with pytest.raises(TenantBusyError, match="busy with 'transmogrify'"):
                await registry.suspend("acme")
            await bring_to(registry, TenantState.ACTIVE, "globex")

    async def test_locks_of_processes_that_died_are_removed(self, data_dir: Path):
        """A lock that nobody holds goes when a registry opens, with a name in it or without; one that is held stays."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.SUSPENDED)
            uid = (await registry.get("acme")).uid
            operations = data_dir / "operations"
            (operations / "dead").write_text(json.dumps({"pid": 1, "host": "gone"}))
            (operations / "new").touch()
            with other_process(data_dir) as other:
                assert other.do("archive", "acme", stop_at="begun") == "stopped"
                async with TenantRegistry(config(data_dir)):
                    assert {path.name for path in operations.iterdir()} == {uid}

    async def test_housekeeping_is_in_no_calls_way(
        self, registry: TenantRegistry, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A call that ends while it looks is no leftover, and locks of the dead wait: a call would find them held by it."""
        await bring_to(registry, TenantState.SUSPENDED)
        (data_dir / "operations" / "dead").write_text(json.dumps({"pid": 1, "host": "gone"}))
        tenant = await registry.get("acme")
        begun = tenant.model_copy(update={"intent": Intent.model_validate_json(INTENT)})
        looks = iter([begun])

        async def under_way() -> list[TenantRecord]:
            return [next(looks)]

        def acquire(*_: object, **__: object) -> None:
            pytest.fail("a lock is taken")

        monkeypatch.setattr(registry._catalog, "under_way", under_way)
        monkeypatch.setattr(lock_file.LockFile, "acquire", acquire)
        await registry._runner.reconcile()
        assert list(looks) == []
