"""Snapshots: consistent while the tenant is written, checked, kept, forgotten, tried out; restored, and that undone."""

import asyncio
import errno
import gzip
import os
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from buckets import make_bucket
from forgeries import forge_snapshot
from stores import AnyRepository, run, small_disk
from tenantry import RegistryConfig, Schema, TenantRegistry, TenantState
from tenantry.errors import (
    DatabaseCorruptError,
    DataDirectoryError,
    PersistenceConnectionError,
    QueryError,
    RegistryClosedError,
    SnapshotCorruptError,
    SnapshotError,
    SnapshotNotFoundError,
    StorageFullError,
    TenantBusyError,
    TenantNotFoundError,
    TenantQuarantinedError,
    TenantryError,
    TenantStateError,
    TenantSuspendedError,
)
from tenantry.events import OperationStepped
from tenantry.storage import LocalStorage, ObstoreStorage
from tenantry.storage.sqlite import online_backup
from tenants import (
    HANG_SECONDS,
    MovedClock,
    Recorder,
    database_path,
    history,
    make_message,
    open_files,
    query,
    say,
    stored_contents,
    until,
    write_pack,
)

SNAPSHOTS = 20
LEFT_IN_LOG = b"what may be left of it"


def config(data_dir: Path, **fields: Any) -> RegistryConfig:
    """Return settings for a small pool."""
    return RegistryConfig(data_dir=data_dir, **{"open_tenants_max": 4, **fields})


def spoil_page(database: Path) -> None:
    """Overwrite a page of a closed database, by hand."""
    fd = os.open(database, os.O_WRONLY)
    os.pwrite(fd, b"\xa5" * 4096, 8 * 4096)
    os.close(fd)


def remove_message(database: Path) -> None:
    """Remove a message from a database, by hand."""
    query(database, "DELETE FROM messages WHERE seq = 1")


async def make_damaged(data_dir: Path) -> None:
    """Create a tenant, and damage its file."""
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
        await registry.tenant("acme").messages.save_many([make_message("x" * 500) for _ in range(200)])
    spoil_page(database_path(data_dir, "acme"))


async def until_quarantined(registry: TenantRegistry) -> None:
    """Wait until the tenant has been quarantined, which whoever found the damage does not wait for."""
    async with asyncio.timeout(HANG_SECONDS):
        while (await registry.get("acme")).state is not TenantState.QUARANTINED:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0)


def kept_files(data_dir: Path) -> list[Path]:
    """Return the files that snapshots are kept in."""
    return sorted(path for path in (data_dir / "snapshots").rglob("*") if path.is_file())


def spoil_with_log(database: Path) -> Path:
    """Overwrite a database with what is none, put a log beside it, and return that."""
    database.write_bytes(b"no database at all" * 1000)
    log = Path(f"{database}-wal")
    log.write_bytes(LEFT_IN_LOG)
    return log


def content_of(path: Path) -> bytes:
    """Return a file's bytes."""
    return path.read_bytes()


@asynccontextmanager
async def writing(registry: TenantRegistry, callers: int) -> AsyncIterator[dict[int, list[str]]]:
    """Have callers write numbered messages, each its own, one after the other; give what was acknowledged to each."""
    acknowledged: dict[int, list[str]] = {caller: [] for caller in range(callers)}
    is_over = False

    async def write(caller: int) -> None:
        number = 0
        while not is_over:
            content = f"{caller}:{number}"
            number += 1
            try:
                await say(registry, "acme", content)
            except TenantBusyError:
                continue
            acknowledged[caller].append(content)

    async with asyncio.TaskGroup() as tasks:
        for caller in acknowledged:
            tasks.create_task(write(caller))
        try:
            yield acknowledged
        finally:
            is_over = True


