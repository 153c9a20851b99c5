"""What operators do to a tenant: archive, delete and its ways back, purge, rename, repair, update, and what each leaves behind.

What a crash leaves of them is in ``test_crashes.py``, their audit in ``test_admin_audit.py``.
"""

# tests look at files in between; nobody waits for them

import asyncio
import itertools
import json
import os
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from others import other_process
from tenantry import (
    RegistryConfig,
    Schema,
    Statement,
    TenantHandle,
    TenantRecord,
    TenantRegistry,
    TenantState,
)
from tenantry.errors import (
    ConstraintViolationError,
    DatabaseCorruptError,
    DataDirectoryError,
    DeletionProtectedError,
    GracePeriodError,
    MigrationError,
    PersistenceConnectionError,
    QueryError,
    RevisionError,
    TenantBusyError,
    TenantExistsError,
    TenantNotFoundError,
    TenantOwnedElsewhereError,
    TenantQuarantinedError,
    TenantryError,
    TenantStateError,
    TenantSuspendedError,
)
from tenantry.events import (
    BatchFinished,
    OperationEnded,
    OperationStepped,
    StoreConnected,
)
from tenantry.files import lock_file
from tenantry.limits import TenantLimits
from tenantry.storage.sqlite import maintenance_connection
from tenantry.storage.sqlite.ownership import FileOwnership
from tenantry.tenancy.operations.expected_revision import expecting
from tenantry.tenancy.tenant_record import Intent
from tenants import (
    MovedClock,
    Recorder,
    damage_index,
    database_path,
    held_file,
    held_writer,
    make_message,
    open_files,
    query,
    stored_contents,
    tenant_files,
    until,
    write_pack,
)

WAYS_TO_A_STATE = {
    TenantState.ACTIVE: [],
    TenantState.SUSPENDED: ["suspend"],
    TenantState.ARCHIVED: ["archive"],
    TenantState.QUARANTINED: ["quarantine"],
    TenantState.DELETED: ["delete"],
}
PACKAGES = (f"lifecycle_pack_{number}" for number in itertools.count())
DELETE_MOST = Statement("test.delete", "DELETE FROM messages WHERE seq > 1")
SWAP = [("acme", "tmp"), ("globex", "acme"), ("tmp", "globex")]
# Of a call that only a newer tenantry knows.
INTENT = json.dumps({"action": "transmogrify", "arguments": {}, "begun_at": "2026-01-01T00:00:00Z"})
# Refuses what makes a tenant active, as long as it is there: a catalog that cannot be written at the worst moment.
REFUSE_ACTIVE = """
CREATE TRIGGER refuse BEFORE UPDATE ON tenants WHEN new.state = 'active' AND new.intent IS NULL BEGIN
    SELECT RAISE(ABORT, 'refused');
END
"""


@pytest.fixture
def packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes a schema named ``pack`` of one migration, each in a package of its own."""
    monkeypatch.syspath_prepend(tmp_path / "packs")

    def make(sql: str) -> Schema:
        return Schema("pack", write_pack(tmp_path / "packs", next(PACKAGES), sql))

    return make


def config(data_dir: Path, **fields: Any) -> RegistryConfig:
    """Return settings for a small pool."""
    return RegistryConfig(data_dir=data_dir, **{"open_tenants_max": 4, **fields})


async def bring_to(registry: TenantRegistry, state: TenantState, tenant_id: str = "acme") -> None:
    """Make a tenant with one message, and bring it into a state."""
    await registry.create(tenant_id)
    await registry.tenant(tenant_id).messages.save(make_message(f"of {tenant_id}"))
    for action in WAYS_TO_A_STATE[state]:
        keywords = {"reason": "odd"} if action == "quarantine" else {}
        await getattr(registry, action)(tenant_id, **keywords)


async def contents(handle: TenantHandle) -> list[str]:
    """Return what a tenant's messages say."""
    return sorted(message.content for message in await handle.messages.get_history("general"))


def files_of(data_dir: Path, tenant_id: str) -> set[str]:
    """Return the names of the files in the directory of this name."""
    return {path.name for path in tenant_files(data_dir) if path.parent.name == tenant_id}


