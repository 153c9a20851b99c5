"""Restore: going back to a snapshot, going back on that, and what stands in its way."""

import asyncio
import errno
import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from snapshots import config, writing
from tenantry import TenantRegistry, TenantState
from tenantry.errors import (
    PersistenceConnectionError,
    RegistryClosedError,
    SnapshotCorruptError,
    SnapshotNotFoundError,
    TenantBusyError,
    TenantQuarantinedError,
    TenantryError,
    TenantStateError,
)
from tenantry.events import OperationStepped
from tenants import (
    MovedClock,
    Recorder,
    database_path,
    history,
    open_files,
    say,
    stored_contents,
    until,
)

LEFT_IN_LOG = b"what may be left of it"


def spoil_with_log(database: Path) -> Path:
    """Overwrite a database with what is none, put a log beside it, and return that."""
    database.write_bytes(b"no database at all" * 1000)
    log = Path(f"{database}-wal")
    log.write_bytes(LEFT_IN_LOG)
    return log


def content_of(path: Path) -> bytes:
    """Return a file's bytes."""
    return path.read_bytes()


class TestRestore:
    """Going back, and going back on that."""

    async def test_there_and_back(self, registry: TenantRegistry):
        """A restore brings the snapshot's state, its undoing the state before it, and neither loses the other."""
        await registry.create("acme")
        await say(registry, "acme", "one")
        snapshot = await registry.snapshots.create("acme")
        await say(registry, "acme", "two")
        tenant = await registry.snapshots.restore("acme", snapshot.id)
        assert await history(registry, "acme") == ["one"]
        assert tenant.restore_point in await registry.snapshots.points("acme")
        await say(registry, "acme", "three")
        for _ in range(2):  # it can be repeated
            await registry.snapshots.undo_restore("acme")
            assert await history(registry, "acme") == ["one", "two"]
        redo = (await registry.snapshots.points("acme"))[-1]
        await registry.snapshots.restore("acme", redo)
        assert await history(registry, "acme") == ["one", "three"]
        await say(registry, "acme", "four")
        assert await history(registry, "acme") == ["one", "three", "four"]

    async def test_never_restored(self, registry: TenantRegistry):
        """There is nothing to undo, and that is said."""
        await registry.create("acme")
        with pytest.raises(SnapshotNotFoundError, match="never restored"):
            await registry.snapshots.undo_restore("acme")

    async def test_the_files(self, registry: TenantRegistry, data_dir: Path):
        """Private files, no log of the old database beside the new one, and the last three replaced ones kept."""
        await registry.create("acme")
        await say(registry, "acme", "one")
        snapshot = await registry.snapshots.create("acme")
        for _ in range(5):
            await say(registry, "acme", "more")
            await registry.snapshots.restore("acme", snapshot.id)
        directory = database_path(data_dir, "acme").parent
        assert {path.name for path in directory.iterdir()} == {"tenant.db", "lock", "points"}
        assert len(await registry.snapshots.points("acme")) == 3
        for path in directory.rglob("*"):
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)

    @pytest.mark.parametrize("state", ["suspended", "archived"])
    async def test_a_tenant_that_serves_nobody(self, registry: TenantRegistry, state: str):
        """It is restored and stays in its state."""
        await registry.create("acme")
        await say(registry, "acme", "one")
        snapshot = await registry.snapshots.create("acme")
        await say(registry, "acme", "two")
        away, back = {
            "suspended": (registry.suspend, registry.resume),
            "archived": (registry.archive, registry.unarchive),
        }[state]
        await away("acme")
        assert (await registry.snapshots.restore("acme", snapshot.id)).state == state
        with pytest.raises(TenantStateError):
            await history(registry, "acme")
        await back("acme")
        assert await history(registry, "acme") == ["one"]

    async def test_a_deleted_tenant(self, registry: TenantRegistry):
        """It is undeleted first: a restore does not bring back what an operator deleted."""
        await registry.create("acme")
        snapshot = await registry.snapshots.create("acme")
        await registry.delete("acme")
        with pytest.raises(TenantStateError, match="undelete it first"):
            await registry.snapshots.restore("acme", snapshot.id)

    async def test_a_damaged_tenant_serves_again(self, data_dir: Path):
        """What a damaged file's tenant needs is its newest snapshot; the damaged file is kept too."""
        async with TenantRegistry(config(data_dir)) as registry:
            await registry.create("acme")
            await say(registry, "acme", "one")
            snapshot = await registry.snapshots.create("acme")
        database_path(data_dir, "acme").write_bytes(b"no database at all" * 1000)
        async with TenantRegistry(config(data_dir)) as registry:
            with pytest.raises(TenantQuarantinedError):
                await history(registry, "acme")
            tenant = await registry.snapshots.restore("acme", snapshot.id)
            assert (tenant.state, tenant.reason) == (TenantState.ACTIVE, None)
            assert await history(registry, "acme") == ["one"]
            with pytest.raises(SnapshotCorruptError, match="is damaged; it was not changed"):
                await registry.snapshots.undo_restore("acme")
            assert await history(registry, "acme") == ["one"]

    async def test_a_snapshot_of_another_tenant(self, registry: TenantRegistry, data_dir: Path):
        """Files that were moved below another tenant's key are found out."""
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
        snapshot = await registry.snapshots.create("acme")
        acme, globex = [(await registry.get(tenant_id)).uid for tenant_id in ("acme", "globex")]
        (data_dir / "snapshots" / acme).rename(data_dir / "snapshots" / globex)
        with pytest.raises(SnapshotCorruptError):
            await registry.snapshots.restore("globex", snapshot.id)

    async def test_restore_while_64_callers_write(self, data_dir: Path):
        """No answer is wrong, nothing acknowledged is lost on either side of the restore, and undoing it brings the rest."""
        hook = Recorder()
        async with TenantRegistry(config(data_dir), hooks=[hook]) as registry:
            await registry.create("acme")
            async with writing(registry, 64) as acknowledged:
                await until(lambda: sum(map(len, acknowledged.values())) > 500)
                snapshot = await registry.snapshots.create("acme")
                await until(lambda: sum(map(len, acknowledged.values())) > 2000)
                before = {content for mine in acknowledged.values() for content in mine}
                await registry.snapshots.restore("acme", snapshot.id)
                told = {content for mine in acknowledged.values() for content in mine}
                await until(lambda: sum(map(len, acknowledged.values())) > len(told) + 500)
            everything = {content for mine in acknowledged.values() for content in mine}
            restored = set(stored_contents(data_dir, "acme"))
            assert snapshot.row_counts["messages"] <= len(restored)
            # Whatever was answered after the restore had returned is in the restored database.
            assert everything - told <= restored
            await registry.snapshots.undo_restore("acme")
            replaced = set(stored_contents(data_dir, "acme"))
            assert before <= replaced
            # Each acknowledged write is in the database that it was written to: in one of the two.
            assert everything <= restored | replaced
            assert hook.of(OperationStepped, action="restore", step="exchanged")

    async def test_a_caller_that_waits_too_long(self, data_dir: Path):
        """A call that comes while the file is replaced waits, and is told when to come again if that takes too long."""
        gate = asyncio.Event()
        settings = config(data_dir, pool_wait_timeout_seconds=0.05, call_timeout_seconds=30)
        async with TenantRegistry(settings) as registry:
            await registry.create("acme")
            pool = registry._parts.pool

            async def hold() -> None:
                async with pool.held((await registry.get("acme")).id, "restore"):
                    await gate.wait()

            holding = asyncio.ensure_future(hold())
            await until(lambda: not pool.has("acme") and bool(pool._holds))
            with pytest.raises(TenantBusyError, match="busy with 'restore'") as caught:
                await say(registry, "acme", "too early")
            assert caught.value.retry_after_seconds > 0
            gate.set()
            await holding
            await say(registry, "acme", "in time")
            assert await history(registry, "acme") == ["in time"]


