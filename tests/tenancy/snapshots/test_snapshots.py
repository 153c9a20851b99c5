"""Snapshots: consistent while the tenant is written, checked, kept, forgotten, tried out; restored, and that undone."""

import asyncio
import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from snapshots import config, kept_files, spoil_page, writing
from stores import small_disk
from tenantry import Schema, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import (
    DatabaseCorruptError,
    QueryError,
    SnapshotError,
    SnapshotNotFoundError,
    StorageFullError,
    TenantNotFoundError,
    TenantQuarantinedError,
    TenantryError,
    TenantSuspendedError,
)
from tenantry.storage.sqlite.maintenance import online_backup
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

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


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

    @pytest.mark.parametrize("count", [20, pytest.param(50, marks=pytest.mark.soak)])
    async def test_snapshots_beside_constant_writes(self, data_dir: Path, count: int):
        """Many snapshots of a tenant that eight callers write: each holds a prefix of what each of them was told."""
        async with TenantRegistry(config(data_dir, snapshots_kept_max=count)) as registry:
            await registry.create("acme")
            before: dict[str, list[int]] = {}
            after: dict[str, list[int]] = {}
            async with writing(registry, 8) as acknowledged:
                for _ in range(count):
                    told = [len(mine) for mine in acknowledged.values()]
                    snapshot = await registry.snapshots.create("acme")
                    before[snapshot.id] = told
                    after[snapshot.id] = [len(mine) for mine in acknowledged.values()]
            assert len(await registry.snapshots.list("acme")) == count
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
        async with TenantRegistry(config(data_dir), schemas=[COMPANY, later]) as registry:
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
        with pytest.raises(SnapshotError, match="the tenant's database is sound"):
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


async def test_a_directory_whose_caller_is_cancelled(registry: TenantRegistry, data_dir: Path):
    """A scratch directory is removed although its caller was cancelled while a thread made the directory."""
    making = asyncio.ensure_future(registry.scratch_directory().__aenter__())
    await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert list((data_dir / "scratch").glob("*/*")) == []


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
