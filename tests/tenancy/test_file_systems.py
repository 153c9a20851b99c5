"""Data directories whose parts are on file systems of their own, and the space that is left on each of them."""

import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stores import small_disk
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.errors import SnapshotNotFoundError, StorageFullError
from tenants import database_path, history, make_message, say

MEBIBYTE = 2**20


def config(data_dir: Path) -> RegistryConfig:
    """Return settings for a small pool."""
    return RegistryConfig(data_dir=data_dir, open_tenants_max=4)


@pytest.fixture(params=["tenants", "scratch"])
def part(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[Path]:
    """A part of a data directory that is on a file system of its own."""
    data_dir.mkdir(mode=0o700)
    with small_disk(data_dir / request.param, "128m") as mounted:
        assert mounted.is_mount()
        yield mounted


def found(directory: Path, pattern: str) -> list[Path]:
    """Return what lies below a directory."""
    return sorted(directory.glob(pattern))


@pytest.mark.usefixtures("part")
async def test_what_is_moved_between_file_systems(data_dir: Path, tmp_path: Path):
    """Restore, its undoing, clone, import and a replaced file work where nothing can be renamed, and leave nothing behind."""
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
        await say(registry, "acme", "one")
        taken = await registry.snapshots.create("acme")
        await say(registry, "acme", "two")
        await registry.snapshots.restore("acme", taken.id)
        assert await history(registry, "acme") == ["one"]
        await registry.snapshots.undo_restore("acme")
        assert await history(registry, "acme") == ["one", "two"]
        await registry.clone("acme", "copy")
        await registry.export("acme", tmp_path / "acme.tar.gz")
        await registry.import_bundle("imported", tmp_path / "acme.tar.gz")
        assert await history(registry, "copy") == await history(registry, "imported") == ["one", "two"]
        await registry.suspend("acme")
        shutil.copy(database_path(data_dir, "acme"), tmp_path / "acme.db")
        await registry.resume("acme")
        await say(registry, "acme", "three")
        await registry.snapshots.replace_file("acme", tmp_path / "acme.db")
        assert await history(registry, "acme") == ["one", "two"]
        assert found(data_dir, "**/*.part") == found(data_dir, "scratch/*/*/*") == []


async def test_no_room_where_it_is_moved_to(data_dir: Path):
    """A restore that would fill the file system of the tenants is refused there, and the tenant is as it was."""
    os.makedirs(data_dir, mode=0o700)  # noqa: PTH103
    with small_disk(data_dir / "tenants", "24m") as mounted:
        async with TenantRegistry(config(data_dir)) as registry:
            await registry.create("acme")
            await say(registry, "acme", "x" * 4 * MEBIBYTE)
            taken = await registry.snapshots.create("acme")
            free = shutil.disk_usage(mounted).free
            (mounted / "ballast").write_bytes(bytes(free - 6 * MEBIBYTE))
            with pytest.raises(StorageFullError, match="free space on the disk"):
                await registry.snapshots.restore("acme", taken.id)
            tenant = await registry.get("acme")
            assert (tenant.state, tenant.intent) == (TenantState.ACTIVE, None)
            assert len(await history(registry, "acme")) == 1
            assert list(mounted.rglob("restore*")) == []
            (mounted / "ballast").unlink()
            await registry.snapshots.restore("acme", taken.id)


Call = Callable[[TenantRegistry, str], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "archive": lambda registry, _: registry.archive("acme"),
    "restore": lambda registry, taken: registry.snapshots.restore("acme", taken),
    "undo_restore": lambda registry, _: registry.snapshots.undo_restore("acme"),
    "clone of a snapshot": lambda registry, taken: registry.clone("acme", "copy", taken),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_space_is_left_to_those_who_write(tmp_path: Path, call: Call):
    """Neither a restore nor an archive takes the last of the disk; the tenant is as it was, and others write."""
    with small_disk(tmp_path / "disk", "48m") as disk:
        async with TenantRegistry(config(disk / "data")) as registry:
            await registry.create("acme")
            await registry.create("globex")
            await say(registry, "acme", "x" * 6 * MEBIBYTE)
            taken = await registry.snapshots.create("acme")
            await registry.snapshots.restore("acme", taken.id)
            await registry.suspend("acme")  # its log comes into its database
            await registry.resume("acme")
            (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 9 * MEBIBYTE))
            with pytest.raises(StorageFullError, match="free space on the disk"):
                await call(registry, taken.id)
            assert (await registry.get("acme")).state is TenantState.ACTIVE
            assert len(await history(registry, "acme")) == 1
            assert shutil.disk_usage(disk).free > 8 * MEBIBYTE
            await registry.tenant("globex").messages.save(make_message("written"))
            (disk / "ballast").unlink()
            await call(registry, taken.id)


async def test_a_dropped_point(registry: TenantRegistry, data_dir: Path):
    """What a restore replaced is removed from the disk and from the list, audited, and the restore cannot be undone."""
    await registry.create("acme")
    taken = await registry.snapshots.create("acme")
    await registry.snapshots.restore("acme", taken.id)
    await registry.snapshots.restore("acme", taken.id)
    older, newer = await registry.snapshots.points("acme")
    await registry.snapshots.drop_point("acme", older)
    assert await registry.snapshots.points("acme") == [newer]
    assert (await registry.get("acme")).restore_point == newer
    for _ in range(2):
        await registry.snapshots.drop_point("acme", newer)
    assert await registry.snapshots.points("acme") == []
    assert found(data_dir, "tenants/*/acme/points/*") == []
    with pytest.raises(SnapshotNotFoundError, match="has no restore to undo"):
        await registry.snapshots.undo_restore("acme")
    rows = [row for row in await registry.audit.list() if row.action == "drop_point"]
    assert [(row.outcome, row.detail["point"]) for row in rows] == [
        ("ok", newer),
        ("ok", newer),
        ("ok", older),
    ]
    for name in ("..", taken.id, "before-../../..", ""):
        with pytest.raises(SnapshotNotFoundError):
            await registry.snapshots.drop_point("acme", name)