class TestWhatIsInTheWay:
    """Restores that something stands in the way of lose nothing."""

    async def test_another_program_reads_the_database(self, registry: TenantRegistry, data_dir: Path):
        """What its log holds could not be written into it: the restore is refused, and every acknowledged write is there."""
        await registry.create("acme")
        await say(registry, "acme", "one")
        snapshot = await registry.snapshots.create("acme")
        reader = sqlite3.connect(database_path(data_dir, "acme"), isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        await say(registry, "acme", "two", "three")
        with pytest.raises(PersistenceConnectionError, match="another program has the database open"):
            await registry.snapshots.restore("acme", snapshot.id)
        assert await history(registry, "acme") == ["one", "two", "three"]
        reader.close()
        await registry.snapshots.restore("acme", snapshot.id)
        await registry.snapshots.undo_restore("acme")
        assert await history(registry, "acme") == ["one", "two", "three"]

    async def test_a_damaged_database_with_a_log(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch):
        """If its exchange fails, the log is beside it again."""
        async with TenantRegistry(config(data_dir)) as registry:
            await registry.create("acme")
            snapshot = await registry.snapshots.create("acme")
        log = spoil_with_log(database_path(data_dir, "acme"))
        rename = Path.rename

        def fail(path: Path, target: Path) -> Path:
            if path.name.startswith("restore-"):
                raise OSError(errno.EIO, "Input/output error")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", fail)
        async with TenantRegistry(config(data_dir)) as registry:
            with pytest.raises(TenantryError):
                await registry.snapshots.restore("acme", snapshot.id)
            assert content_of(log) == LEFT_IN_LOG
            monkeypatch.undo()
            await registry.snapshots.restore("acme", snapshot.id)
            assert await history(registry, "acme") == []

    async def test_a_clock_that_steps_back(self, data_dir: Path):
        """What was just made is kept, though it has the oldest name."""
        clock = MovedClock()
        clock.moved = timedelta(hours=1)
        async with TenantRegistry(config(data_dir, snapshots_kept_max=2), clock=clock) as registry:
            await registry.create("acme")
            for _ in range(3):
                early = await registry.snapshots.create("acme")
                await registry.snapshots.restore("acme", early.id)
            clock.moved = timedelta()
            await say(registry, "acme", "newest")
            late = await registry.snapshots.create("acme")
            assert late in await registry.snapshots.list("acme")
            await registry.snapshots.restore("acme", (await registry.snapshots.list("acme"))[0].id)
            await registry.snapshots.undo_restore("acme")
            assert await history(registry, "acme") == ["newest"]

    async def test_files_that_are_gone(self, data_dir: Path):
        """A tenant whose directory is missing is restored, and there is nothing to undo."""
        async with TenantRegistry(config(data_dir)) as registry:
            await registry.create("acme")
            await say(registry, "acme", "one")
            snapshot = await registry.snapshots.create("acme")
        shutil.rmtree(database_path(data_dir, "acme").parent)
        async with TenantRegistry(config(data_dir)) as registry:
            with pytest.raises(TenantQuarantinedError):
                await history(registry, "acme")
            assert (await registry.snapshots.restore("acme", snapshot.id)).restore_point is None
            assert await history(registry, "acme") == ["one"]

    async def test_a_registry_that_is_closed(self, data_dir: Path):
        """Nothing begins any more, and nothing is left."""
        async with TenantRegistry(config(data_dir)) as registry:
            await registry.create("acme")
            await asyncio.gather(*(registry.snapshots.create("acme") for _ in range(4)))
        with pytest.raises(RegistryClosedError):
            await registry.snapshots.create("acme")
        assert open_files(data_dir) == []
        assert list((data_dir / "scratch").iterdir()) == []


async def test_a_restore_of_a_tenant_that_is_closed(data_dir: Path):
    """A call that comes once the restore has begun waits for its end, as it does of a tenant that is open."""
    called: list[asyncio.Task[Any]] = []

    def call(event: object) -> None:
        if isinstance(event, OperationStepped) and event.action == "restore" and event.step != "finished":
            called.append(asyncio.ensure_future(registry.tenant("acme").messages.get_history("general")))

    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
        await say(registry, "acme", "in the snapshot")
        snapshot = await registry.snapshots.create("acme")
    async with TenantRegistry(config(data_dir), hooks=[call]) as registry:
        await registry.snapshots.restore("acme", snapshot.id)
        histories = await asyncio.gather(*called)
    assert len(histories) > 3
    assert {tuple(message.content for message in history) for history in histories} == {("in the snapshot",)}
