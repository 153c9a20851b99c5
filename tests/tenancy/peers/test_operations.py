"""Operations on a tenant that another registry has open, while callers of three registries work."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from callers import Callers, working
from moves import with_east
from peers import open_pair, texts
from tenantry import Schema, TenantHandle, TenantRecord, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import (
    StorageFullError,
    TenantDeletedError,
    TenantNotFoundError,
    TenantStateError,
    TenantSuspendedError,
)
from tenantry.limits import TenantLimits
from tenantry.storage.sqlite.tenant_files.closed_database import SQLiteClosedDatabase
from tenantry.tenancy.operations.tools import OperationTools
from tenants import database_path

POLL_SECONDS = 1.0
"""The longest interval that is allowed: what an owner does at once, it does because it was asked."""


@dataclass(frozen=True)
class Three:
    """The owner of ``acme``, the registry of the operator, and a third registry, with their handles of the tenant."""

    owner: TenantRegistry
    operator: TenantRegistry
    own: TenantHandle
    operators: TenantHandle
    third: TenantHandle

    def working(self, *expected: type[Exception]) -> AbstractAsyncContextManager[Callers]:
        """Let callers of all registries write during the block."""
        return working(self.own, self.operators, self.third, expected=expected)


@pytest.fixture
async def three(data_dir: Path) -> AsyncIterator[Three]:
    """Three registries; the first has ``acme`` open."""
    async with (
        open_pair(
            data_dir, catalog_poll_interval_seconds=POLL_SECONDS, handed_over_after_calls=10**6
        ) as pair,
        TenantRegistry(pair.owner.config) as third,
    ):
        yield Three(pair.owner, pair.other, pair.own, pair.forwarded, third.tenant("acme"))


def is_open_at(registry: TenantRegistry) -> bool:
    """Return whether the registry has a tenant open."""
    return registry.statistics().pool.open_tenants > 0


class TestClosing:
    """Operations for which the owner closes the tenant."""

    @pytest.mark.parametrize(
        ("action", "undo", "error"),
        [
            ("suspend", "resume", TenantSuspendedError),
            ("delete", "undelete", TenantDeletedError),
            ("archive", "unarchive", TenantStateError),
        ],
    )
    async def test_the_owner_has_closed_it_when_the_call_returns(
        self, three: Three, action: str, undo: str, error: type[Exception]
    ):
        """All callers are refused afterwards, and every write that was acknowledged is there."""
        async with three.working(error) as callers:
            await getattr(three.operator, action)("acme")
            assert not is_open_at(three.owner)
            await callers.all_refused()
        await getattr(three.operator, undo)("acme")
        assert len(await texts(three.own)) == callers.kept

    async def test_quarantine_and_repair(self, three: Three):
        """A repair opens the tenant in the registry that repairs it, and the other registries forward to that one."""
        await three.operator.quarantine("acme", reason="odd")
        assert not is_open_at(three.owner)
        await three.operator.repair("acme")
        assert is_open_at(three.operator)
        assert await texts(three.own) == []
        assert not is_open_at(three.owner)

    async def test_purge(self, three: Three):
        """Nothing of the tenant is left."""
        async with three.working(TenantNotFoundError, TenantDeletedError):
            await three.operator.delete("acme")
            await three.operator.purge("acme", force=True)
        assert not database_path(three.owner.config.data_dir, "acme").parent.exists()

    async def test_rename(self, three: Three):
        """The callers of the old id wait until it belongs to no tenant; the data is under the new id."""
        async with three.working(TenantNotFoundError) as callers:
            await three.operator.rename("acme", "globex")
            await callers.all_refused()
        assert len(await texts(three.owner.tenant("globex"))) == callers.kept

    async def test_restore_and_undo(self, three: Three):
        """Callers of all registries wait during the exchange, without an error, and find the restored state."""
        await three.own.execute("INSERT INTO notes (text) VALUES ('before')")
        snapshot = await three.operator.snapshots.create("acme")
        async with three.working() as callers:
            at_begin = callers.kept
            await three.operator.snapshots.restore("acme", snapshot.id)
            at_end = callers.kept
            await callers.more()
        found = await texts(three.own)
        assert found[0] == "before"
        assert callers.kept - at_end <= len(found) - 1 <= callers.kept - at_begin
        await three.operator.snapshots.undo_restore("acme")
        assert at_begin <= len(await texts(three.third)) - 1 <= at_end

    async def test_callers_wait_for_a_slow_exchange(self, three: Three, monkeypatch: pytest.MonkeyPatch):
        """As long as the exchange takes, no caller of any registry gets an error."""
        snapshot = await three.operator.snapshots.create("acme")
        entered, left = asyncio.Event(), asyncio.Event()
        exchange = SQLiteClosedDatabase.exchange

        async def slow(closed: SQLiteClosedDatabase, point: str) -> None:
            entered.set()
            await left.wait()
            await exchange(closed, point)

        monkeypatch.setattr(SQLiteClosedDatabase, "exchange", slow)
        async with three.working() as callers:
            restoring = asyncio.create_task(three.operator.snapshots.restore("acme", snapshot.id))
            await entered.wait()
            kept = callers.kept
            reading = [
                asyncio.create_task(texts(handle)) for handle in (three.own, three.operators, three.third)
            ]
            await asyncio.wait(reading, timeout=0.2)
            assert callers.kept == kept
            assert not any(task.done() for task in reading)
            left.set()
            await restoring
            await asyncio.gather(*reading)
            await callers.more()


async def test_a_move_of_a_tenant_of_another_registry(data_dir: Path):
    """The callers of all registries are served at the new place; nothing is lost or doubled, and nobody gets an error."""
    async with (
        with_east(data_dir) as owner,
        with_east(data_dir) as operator,
        with_east(data_dir) as third,
    ):
        await owner.create("acme")
        handles = [registry.tenant("acme") for registry in (owner, operator, third)]
        await handles[0].execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        async with working(*handles) as callers:
            assert (await operator.move("acme", "east")).backend == "east"
            await callers.more()
            assert (await third.move("acme", "sqlite")).backend == "sqlite"
            await callers.more()
        for handle in handles:
            assert len(await texts(handle)) == callers.kept


class TestWithoutClosing:
    """What the owner does for the others, while it serves."""

    async def test_a_snapshot(self, three: Three):
        """The owner copies the tenant, and stays its owner."""
        async with three.working() as callers:
            kept = callers.kept
            snapshot = await three.operator.snapshots.create("acme")
            await callers.more()
        assert kept <= snapshot.row_counts["notes"] <= callers.kept
        assert is_open_at(three.owner)
        assert not is_open_at(three.operator)

    async def test_a_snapshot_of_a_suspended_tenant(self, three: Three):
        """A tenant that serves no calls is copied by the registry that was asked."""
        await three.operator.suspend("acme")
        assert (await three.operator.snapshots.create("acme")).row_counts["notes"] == 0

    async def test_an_export_and_a_clone(self, three: Three, tmp_path: Path):
        """Both come from the owner's copy."""
        async with three.working() as callers:
            kept = callers.kept
            manifest = await three.operator.export("acme", tmp_path / "acme.tar.gz")
            await three.operator.clone("acme", "copy")
            await callers.more()
        assert manifest.row_counts["notes"] >= kept
        assert len(await texts(three.operator.tenant("copy"))) >= kept

    async def test_limits(self, three: Three):
        """Changed limits are in effect at the owner when the call returns."""
        big = "INSERT INTO notes (text) VALUES (zeroblob(2000000))"
        await three.operator.update("acme", limits=TenantLimits(database_bytes_max=1_000_000))
        with pytest.raises(StorageFullError):
            await three.own.execute(big)
        await three.operator.update("acme", limits=TenantLimits())
        await three.own.execute(big)

    async def test_statistics(self, three: Three):
        """The counters are those of the owner."""
        await texts(three.own)
        assert (await three.operator.tenant_statistics("acme")).actor == three.own.statistics() is not None
        await three.operator.suspend("acme")
        assert (await three.operator.tenant_statistics("acme")).actor is None

    @pytest.mark.parametrize("kind", ["check", "snapshot", "note", "migrate"])
    async def test_fleet_jobs(self, data_dir: Path, kind: str):
        """A job works on tenants of another registry, while their callers work."""

        async def note(tenant: TenantHandle, _: object) -> None:
            await tenant.execute("INSERT INTO notes (text) VALUES ('of the job')")

        async with open_pair(data_dir) as pair, TenantRegistry(pair.owner.config) as third:
            third.fleet.register("note", note)
            async with working(pair.own, pair.forwarded) as callers:
                job = await third.fleet.start(kind)
                progress = await third.fleet.wait(job.id)
                assert (progress.done, progress.failed) == (1, 0)
                await callers.more()
            assert (await texts(pair.own)).count("of the job") == (kind == "note")