def spoil(path: Path) -> None:
    """Overwrite everything of a closed database but its first page."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def query_with_sha256(path: Path, sql: str) -> None:
    """Run a statement on a database whose index calls ``sha256``."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("sha256", 1, str, deterministic=True)
        connection.execute(sql)


@contextmanager
def refused_activations(data_dir: Path) -> Iterator[None]:
    """Keep the catalog from calling any tenant active."""
    query(data_dir / "catalog.db", REFUSE_ACTIVE)
    yield
    query(data_dir / "catalog.db", "DROP TRIGGER refuse")


class TestArchive:
    """Archive and unarchive."""

    async def test_leaves_one_small_file(self, registry: TenantRegistry, data_dir: Path):
        """The space of deleted rows is given back, nothing lies beside the file, and unarchived all that was there is there."""
        await bring_to(registry, TenantState.ACTIVE)
        acme = registry.tenant("acme")
        await acme.messages.save_many([make_message("x" * 1000) for _ in range(500)])
        await registry.suspend("acme")
        size_bytes = database_path(data_dir, "acme").stat().st_size
        await registry.resume("acme")
        await acme._session.write(DELETE_MOST)
        archived = await registry.archive("acme", reason="quiet")
        assert (archived.state, archived.reason, archived.intent) == (TenantState.ARCHIVED, "quiet", None)
        assert files_of(data_dir, "acme") == {"tenant.db", "lock"}
        assert database_path(data_dir, "acme").stat().st_size < size_bytes / 2
        with pytest.raises(TenantStateError, match=r"'acme' is archived \(quiet\): unarchive it first"):
            await contents(acme)
        assert await registry.archive("acme") == archived
        unarchived = await registry.unarchive("acme")
        assert (unarchived.state, unarchived.reason) == (TenantState.ACTIVE, None)
        assert await contents(acme) == ["of acme"]
        assert await registry.unarchive("acme") == unarchived

    async def test_a_suspended_tenant(self, registry: TenantRegistry):
        """It can be archived too; the way back leads to active."""
        await bring_to(registry, TenantState.SUSPENDED)
        assert (await registry.archive("acme")).state is TenantState.ARCHIVED
        assert (await registry.unarchive("acme")).state is TenantState.ACTIVE

    async def test_finishes_the_calls_that_were_taken_in(self, registry: TenantRegistry):
        """Writes that were under way are in the archive; those that came too late are refused, and not there."""
        await bring_to(registry, TenantState.ACTIVE)
        messages = registry.tenant("acme").messages
        writes = [asyncio.ensure_future(messages.save(make_message(f"{number}"))) for number in range(64)]
        await asyncio.sleep(0)
        await registry.archive("acme")
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), TenantStateError}
        await registry.unarchive("acme")
        kept = {f"{number}" for number, outcome in enumerate(outcomes) if outcome is None}
        assert set(await contents(registry.tenant("acme"))) == {*kept, "of acme"}

    @pytest.mark.parametrize("way", ["damaged", "missing", "empty", "no directory"])
    async def test_what_cannot_be_compacted_is_as_before(self, data_dir: Path, way: str):
        """A database that SQLite cannot rebuild: the caller hears why, and the tenant is exactly as it was."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.SUSPENDED)
            before = await registry.get("acme")
            path = database_path(data_dir, "acme")
            if way == "damaged":
                spoil(path)
            elif way == "empty":
                os.truncate(path, 0)
            else:
                shutil.rmtree(path.parent) if way == "no directory" else path.unlink()
            left = tenant_files(data_dir)
            with pytest.raises(DatabaseCorruptError):
                await registry.archive("acme", reason="quiet")
            assert tenant_files(data_dir) == left
            after = await registry.get("acme")
            assert after == before.model_copy(update={"revision": after.revision})

    @pytest.mark.parametrize("linked", ["tenant.db", "acme", "82"])
    async def test_a_link_is_not_followed(self, data_dir: Path, tmp_path: Path, linked: str):
        """No lifecycle operation works on files outside of the data directory, whatever leads there."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.SUSPENDED)
            [path] = list((data_dir / "tenants").rglob(linked))
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
            with pytest.raises(DataDirectoryError, match="is a link"):
                await registry.archive("acme")
            await registry.delete("acme")
            with pytest.raises(DataDirectoryError, match="is a link"):
                await registry.purge("acme", force=True)
            assert (tmp_path / "elsewhere").exists()
            path.unlink()
            (tmp_path / "elsewhere").rename(path)
            await registry.purge("acme")
            assert tenant_files(data_dir) == []