class TestSnapshots:
    """Taking and keeping them."""

    async def test_one_holds_what_was_acknowledged_before(self, registry: TenantRegistry):
        """A snapshot says what is in it, and a clone of it has that and nothing that came later."""
        await registry.create("acme", display_name="Acme")
        await say(registry, "acme", "one", "two")
        snapshot = await registry.snapshots.create("acme")
        await say(registry, "acme", "three")
        assert (snapshot.tenant_id, snapshot.trigger) == ("acme", "manual")
        assert snapshot.tenant_uid == (await registry.get("acme")).uid
        assert snapshot.schema_versions == {"company": 1}
        assert snapshot.row_counts["messages"] == 2
        assert 0 < snapshot.stored_bytes < snapshot.database_bytes
        assert list(await registry.snapshots.list("acme")) == [snapshot]
        assert await registry.snapshots.get("acme", snapshot.id) == snapshot
        await registry.clone("acme", "globex", snapshot.id)
        assert await history(registry, "globex") == ["one", "two"]

    async def test_snapshots_beside_constant_writes(self, data_dir: Path):
        """Twenty snapshots of a tenant that eight callers write: each holds a prefix of what each of them was told."""
        async with TenantRegistry(config(data_dir, snapshots_kept_max=SNAPSHOTS)) as registry:
            await registry.create("acme")
            before: dict[str, list[int]] = {}
            after: dict[str, list[int]] = {}
            async with writing(registry, 8) as acknowledged:
                for _ in range(SNAPSHOTS):
                    told = [len(mine) for mine in acknowledged.values()]
                    snapshot = await registry.snapshots.create("acme")
                    before[snapshot.id] = told
                    after[snapshot.id] = [len(mine) for mine in acknowledged.values()]
            assert len(await registry.snapshots.list("acme")) == SNAPSHOTS
            for number, snapshot_id in enumerate(before):
                await registry.clone("acme", f"copy-{number}", snapshot_id)
                contents = stored_contents(data_dir, f"copy-{number}")
                for caller, mine in acknowledged.items():
                    found = [content for content in contents if content.startswith(f"{caller}:")]
                    # One more than was told of may have been committed and not yet answered.
                    assert before[snapshot_id][caller] <= len(found) <= after[snapshot_id][caller] + 1
                    assert found == [f"{caller}:{n}" for n in range(len(found))]
                    assert found[: len(mine)] == mine[: len(found)]

    @pytest.mark.parametrize("state", ["suspended", "archived", "deleted", "quarantined"])
    async def test_a_tenant_that_serves_nobody(self, registry: TenantRegistry, state: str):
        """It has files, so it can be copied; its state stays what it is."""
        await registry.create("acme")
        await say(registry, "acme", "kept")
        calls = {
            "suspended": registry.suspend,
            "archived": registry.archive,
            "deleted": registry.delete,
            "quarantined": registry.quarantine,
        }
        await calls[state]("acme", reason="test")
        snapshot = await registry.snapshots.create("acme")
        assert snapshot.row_counts["messages"] == 1
        assert (await registry.get("acme")).state == state

    async def test_one_that_is_not_there(self, registry: TenantRegistry):
        """Neither a tenant nor a snapshot that does not exist is made up."""
        with pytest.raises(TenantNotFoundError):
            await registry.snapshots.create("nobody")
        await registry.create("acme")
        assert list(await registry.snapshots.list("acme")) == []
        for snapshot_id in ("20260101t000000000000z-00000000", "../../catalog", "", "before-x"):
            with pytest.raises(SnapshotNotFoundError):
                await registry.snapshots.restore("acme", snapshot_id)
        await registry.snapshots.delete("acme", "20260101t000000000000z-00000000")
        with pytest.raises(QueryError, match="trigger must be"):
            await registry.snapshots.create("acme", trigger="Why not?")

    @pytest.mark.parametrize("of_it", ["snapshot", "export", "clone"])
    async def test_a_damaged_tenant(self, data_dir: Path, tmp_path: Path, of_it: str):
        """No copy says of damage that it is sound; the tenant is quarantined, and what is told names its own file in a line."""
        await make_damaged(data_dir)
        async with TenantRegistry(config(data_dir)) as registry:
            copies: dict[str, Callable[[], Awaitable[object]]] = {
                "snapshot": lambda: registry.snapshots.create("acme"),
                "export": lambda: registry.export("acme", tmp_path / "acme.tar.gz"),
                "clone": lambda: registry.clone("acme", "globex"),
            }
            with pytest.raises(DatabaseCorruptError) as raised:
                await copies[of_it]()
            assert str(raised.value).startswith(f"{database_path(data_dir, 'acme')} is damaged: ")
            await until_quarantined(registry)
            assert (await registry.get("acme")).reason == str(raised.value)
            assert str(raised.value).isprintable()
            assert list(await registry.snapshots.list("acme")) == []
            with pytest.raises(TenantQuarantinedError):
                await registry.tenant("acme").messages.get_history("general")
            with pytest.raises(DatabaseCorruptError):
                await registry.repair("acme")

    async def test_a_damaged_tenant_that_lacks_migrations(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """It is copied without being opened for that, and quarantined too."""
        await make_damaged(data_dir)
        monkeypatch.syspath_prepend(tmp_path)
        later = Schema("later", package=write_pack(tmp_path, "pack_damaged", "CREATE TABLE t (a);"))
        async with TenantRegistry(config(data_dir), schemas=[later]) as registry:
            with pytest.raises(TenantQuarantinedError, match="is damaged: "):
                await registry.snapshots.create("acme")
            assert (await registry.get("acme")).state is TenantState.QUARANTINED

    async def test_a_damaged_copy_of_a_sound_tenant(
        self, registry: TenantRegistry, monkeypatch: pytest.MonkeyPatch
    ):
        """The disk below the copy is to blame: the tenant serves on."""
        await registry.create("acme")
        await registry.tenant("acme").messages.save(make_message("kept"))
        copy_database = online_backup.copy_database

        def copy_and_spoil(source: sqlite3.Connection, target: Path, *others: Any) -> None:
            copy_database(source, target, *others)
            spoil_page(target)

        monkeypatch.setattr(online_backup, "copy_database", copy_and_spoil)
        with pytest.raises(SnapshotError, match="its own database is sound"):
            await registry.snapshots.create("acme")
        monkeypatch.undo()
        assert (await registry.get("acme")).state is TenantState.ACTIVE
        assert (await registry.snapshots.create("acme")).row_counts["messages"] == 1

    async def test_the_tenant_is_closed_meanwhile(self, data_dir: Path):
        """A suspended tenant is not held open by its copy: the copy ends with an error, or was ready; nothing is left."""
        async with TenantRegistry(config(data_dir)) as registry:
            await registry.create("acme")
            await registry.tenant("acme").messages.save_many([make_message("x" * 5000) for _ in range(2000)])
            taking = asyncio.ensure_future(registry.snapshots.create("acme"))
            await until(lambda: bool(list((data_dir / "scratch").glob("*/*/tenant.db"))))
            await registry.suspend("acme")
            outcome = (await asyncio.gather(taking, return_exceptions=True))[0]
            assert not isinstance(outcome, BaseException) or (
                isinstance(outcome, TenantryError) and outcome.is_retryable
            )
            assert (await registry.snapshots.create("acme")).row_counts["messages"] == 2000
        assert open_files(data_dir) == []
        assert list((data_dir / "scratch").iterdir()) == []

    async def test_what_is_too_much_or_too_old_is_forgotten(self, data_dir: Path):
        """The newest few are kept for their time, and the very newest for ever."""
        clock = MovedClock()
        settings = config(data_dir, snapshots_kept_max=3, snapshot_age_seconds_max=3600, clock_hold_seconds=0)
        async with TenantRegistry(settings, clock=clock) as registry:
            await registry.create("acme")
            made = [await registry.snapshots.create("acme") for _ in range(5)]
            assert list(await registry.snapshots.list("acme")) == made[:1:-1]
            clock.moved = timedelta(hours=2)
            newest = await registry.snapshots.create("acme")
            assert list(await registry.snapshots.list("acme")) == [newest]
            await registry.snapshots.delete("acme", newest.id)
            assert kept_files(data_dir) == []

    async def test_what_a_dead_process_left_is_forgotten(self, data_dir: Path):
        """A database whose manifest was never written goes when it is a day old; a younger one may yet get its own."""
        clock = MovedClock()
        async with TenantRegistry(config(data_dir, clock_hold_seconds=0), clock=clock) as registry:
            await registry.create("acme")
            dead = await registry.snapshots.create("acme")
            [manifest] = [path for path in kept_files(data_dir) if path.suffix == ".json"]
            manifest.unlink()
            clock.moved = timedelta(hours=23)
            await registry.snapshots.create("acme")
            assert any(dead.id in path.name for path in kept_files(data_dir))
            clock.moved = timedelta(hours=25)
            await registry.snapshots.create("acme")
            assert not any(dead.id in path.name for path in kept_files(data_dir))
            assert len(await registry.snapshots.list("acme")) == 2

    async def test_purge_forgets_them(self, registry: TenantRegistry, data_dir: Path):
        """Who asks for data to be gone means all of it."""
        await registry.create("acme")
        await registry.snapshots.create("acme")
        await registry.delete("acme")
        assert kept_files(data_dir) != []
        await registry.purge("acme", force=True)
        assert kept_files(data_dir) == []

    async def test_they_follow_a_rename(self, registry: TenantRegistry):
        """Snapshots belong to the tenant and not to its id."""
        await registry.create("acme")
        snapshot = await registry.snapshots.create("acme")
        await registry.rename("acme", "globex")
        await registry.create("acme")
        assert list(await registry.snapshots.list("acme")) == []
        assert [found.id for found in await registry.snapshots.list("globex")] == [snapshot.id]


class TestSchedule:
    """Snapshots that nobody asks for."""

    async def test_every_active_tenant_has_its_turn(self, data_dir: Path):
        """Active tenants have their snapshot taken again and again; suspended ones have not."""
        settings = config(data_dir, snapshot_interval_seconds=0.05, snapshot_jitter_seconds=0.0)
        hook = Recorder()
        async with TenantRegistry(settings, hooks=[hook]) as registry:
            for tenant_id in ("acme", "globex", "quiet"):
                await registry.create(tenant_id)
            await registry.suspend("quiet")
            for tenant_id in ("acme", "globex"):
                async with asyncio.timeout(60):
                    while len(await registry.snapshots.list(tenant_id)) < 2:  # noqa: ASYNC110  # its own clock
                        await asyncio.sleep(0.01)
            assert {snapshot.trigger for snapshot in await registry.snapshots.list("acme")} == {"schedule"}
            due = (await registry.get("quiet")).snapshot_due_at
            assert all(
                entry.principal == "tenantry"
                for entry in await registry.audit.list()
                if entry.action == "snapshot"
            )
            assert due is None or not await registry.snapshots.list("quiet")


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
            with pytest.raises(SnapshotCorruptError, match="it stays as it is, at"):
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
        with pytest.raises(PersistenceConnectionError, match="another program has it open"):
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


class TestFlippedBytes:
    """What is kept is never trusted."""

    async def test_one_hides_no_other(self, registry: TenantRegistry, data_dir: Path):
        """A damaged manifest is named, and all others can be seen and restored; it can be deleted."""
        await registry.create("acme")
        made = [await registry.snapshots.create("acme") for _ in range(3)]
        path = next(path for path in kept_files(data_dir) if path.name == f"{made[1].id}.json")
        path.write_bytes(path.read_bytes().replace(b"acme", b"acne", 1))
        kept = await registry.snapshots.look("acme")
        assert (kept.sound, kept.damaged) == ([made[2], made[0]], [made[1].id])
        assert await registry.snapshots.list("acme") == kept.sound
        with pytest.raises(SnapshotCorruptError, match=made[1].id):
            await registry.snapshots.get("acme", made[1].id)
        await registry.snapshots.restore("acme", made[0].id)
        await registry.snapshots.delete("acme", made[1].id)
        assert (await registry.snapshots.look("acme")).damaged == []

    @pytest.mark.parametrize("suffix", [".json", ".db.gz"])
    async def test_any_byte(self, registry: TenantRegistry, data_dir: Path, suffix: str):
        """A flipped bit anywhere in a snapshot or its manifest is found before anything changes."""
        await registry.create("acme")
        await say(registry, "acme", "one")
        snapshot = await registry.snapshots.create("acme")
        await say(registry, "acme", "two")
        (path,) = [path for path in kept_files(data_dir) if path.name.endswith(suffix)]
        sound = path.read_bytes()
        step = max(1, len(sound) // 60)
        for place in [*range(0, len(sound), step), len(sound) - 1]:
            spoiled = bytearray(sound)
            spoiled[place] ^= 1 << (place % 8)
            path.write_bytes(spoiled)
            with pytest.raises(SnapshotCorruptError):
                await registry.snapshots.restore("acme", snapshot.id)
            with pytest.raises(SnapshotCorruptError):
                await registry.clone("acme", "globex", snapshot.id)
        assert await history(registry, "acme") == ["one", "two"]
        with pytest.raises(TenantNotFoundError):
            await registry.get("globex")
        path.write_bytes(sound)
        await registry.snapshots.restore("acme", snapshot.id)
        assert await history(registry, "acme") == ["one"]

    @pytest.mark.parametrize(
        ("change", "error"),
        [(spoil_page, DatabaseCorruptError), (remove_message, SnapshotCorruptError)],
        ids=["a damaged page", "a row less"],
    )
    async def test_a_forgery(
        self,
        registry: TenantRegistry,
        data_dir: Path,
        change: Callable[[Path], object],
        error: type[TenantryError],
    ):
        """A snapshot whose digests are all right is refused for what is in its database, before anything changes."""
        await registry.create("acme")
        await registry.tenant("acme").messages.save_many([make_message("x" * 500) for _ in range(200)])
        snapshot = await registry.snapshots.create("acme")
        await say(registry, "acme", "two")
        (manifest,) = [path for path in kept_files(data_dir) if path.suffix == ".json"]
        forge_snapshot(manifest, change)
        for call in (
            registry.snapshots.restore("acme", snapshot.id),
            registry.clone("acme", "globex", snapshot.id),
        ):
            with pytest.raises(error):
                await call
        assert len(await history(registry, "acme")) > 200
        assert (await registry.get("acme")).state is TenantState.ACTIVE
        assert not (await registry.snapshots.drill()).is_ok


class TestDrill:
    """Whether backups restore is known before they are needed."""

    async def test_the_report(self, registry: TenantRegistry, data_dir: Path):
        """Every tenant of the sample is in it: the sound, the damaged, and the one without a snapshot."""
        for tenant_id in ("sound", "damaged", "without"):
            await registry.create(tenant_id)
        await registry.snapshots.create("sound")
        assert not (await registry.snapshots.drill()).is_ok
        await registry.snapshots.create("damaged")
        damaged = next((data_dir / "snapshots" / (await registry.get("damaged")).uid).glob("*.gz"))
        damaged.write_bytes(damaged.read_bytes()[:-1])
        report = await registry.snapshots.drill(sample=10)
        outcomes = {result.tenant_id: result.outcome for result in report.results}
        assert outcomes == {"sound": "ok", "damaged": "corrupt", "without": "not_found"}
        (sound,) = [result for result in report.results if result.tenant_id == "sound"]
        assert sound.snapshot_id is not None
        assert sound.age_seconds is not None
        assert len((await registry.snapshots.drill(sample=2)).results) == 2
        for tenant_id in ("damaged", "without"):
            await registry.snapshots.create(tenant_id)
        assert (await registry.snapshots.drill()).is_ok


async def test_in_a_bucket(data_dir: Path, s3_url: str):
    """The same with a real object store: taken, listed, tried out, restored, forgotten, and nothing kept beside the data."""
    storage = ObstoreStorage(make_bucket(s3_url, "snapshots-of-a-fleet"), "tenants")
    settings = config(data_dir, snapshots_kept_max=2)
    async with TenantRegistry(settings, snapshot_storage=storage) as registry:
        await registry.create("acme")
        await say(registry, "acme", "one")
        made = [await registry.snapshots.create("acme") for _ in range(3)]
        await say(registry, "acme", "two")
        assert list(await registry.snapshots.list("acme")) == made[:0:-1]
        assert (await registry.snapshots.drill()).is_ok
        await registry.snapshots.restore("acme", made[-1].id)
        assert await history(registry, "acme") == ["one"]
        await registry.delete("acme")
        await registry.purge("acme", force=True)
    assert not (data_dir / "snapshots").exists()
    assert (data_dir / "snapshot-storage").read_text() == "s3://snapshots-of-a-fleet/tenants\n"
    another = ObstoreStorage(make_bucket(s3_url, "another-bucket"), "tenants")
    with pytest.raises(DataDirectoryError, match="snapshots-of-a-fleet"):
        await TenantRegistry(settings, snapshot_storage=another).open()


async def test_the_disk_is_lost(data_dir: Path, tmp_path: Path):
    """With a copy of the catalog and the snapshots, which lie elsewhere, every tenant comes back."""
    elsewhere = LocalStorage(tmp_path / "elsewhere")
    async with TenantRegistry(config(data_dir), snapshot_storage=elsewhere) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
            await say(registry, tenant_id, f"of {tenant_id}")
            await registry.snapshots.create(tenant_id)
    new = tmp_path / "new"
    new.mkdir(mode=0o700)
    shutil.copy(data_dir / "catalog.db", new)
    shutil.rmtree(data_dir)
    (new / "snapshot-storage").write_text(f"{elsewhere.location}\n")
    async with TenantRegistry(config(new), snapshot_storage=elsewhere) as registry:
        await registry.snapshots.claim_storage()
        for tenant in await registry.list():
            newest = (await registry.snapshots.list(tenant.id))[0]
            await registry.snapshots.restore(tenant.id, newest.id)
            assert await history(registry, tenant.id) == [f"of {tenant.id}"]


@pytest.mark.parametrize("source", ["database", "snapshot"])
async def test_a_tenant_that_the_catalogs_copy_does_not_know(data_dir: Path, tmp_path: Path, source: str):
    """It is created again, and gets its old database, or one of its snapshots, as docs/operations.md says."""
    crashed = tmp_path / "crashed"
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("early")
        shutil.copy(data_dir / "catalog.db", tmp_path / "catalog.db")
        await registry.create("late")
        await say(registry, "late", "of late")
        taken = await registry.snapshots.create("late")
        shutil.copytree(data_dir, crashed)  # with a log beside the database, as kill -9 leaves it
    shutil.copy(tmp_path / "catalog.db", crashed)
    lost, place = tmp_path / "lost", database_path(crashed, "late")
    shutil.move(place.parent, lost)
    if source == "snapshot":
        shutil.rmtree(lost)
        lost.mkdir()
        [kept] = (crashed / "snapshots").rglob(f"{taken.id}.db.gz")
        (lost / "tenant.db").write_bytes(gzip.decompress(kept.read_bytes()))
    async with TenantRegistry(config(crashed)) as registry:
        await registry.create("late")
        query(lost / "tenant.db", "PRAGMA wal_checkpoint(TRUNCATE)")
        [(uid,)] = query(lost / "tenant.db", "SELECT tenant_uid FROM tenantry_owner")
        await registry.snapshots.replace_file("late", lost / "tenant.db", owner=uid)
        assert await history(registry, "late") == ["of late"]
        await registry.snapshots.create("late")


async def test_another_storage_is_noticed(data_dir: Path, tmp_path: Path):
    """A registry that would not find a directory's snapshots, nor remove them with their tenant, is not opened."""
    elsewhere, default = LocalStorage(tmp_path / "elsewhere"), LocalStorage(data_dir / "snapshots")
    async with TenantRegistry(config(data_dir), snapshot_storage=elsewhere) as registry:
        await registry.create("acme")
        await registry.snapshots.create("acme")
    for other in (None, default, LocalStorage(tmp_path / "typo")):
        with pytest.raises(DataDirectoryError, match=re.escape(str(tmp_path / "elsewhere"))):
            await TenantRegistry(config(data_dir), snapshot_storage=other).open()
    async with TenantRegistry(config(data_dir), snapshot_storage=elsewhere) as registry:
        assert len(await registry.snapshots.list("acme")) == 1
    (tmp_path / "elsewhere").rename(data_dir / "snapshots")
    (data_dir / "snapshot-storage").unlink()
    for storage in (None, default):
        async with TenantRegistry(config(data_dir), snapshot_storage=storage) as registry:
            assert len(await registry.snapshots.list("acme")) == 1
    with pytest.raises(DataDirectoryError, match="move what is in"):
        await TenantRegistry(config(data_dir), snapshot_storage=elsewhere).open()


async def test_a_copy_leaves_space_to_those_who_write(tmp_path: Path):
    """No tenant is copied onto the last of the disk; a small one is copied also where there is little."""
    with small_disk(tmp_path / "disk", "48m") as disk:
        async with TenantRegistry(config(disk / "data")) as registry:
            for tenant_id in ("acme", "globex"):
                await registry.create(tenant_id)
            await say(registry, "acme", *("x" * 2**20 for _ in range(10)))
            await registry.suspend("acme")  # its log comes into its database
            free = shutil.disk_usage(disk).free
            # Room for a copy of it, and not for a second.
            (disk / "ballast").write_bytes(bytes(free - 15 * 2**20))
            for call in (registry.snapshots.create("acme"), registry.clone("acme", "initech")):
                with pytest.raises(StorageFullError, match="free space on the disk"):
                    await call
            await registry.snapshots.create("globex")
            assert list((disk / "data").glob("scratch/*/*/*")) == []
            assert shutil.disk_usage(disk).free > 14 * 2**20
            (disk / "ballast").unlink()
            await registry.snapshots.create("acme")


@pytest.mark.parametrize("end", ["purge", "retention"])
async def test_what_a_killed_snapshot_left(data_dir: Path, end: str):
    """The half of a snapshot that a killed process was at goes with the tenant, and with the next snapshot."""
    async with TenantRegistry(config(data_dir)) as registry:
        tenant = await registry.create("acme")
        directory = data_dir / "snapshots" / tenant.uid
        await registry.snapshots.create("acme")
        left = directory / "20260101t000000000000z-00000000.db.gz.DRAFT"
        left.touch(mode=0o600)
        left.write_bytes(b"half of what a customer wants deleted")
        if end == "purge":
            await registry.delete("acme")
            await registry.purge("acme", force=True)
            assert not directory.exists()
        else:
            await registry.snapshots.create("acme")
            assert not left.exists()


async def test_calls_of_a_suspended_tenant_stay_refused(registry: TenantRegistry):
    """A snapshot of a suspended tenant does not open it for anyone."""
    await registry.create("acme")
    await registry.suspend("acme")
    await registry.snapshots.create("acme")
    with pytest.raises(TenantSuspendedError):
        await say(registry, "acme", "no")


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


@pytest.mark.parametrize("has_lock", [True, False])
async def test_what_a_dead_registry_left(data_dir: Path, *, has_lock: bool):
    """A scratch directory whose process has died is removed when a registry next opens, whether its lock outlived it or not."""
    left = data_dir / "scratch" / "tmpdead"
    left.mkdir(parents=True)
    (left / "tenant.db").write_bytes(b"half a copy")
    if has_lock:
        (data_dir / "scratch" / "tmpdead.lock").touch()
    async with TenantRegistry(config(data_dir)) as living, living.scratch_directory() as directory:
        assert not left.exists()
        async with TenantRegistry(config(data_dir)):
            assert directory.exists()
    assert list((data_dir / "scratch").iterdir()) == []
    assert query(data_dir / "catalog.db", "SELECT count(*) FROM tenants WHERE intent IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("call", ["snapshot", "clone", "export"])
async def test_a_virtual_table_that_cannot_be_read(registry: TenantRegistry, tmp_path: Path, call: str):
    """A copy fails with the name of the table that a rename made unreadable; the tenant is sound and serves on."""
    await registry.create("acme")
    acme = registry.tenant("acme").repository(AnyRepository)
    await acme.write(
        run("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)"),
        run("CREATE VIRTUAL TABLE found USING fts5 (body, content = 'notes', content_rowid = 'id')"),
    )
    await acme.write(run("ALTER TABLE notes RENAME TO remarks"))
    calls = {
        "snapshot": lambda: registry.snapshots.create("acme"),
        "clone": lambda: registry.clone("acme", "other"),
        "export": lambda: registry.export("acme", tmp_path / "acme.tar.gz"),
    }
    with pytest.raises(SnapshotError, match=r"table 'found' .* cannot be read") as caught:
        await calls[call]()
    assert "damaged" not in str(caught.value)
    await acme.write(run("DROP TABLE found"))
    await calls[call]()
    assert (await registry.get("acme")).state is TenantState.ACTIVE