class TestAnotherRelease:
    """A process with more migrations works on the tenants of a process with fewer."""

    async def test_a_migration_takes_the_tenant_over(self, data_dir: Path, pack: Callable[..., Schema]):
        """The tenant is migrated in the newer registry; the callers of the older one wait, and are served there then."""
        newer = pack("CREATE TABLE invoices (id INTEGER PRIMARY KEY)", name="invoices")
        async with (
            open_pair(data_dir) as pair,
            working(pair.own, pair.forwarded) as callers,
            TenantRegistry(pair.owner.config, schemas=(COMPANY, newer)) as registry,
        ):
            job = await registry.fleet.start("migrate", snapshot_before=True)
            assert (await registry.fleet.wait(job.id)).failed == 0
            [result] = await registry.fleet.results(job.id)
            snapshot = await registry.snapshots.get("acme", result.detail["snapshot_before"])
            assert "invoices" not in snapshot.schema_versions
            assert is_open_at(registry)
            await callers.more()
            assert await registry.tenant("acme").fetch_value("SELECT count(*) FROM invoices") == 0
            await callers.stop()


async def test_an_opening_for_a_creation_never_forwards(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """A registry that takes a creation for a dead process's does not finish it through the process that is at it."""
    opened, left = asyncio.Event(), asyncio.Event()
    activate = OperationTools.activate

    async def late(tools: OperationTools, *arguments: Any) -> TenantRecord:
        opened.set()
        await left.wait()
        return await activate(tools, *arguments)

    async with open_pair(data_dir) as pair:
        monkeypatch.setattr(OperationTools, "activate", late)
        creating = asyncio.create_task(pair.owner.create("new"))
        await opened.wait()
        [lock] = (data_dir / "operations").iterdir()
        lock.unlink()  # the creating process has lost its lock without noticing
        await pair.other._parts.runner.reconcile()
        found = await pair.other.find("new")
        assert found is not None
        assert found.state is TenantState.PROVISIONING
        with pytest.raises(TenantNotFoundError):
            await pair.other.tenant("new").fetch_value("SELECT 1")
        left.set()
        assert (await creating).state is TenantState.ACTIVE
        assert await pair.other.tenant("new").fetch_value("SELECT 1") == 1
