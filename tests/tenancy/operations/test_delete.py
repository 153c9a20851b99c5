"""Deleting a tenant: protection, the grace period, and the ways back from it and out of it."""

# tests look at files in between; nobody waits for them

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from operators import WAYS_TO_A_STATE, bring_to, config, contents, files_of
from others import other_process
from tenantry import (
    TenantRegistry,
    TenantState,
)
from tenantry.errors import (
    DataDirectoryError,
    DeletionProtectedError,
    GracePeriodError,
    TenantBusyError,
    TenantNotFoundError,
    TenantStateError,
)
from tenantry.events import (
    BatchFinished,
    OperationEnded,
    OperationStepped,
)
from tenantry.limits import TenantLimits
from tenants import (
    MovedClock,
    Recorder,
    held_file,
    make_message,
    open_files,
    query,
    stored_contents,
    tenant_files,
    until,
)


class TestDelete:
    """Protection, the grace period, and the ways back from it and out of it."""

    async def test_a_protected_tenant(self, registry: TenantRegistry):
        """It is not deleted, by no repetition; without its protection it is."""
        await bring_to(registry, TenantState.ACTIVE)
        assert (await registry.update("acme", deletion_protected=True)).deletion_protected
        for _ in range(2):
            with pytest.raises(DeletionProtectedError, match="remove the protection") as caught:
                await registry.delete("acme")
        assert (caught.value.tenant_id, caught.value.state) == ("acme", TenantState.ACTIVE)
        assert await contents(registry.tenant("acme")) == ["of acme"]
        await registry.update("acme", deletion_protected=False)
        assert (await registry.delete("acme")).state is TenantState.DELETED

    @pytest.mark.parametrize("state", sorted(set(WAYS_TO_A_STATE) - {TenantState.DELETED}))
    async def test_undelete_leads_back(self, registry: TenantRegistry, state: TenantState):
        """A deleted tenant becomes again what it was, with its data and the state's reason; undeleting twice is no mistake."""
        await bring_to(registry, state)
        before = await registry.get("acme")
        deleted = await registry.delete("acme", reason="ended")
        assert (deleted.state, deleted.state_before, deleted.reason) == (TenantState.DELETED, state, "ended")
        undeleted = await registry.undelete("acme")
        assert (undeleted.state, undeleted.state_before, undeleted.purge_after) == (state, None, None)
        assert undeleted.reason == before.reason
        assert await registry.undelete("acme") == undeleted
        if state is TenantState.ACTIVE:
            assert await contents(registry.tenant("acme")) == ["of acme"]
        else:
            with pytest.raises(TenantStateError):
                await contents(registry.tenant("acme"))

    async def test_deleting_again_does_not_prolong(self, registry: TenantRegistry):
        """The grace period begins with the first delete."""
        await bring_to(registry, TenantState.ACTIVE)
        deleted = await registry.delete("acme")
        assert deleted.purge_after is not None
        assert deleted.purge_after - deleted.state_changed_at >= timedelta(days=6, hours=23)
        assert await registry.delete("acme") == deleted

    async def test_purge_waits_for_the_end_of_the_grace_period(self, data_dir: Path):
        """Before it is over the error says for how long; by force, or when it is over, the tenant goes."""
        clock = MovedClock()
        settings = config(data_dir, delete_grace_seconds=3600, clock_hold_seconds=0)
        async with TenantRegistry(settings, clock=clock) as registry:
            for tenant_id in ("acme", "globex"):
                await bring_to(registry, TenantState.DELETED, tenant_id)
                with pytest.raises(GracePeriodError, match="cannot be brought back") as caught:
                    await registry.purge(tenant_id)
                assert 3500 < caught.value.retry_after_seconds <= 3600
                assert caught.value.is_retryable
                assert stored_contents(data_dir, tenant_id) == [f"of {tenant_id}"]
            assert (await registry.purge("acme", force=True)).state is TenantState.PURGED
            clock.moved = timedelta(seconds=caught.value.retry_after_seconds)
            assert (await registry.purge("globex")).state is TenantState.PURGED
            assert tenant_files(data_dir) == []

    @pytest.mark.parametrize(
        "state", [TenantState.ACTIVE, TenantState.SUSPENDED, TenantState.ARCHIVED, TenantState.QUARANTINED]
    )
    async def test_only_a_deleted_tenant_is_purged(
        self, registry: TenantRegistry, data_dir: Path, state: TenantState
    ):
        """Not even by force, in no other state."""
        await bring_to(registry, state)
        with pytest.raises(TenantStateError, match="purge is not possible"):
            await registry.purge("acme", force=True)
        assert (await registry.get("acme")).state is state
        assert stored_contents(data_dir, "acme") == ["of acme"]

    async def test_a_purged_tenant_is_gone(self, registry: TenantRegistry, data_dir: Path):
        """Its files are removed, every call of it says that it does not exist, and purging it again is no mistake."""
        await bring_to(registry, TenantState.DELETED)
        purged = await registry.purge("acme", force=True)
        assert (purged.state, purged.intent) == (TenantState.PURGED, None)
        assert tenant_files(data_dir) == []
        assert await registry.purge("acme") == purged
        assert (await registry.list(), await registry.list(state=TenantState.PURGED)) == ((), (purged,))
        for call in (registry.get, registry.delete, registry.undelete, registry.archive, registry.repair):
            with pytest.raises(TenantNotFoundError):
                await call("acme")
        with pytest.raises(TenantNotFoundError):
            await contents(registry.tenant("acme"))
        with pytest.raises(TenantNotFoundError):
            await registry.purge("nobody")

    async def test_the_next_of_the_same_id_shares_nothing(self, registry: TenantRegistry, data_dir: Path):
        """A new tenant under a purged one's id has nothing of it: no row, no setting, no directory, no key."""
        await bring_to(registry, TenantState.ACTIVE)
        first = await registry.update("acme", display_name="Old", limits=TenantLimits(calls_in_flight_max=7))
        acme = registry.tenant("acme")
        await registry.delete("acme")
        await registry.purge("acme", force=True)
        second = await registry.create("acme")
        assert second.uid != first.uid
        assert second.location != first.location
        assert (second.display_name, second.limits, second.previous_id) == ("acme", TenantLimits(), None)
        assert await contents(acme) == []
        await acme.messages.save(make_message("new"))
        assert await contents(acme) == ["new"]
        assert files_of(data_dir, first.location) == set()

    async def test_what_cannot_be_removed_is_purged_by_the_next_call(
        self, registry: TenantRegistry, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A file that the system does not let go: the tenant serves nobody any more, and the next call finishes the purge."""
        await bring_to(registry, TenantState.DELETED)

        def fail(*_: object) -> None:
            raise PermissionError(13, "not permitted")

        with monkeypatch.context() as patched:  # the tests may run as root, whom no rights keep off
            patched.setattr(shutil, "rmtree", fail)
            with pytest.raises(DataDirectoryError, match=r"cannot remove .*not permitted"):
                await registry.purge("acme", force=True)
            with pytest.raises(TenantNotFoundError):
                await contents(registry.tenant("acme"))
            with pytest.raises(DataDirectoryError):
                await registry.create("acme")
        assert stored_contents(data_dir, "acme") == ["of acme"]
        assert (await registry.create("acme")).state is TenantState.ACTIVE
        assert await contents(registry.tenant("acme")) == []
        assert len(tenant_files(data_dir)) == len(files_of(data_dir, "acme.1"))

    async def test_the_registry_purges_by_itself(self, data_dir: Path):
        """Whose grace period has passed goes without a call, once a minute; others, and who is undeleted, stay."""
        clock, hook = MovedClock(), Recorder()
        settings = config(
            data_dir, delete_grace_seconds=3600, clock_hold_seconds=0, catalog_poll_interval_seconds=0.01
        )
        async with TenantRegistry(settings, clock=clock, hooks=[hook]) as registry:
            for tenant_id in ("acme", "globex", "initech"):
                await bring_to(registry, TenantState.DELETED, tenant_id)
            await registry.undelete("globex")
            clock.moved = timedelta(hours=1, minutes=1)
            await bring_to(registry, TenantState.DELETED, "late")
            clock.waited_seconds += 60
            for tenant_id in ("acme", "initech"):
                await hook.wait_for(OperationEnded, tenant_id=tenant_id, action="purge", outcome="ok")
            assert {path.parent.name for path in tenant_files(data_dir)} == {"globex", "late"}
            [entry] = [e for e in await registry.audit.list(tenant_id="acme") if e.action == "purge"]
            assert (entry.principal, entry.outcome) == ("tenantry", "ok")
            # Before the minute is over nobody looks again, though somebody's time has come.
            clock.moved += timedelta(hours=1)
            looks = len(hook.of(BatchFinished, tenant_id="(catalog)"))
            await until(lambda: len(hook.of(BatchFinished, tenant_id="(catalog)")) > looks + 3)
            assert stored_contents(data_dir, "late") == ["of late"]
            clock.waited_seconds += 60
            await hook.wait_for(OperationEnded, tenant_id="late", action="purge", outcome="ok")
            assert hook.of(OperationEnded, tenant_id="globex", action="purge") == []

    async def test_closing_does_not_wait_for_all_that_is_to_be_purged(self, data_dir: Path):
        """A registry that closes finishes the purge that it is at and leaves the others to the next."""
        clock, hook = MovedClock(), Recorder()
        async with TenantRegistry(config(data_dir)) as registry:
            for number in range(5):
                await bring_to(registry, TenantState.DELETED, f"t{number}")
        clock.moved = timedelta(days=30)
        settings = config(data_dir, clock_hold_seconds=0)
        async with TenantRegistry(settings, clock=clock, hooks=[hook]):
            await hook.wait_for(OperationStepped, action="purge", step="begun")
        assert open_files(data_dir) == []
        assert len(hook.of(OperationEnded, action="purge")) < 5
        assert {event.outcome for event in hook.of(OperationEnded, action="purge")} == {"ok"}
        states = query(data_dir / "catalog.db", "SELECT state FROM tenants WHERE intent IS NULL")
        assert len(states) == 5

    async def test_what_cannot_be_purged_by_itself_holds_up_nobody(self, data_dir: Path):
        """One tenant that is busy stays deleted, the others go; whatever else goes wrong, the next minute tries again."""
        clock, hook = MovedClock(), Recorder()
        settings = config(
            data_dir, delete_grace_seconds=3600, clock_hold_seconds=0, catalog_poll_interval_seconds=0.01
        )
        async with TenantRegistry(settings, clock=clock, hooks=[hook]) as registry:
            for tenant_id in ("acme", "globex", "initech"):
                await bring_to(registry, TenantState.DELETED, tenant_id)
            query(data_dir / "catalog.db", "UPDATE tenants SET intent = 'no JSON' WHERE id = 'initech'")
            clock.moved = timedelta(hours=2)
            clock.waited_seconds += 60
            looks = len(hook.of(BatchFinished, tenant_id="(catalog)"))
            await until(lambda: len(hook.of(BatchFinished, tenant_id="(catalog)")) > looks + 5)
            assert len(tenant_files(data_dir)) == 6
            query(data_dir / "catalog.db", "UPDATE tenants SET intent = NULL")
            with held_file(data_dir / "operations" / (await registry.get("acme")).uid):
                clock.waited_seconds += 60
                for tenant_id in ("globex", "initech"):
                    await hook.wait_for(OperationEnded, tenant_id=tenant_id, action="purge", outcome="ok")
                assert (await registry.get("acme")).state is TenantState.DELETED
                assert hook.of(OperationEnded, tenant_id="acme", action="purge", outcome="busy") != []
            clock.waited_seconds += 60
            await hook.wait_for(OperationEnded, tenant_id="acme", action="purge", outcome="ok")
            assert tenant_files(data_dir) == []

    async def test_a_crashed_call_of_another_process_is_finished_while_open(self, data_dir: Path):
        """No restart and no call is needed: within a minute a registry finishes what a process that died had begun."""
        clock, hook = MovedClock(), Recorder()
        settings = config(data_dir, catalog_poll_interval_seconds=0.01)
        async with TenantRegistry(settings, clock=clock, hooks=[hook]) as registry:
            await bring_to(registry, TenantState.SUSPENDED)
            with other_process(data_dir) as other:
                assert other.do("archive", "acme", stop_at="begun") == "stopped"
                clock.waited_seconds += 60  # somebody is at it: left alone
                with pytest.raises(TenantBusyError):
                    await registry.resume("acme")
                assert hook.of(OperationStepped, action="archive") == []
                other.kill()
            clock.waited_seconds += 60
            await hook.wait_for(OperationStepped, action="archive", step="finished")
            assert (await registry.get("acme")).state is TenantState.ARCHIVED