class TestDelete:
    """Protection, the grace period, and the ways back from it and out of it."""

    async def test_a_protected_tenant(self, registry: TenantRegistry):
        """It is not deleted, by no repetition; without its protection it is."""
        await bring_to(registry, TenantState.ACTIVE)
        assert (await registry.update("acme", deletion_protected=True)).deletion_protected
        for _ in range(2):
            with pytest.raises(
                DeletionProtectedError, match="set deletion_protected to False first"
            ) as caught:
                await registry.delete("acme")
        assert (caught.value.tenant_id, caught.value.state) == ("acme", TenantState.ACTIVE)
        assert await contents(registry.tenant("acme")) == ["of acme"]
        await registry.update("acme", deletion_protected=False)
        assert (await registry.delete("acme")).state is TenantState.DELETED

    @pytest.mark.parametrize("state", sorted(set(WAYS_TO_A_STATE) - {TenantState.DELETED}))
    async def test_undelete_leads_back(self, registry: TenantRegistry, state: TenantState):
        """A deleted tenant becomes again what it was, with its data; undeleting twice is no mistake."""
        await bring_to(registry, state)
        deleted = await registry.delete("acme", reason="ended")
        assert (deleted.state, deleted.state_before, deleted.reason) == (TenantState.DELETED, state, "ended")
        undeleted = await registry.undelete("acme")
        assert (undeleted.state, undeleted.state_before, undeleted.purge_after) == (state, None, None)
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


class TestRepair:
    """A quarantined tenant's way back."""

    async def test_a_damaged_index_is_built_anew(self, data_dir: Path):
        """What an index has lost is found again, the tenant serves, and says which schemas it is at."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.QUARANTINED)
        damage_index(database_path(data_dir, "acme"), "messages_channel", b"general")
        async with TenantRegistry(config(data_dir)) as registry:
            repaired = await registry.repair("acme")
            assert (repaired.state, repaired.reason, repaired.intent) == (TenantState.ACTIVE, None, None)
            assert repaired.schema_versions == {"company": 1}
            assert await contents(registry.tenant("acme")) == ["of acme"]
            assert await registry.repair("acme") == repaired
        assert query(database_path(data_dir, "acme"), "PRAGMA integrity_check") == [("ok",)]

    @pytest.mark.parametrize("way", ["damaged", "no database", "missing", "empty"])
    async def test_beyond_repair(self, data_dir: Path, way: str):
        """It stays quarantined for the reason that it was, and its file as it is; the error advises a snapshot."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.QUARANTINED)
            before = await registry.get("acme")
            path = database_path(data_dir, "acme")
            if way == "damaged":
                spoil(path)
            elif way == "missing":
                path.unlink()
            else:
                path.write_bytes(b"no database " * 500 if way == "no database" else b"")
            left = path.read_bytes() if path.exists() else None
            for _ in range(2):
                with pytest.raises(DatabaseCorruptError, match="restore a snapshot"):
                    await registry.repair("acme")
            after = await registry.get("acme")
            assert after == before.model_copy(update={"revision": after.revision})
            with pytest.raises(TenantQuarantinedError, match=r"quarantined \(odd\)"):
                await contents(registry.tenant("acme"))
            assert (path.read_bytes() if path.exists() else None) == left
            assert registry.tenant("acme").statistics() is None

    async def test_a_migration_that_fails_still(self, data_dir: Path, packs: Any):
        """The tenant stays quarantined until the migration is mended; then repairing applies it."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.ACTIVE)
        async with TenantRegistry(config(data_dir), schemas=[packs("CREATE nonsense;")]) as registry:
            with pytest.raises(TenantQuarantinedError):
                await contents(registry.tenant("acme"))
            before = await registry.get("acme")
            with pytest.raises(MigrationError):
                await registry.repair("acme")
            after = await registry.get("acme")
            assert (after.state, after.reason) == (TenantState.QUARANTINED, before.reason)
        async with TenantRegistry(config(data_dir), schemas=[packs("CREATE TABLE t (n);")]) as registry:
            assert (await registry.repair("acme")).schema_versions == {"company": 1, "pack": 1}
            assert await contents(registry.tenant("acme")) == ["of acme"]

    async def test_an_index_that_calls_our_functions(self, data_dir: Path, packs: Any):
        """What the tenant's own connections can compute, repairing and compacting can too."""
        pack = packs("CREATE TABLE t (n TEXT); CREATE INDEX t_digest ON t (sha256(n));")
        async with TenantRegistry(config(data_dir), schemas=[pack]) as registry:
            await bring_to(registry, TenantState.QUARANTINED)
            query_with_sha256(database_path(data_dir, "acme"), "INSERT INTO t VALUES ('x')")
            await registry.repair("acme")
            await registry.archive("acme")
            assert (await registry.unarchive("acme")).state is TenantState.ACTIVE

    async def test_a_file_that_is_busy_is_not_beyond_repair(
        self, registry: TenantRegistry, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """What the moment refuses is not called damage, whose cure, an old snapshot, would cost data."""
        monkeypatch.setattr(maintenance_connection, "_BUSY_SECONDS", 0.0)
        await bring_to(registry, TenantState.QUARANTINED)
        damage_index(database_path(data_dir, "acme"), "messages_channel", b"general")
        with (
            held_writer(database_path(data_dir, "acme")),
            pytest.raises(QueryError, match="SQLITE_BUSY") as caught,
        ):
            await registry.repair("acme")
        assert caught.value.is_transient
        assert (await registry.repair("acme")).state is TenantState.ACTIVE

    async def test_only_a_quarantined_tenant(self, registry: TenantRegistry):
        """Of an active one nothing is to be repaired; others are refused."""
        await bring_to(registry, TenantState.ACTIVE)
        assert (await registry.repair("acme")).state is TenantState.ACTIVE
        await registry.suspend("acme")
        with pytest.raises(TenantSuspendedError, match="repair is not possible"):
            await registry.repair("acme")


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
        won = await registry.update("acme", display_name="won", revision=read.revision)
        with pytest.raises(RevisionError, match="read it again") as caught:
            await registry.update(
                "acme", display_name="lost", deletion_protected=True, revision=read.revision
            )
        assert (caught.value.revision, caught.value.current_revision) == (read.revision, won.revision)
        assert await registry.get("acme") == won
        assert (await registry.update("acme", display_name="won too", revision=won.revision)).display_name

    async def test_two_processes_decide_on_the_same(self, data_dir: Path):
        """Whatever they decide, one call happens and the other hears that the tenant has changed."""
        async with TenantRegistry(config(data_dir)) as one, TenantRegistry(config(data_dir)) as two:
            await bring_to(one, TenantState.ACTIVE)
            for _ in range(10):
                with expecting((await one.get("acme")).revision):
                    outcomes = await asyncio.gather(
                        one.suspend("acme"), two.delete("acme"), return_exceptions=True
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


class TestOpeningForACall:
    """A tenant that its own lifecycle operation opens, before the catalog says that it serves anybody."""

    async def test_a_create_that_cannot_be_written_down(self, data_dir: Path):
        """The catalog fails after the tenant was opened, and somebody used it meanwhile: what was acknowledged stays."""
        async with TenantRegistry(config(data_dir)) as registry:
            saving: list[asyncio.Future[None]] = []

            def save(event: object) -> None:
                if isinstance(event, StoreConnected) and event.tenant_id == "acme" and not saving:
                    call = registry.tenant("acme").messages.save(make_message("meanwhile"))
                    saving.append(asyncio.ensure_future(call))

            registry.add_hook(save)
            with refused_activations(data_dir):
                with pytest.raises(ConstraintViolationError, match="refused"):
                    await registry.create("acme")
                await asyncio.gather(*saving)
                assert open_files(data_dir) == [str(data_dir / "catalog.db")]
                with pytest.raises(TenantNotFoundError):
                    await contents(registry.tenant("acme"))
            with pytest.raises(TenantExistsError):  # which finishes it
                await registry.create("acme")
            assert await contents(registry.tenant("acme")) == ["meanwhile"]

    async def test_a_repair_that_cannot_be_written_down(self, data_dir: Path):
        """The catalog fails after the tenant was opened: it does not stay open while the catalog says quarantined."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.QUARANTINED)
            with refused_activations(data_dir):
                with pytest.raises(ConstraintViolationError, match="refused"):
                    await registry.repair("acme")
                assert open_files(data_dir) == [str(data_dir / "catalog.db")]
                with pytest.raises(TenantQuarantinedError, match="odd"):
                    await contents(registry.tenant("acme"))
            assert (await registry.repair("acme")).state is TenantState.ACTIVE
            assert await contents(registry.tenant("acme")) == ["of acme"]

    @pytest.mark.parametrize("way", ["swapped", "suspended", "under way", "renamed"])
    async def test_the_catalog_changes_while_a_tenant_opens(self, data_dir: Path, way: str):
        """What another process decided between the look and the lock holds: the wrong tenant is never served by an id."""
        changes = {
            "swapped": [f"UPDATE tenants SET id = '{new}' WHERE id = '{old}'" for old, new in SWAP],
            "suspended": ["UPDATE tenants SET state = 'suspended' WHERE id = 'acme'"],
            "under way": [f"UPDATE tenants SET intent = '{INTENT}' WHERE id = 'acme'"],
            "renamed": ["UPDATE tenants SET id = 'umbrella' WHERE id = 'acme'"],
        }
        refusal = {"suspended": TenantSuspendedError, "renamed": TenantNotFoundError}.get(
            way, TenantBusyError
        )
        async with TenantRegistry(config(data_dir)) as registry:
            for tenant_id in ("acme", "globex"):
                await bring_to(registry, TenantState.ACTIVE, tenant_id)

        def change(event: object) -> None:
            if isinstance(event, StoreConnected) and event.tenant_id == "acme" and changes[way]:
                for sql in changes[way]:
                    query(data_dir / "catalog.db", sql)
                changes[way] = []

        async with TenantRegistry(config(data_dir), hooks=[change]) as registry:
            with pytest.raises(refusal):
                await registry.tenant("acme").messages.save(make_message("mine"))
            assert open_files(data_dir) == [str(data_dir / "catalog.db")]
            if way == "swapped":
                assert await contents(registry.tenant("acme")) == ["of globex"]
        assert stored_contents(data_dir, "acme") == ["of acme"]


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
        """A tenant that another process has open is closed there when the catalog says so, and the call waits for that."""
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
                refusal = {
                    "archive": "TenantStateError",
                    "purge": "TenantNotFoundError",
                }.get(action, "TenantOwnedElsewhereError")
                outcome = other.do("save", "acme")
                assert outcome["error"] == refusal

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
                await registry.delete("acme")
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


class TestWhatTheSystemRefuses:
    """A file system that fails is one of our errors, audited, and no call is left half done."""

    async def test_an_operation_cannot_be_locked(self, registry: TenantRegistry, data_dir: Path):
        """Without its lock no call of several steps begins."""
        await bring_to(registry, TenantState.ACTIVE)
        before = await registry.get("acme")
        (data_dir / "operations").rmdir()
        (data_dir / "operations").touch()
        with pytest.raises(PersistenceConnectionError, match="cannot lock"):
            await registry.archive("acme")
        assert await registry.get("acme") == before
        await registry._runner.reconcile()
        (data_dir / "operations").unlink()
        (data_dir / "operations").mkdir()
        assert (await registry.archive("acme")).state is TenantState.ARCHIVED

    async def test_something_else_fails(self, registry: TenantRegistry, monkeypatch: pytest.MonkeyPatch):
        """No error of the system's leaves a lifecycle operation as it is, and the audit has its row."""
        await bring_to(registry, TenantState.ACTIVE)

        def fail(*_: object) -> None:
            raise PermissionError(13, "not permitted")

        with monkeypatch.context() as patched:
            patched.setattr(Path, "exists", fail)
            with pytest.raises(PersistenceConnectionError, match=r"rename of tenant 'acme': .*not permitted"):
                await registry.rename("acme", "umbrella")
        [entry, *_] = await registry.audit.list()
        assert (entry.action, entry.outcome) == ("rename", "connection")
        assert await contents(registry.tenant("acme")) == ["of acme"]

    async def test_an_audit_that_cannot_be_written(self, registry: TenantRegistry, data_dir: Path):
        """The caller of a refused call hears why it was refused; a call that is to take effect takes none without its row."""
        await bring_to(registry, TenantState.ACTIVE)
        query(
            data_dir / "catalog.db",
            "CREATE TRIGGER refuse BEFORE INSERT ON admin_audit BEGIN SELECT RAISE(ABORT, 'refused'); END",
        )
        with pytest.raises(TenantNotFoundError):
            await registry.suspend("nobody")
        with pytest.raises(ConstraintViolationError):
            await registry.suspend("acme")
        assert await contents(registry.tenant("acme")) == ["of acme"]


class TestCancellation:
    """Callers that leave, and a registry that closes, while lifecycle operations are under way."""

    @pytest.mark.parametrize("action", ["archive", "rename"])
    async def test_a_cancelled_call_is_finished(self, registry: TenantRegistry, action: str):
        """The call goes on without its caller, and leaves nothing half done."""
        await bring_to(registry, TenantState.ACTIVE)
        hook = Recorder()
        registry.add_hook(hook)
        call = {"archive": partial(registry.archive, "acme"), "rename": partial(registry.rename, "acme", "b")}
        calling = asyncio.ensure_future(call[action]())
        await hook.wait_for(OperationStepped, step="begun")
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await hook.wait_for(OperationEnded, action=action, outcome="ok")
        assert {tenant.intent for tenant in await registry.list()} == {None}

    async def test_closing_waits_for_operations(self, data_dir: Path):
        """A registry that closes while a tenant is archived and another renamed leaves both done, and nothing locked."""
        hook = Recorder()
        registry = TenantRegistry(config(data_dir), hooks=[hook])
        async with registry:
            for tenant_id in ("acme", "globex"):
                await bring_to(registry, TenantState.ACTIVE, tenant_id)
            calls = [
                asyncio.ensure_future(call)
                for call in (registry.archive("acme"), registry.rename("globex", "umbrella"))
            ]
            await hook.wait_for(OperationStepped, step="begun")
        assert [(await call).intent for call in calls] == [None, None]
        assert open_files(data_dir) == []
        assert list((data_dir / "operations").iterdir()) == []
        found = query(data_dir / "catalog.db", "SELECT id, state FROM tenants ORDER BY id")
        assert found == [("acme", "archived"), ("umbrella", "active")]

    @pytest.mark.parametrize("held", ["operation", "tenant"])
    async def test_cancelled_while_it_takes_a_lock(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, held: str
    ):
        """A registry whose opening is cancelled while a leftover call's lock is taken gives that lock back."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.SUSPENDED)
        with other_process(data_dir) as other:
            assert other.do("archive", "acme", stop_at="begun") == "stopped"
            other.kill()
        kind = lock_file.LockFile if held == "operation" else FileOwnership
        acquire, is_taken, go = kind.acquire, threading.Event(), threading.Event()

        def acquire_slowly(self: Any, **keywords: Any) -> Any:
            result = acquire(self, **keywords)
            is_sweep = "may_make" in keywords
            if held == "tenant" or (self.path.parent.name == "operations" and not is_sweep):
                is_taken.set()
                assert go.wait(60)
            return result

        with monkeypatch.context() as patched:
            patched.setattr(kind, "acquire", acquire_slowly)
            opening = asyncio.ensure_future(TenantRegistry(config(data_dir)).open())
            await until(is_taken.is_set)
            opening.cancel()
            await asyncio.sleep(0)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await opening
        assert open_files(data_dir) == []
        async with TenantRegistry(config(data_dir)) as registry:
            assert (await registry.get("acme")).state is TenantState.ARCHIVED
