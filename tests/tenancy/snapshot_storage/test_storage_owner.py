"""Snapshot storage belongs to one data directory: a copy of the directory cannot touch the original's snapshots."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from buckets import make_bucket
from commands import document, tenantry
from tenantry import RegistryConfig, TenantRegistry
from tenantry.doctor import Level, examine
from tenantry.errors import DataDirectoryError, SnapshotError, SnapshotStorageOwnedError
from tenantry.storage import LocalStorage, ObjectStorage, ObstoreStorage
from tenantry.tenancy.data_directory import locked_alone
from tenantry.tenancy.snapshot_storage.directory_identity import make_identity, read_identity
from tenantry.tenancy.snapshot_storage.owner import CHECKED_SECONDS_MAX, MARK_KEY
from tenantry.tenancy.snapshot_storage.switch import switch_storage
from tenants import MovedClock, make_message

Call = Callable[[TenantRegistry, str], Awaitable[object]]


def opened(data_dir: Path, storage: ObjectStorage | None, **options: MovedClock) -> TenantRegistry:
    """Return a registry on a directory, not yet open."""
    return TenantRegistry(RegistryConfig(data_dir=data_dir), snapshot_storage=storage, **options)


@pytest.fixture
def backups(tmp_path: Path) -> LocalStorage:
    """A storage outside of every data directory."""
    return LocalStorage(tmp_path / "backups")


@pytest.fixture
async def snapshot_id(data_dir: Path, backups: LocalStorage) -> str:
    """The id of the one snapshot of a directory's one tenant, kept outside of the directory, whose registry has closed."""
    async with opened(data_dir, backups) as registry:
        await registry.create("acme")
        await registry.tenant("acme").messages.save(make_message("kept"))
        return (await registry.snapshots.create("acme")).id


@pytest.fixture
def copied(data_dir: Path, tmp_path: Path, snapshot_id: str) -> Path:
    """A copy of the directory, with everything that a copy can keep."""
    assert snapshot_id
    return Path(shutil.copytree(data_dir, tmp_path / "copied"))


async def objects(storage: ObjectStorage) -> list[str]:
    """Return the keys of everything that is kept but the mark."""
    return [stored.key for stored in await storage.list("") if stored.key != MARK_KEY]


async def _purge(registry: TenantRegistry, _: str) -> object:
    await registry.delete("acme")
    return await registry.purge("acme", force=True)


CALLS: dict[str, Call] = {
    "create": lambda registry, _: registry.snapshots.create("acme"),
    "delete": lambda registry, taken: registry.snapshots.delete("acme", taken),
    "restore": lambda registry, taken: registry.snapshots.restore("acme", taken),
    "clone": lambda registry, taken: registry.clone("acme", "globex", taken),
    "purge": _purge,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_copy_cannot_touch_the_originals_snapshots(
    data_dir: Path, copied: Path, backups: LocalStorage, snapshot_id: str, call: Call
):
    """Everything that writes, deletes or restores a snapshot is refused in a copied directory, and nothing is lost by it."""
    before = await objects(backups)
    async with opened(copied, backups) as staging:
        with pytest.raises(SnapshotStorageOwnedError, match="claim-storage") as caught:
            await call(staging, snapshot_id)
        assert (caught.value.owner_data_dir, caught.value.data_dir) == (str(data_dir), str(copied))
        assert await staging.find("globex") is None
    assert await objects(backups) == before
    async with opened(data_dir, backups) as production:
        await production.snapshots.restore("acme", snapshot_id)


async def test_a_refused_purge_keeps_the_tenant(copied: Path, backups: LocalStorage, snapshot_id: str):
    """A purge whose snapshots belong to another directory does not begin: the tenant can be undeleted."""
    async with opened(copied, backups) as staging:
        with pytest.raises(SnapshotStorageOwnedError):
            await _purge(staging, snapshot_id)
        await staging.undelete("acme")
        assert len(await staging.tenant("acme").messages.get_history("general")) == 1


async def test_a_storage_in_a_bucket(data_dir: Path, tmp_path: Path, s3_url: str):
    """The same holds for an object store."""
    storage = ObstoreStorage(make_bucket(s3_url, "owned"), "tenants")
    async with opened(data_dir, storage) as production:
        await production.create("acme")
        await production.snapshots.create("acme")
    copied = shutil.copytree(data_dir, tmp_path / "copied")
    async with opened(copied, storage) as staging:
        with pytest.raises(SnapshotStorageOwnedError, match=r"s3://owned/tenants"):
            await staging.snapshots.create("acme")


async def test_another_directory(backups: LocalStorage, tmp_path: Path, snapshot_id: str):
    """A directory that is no copy is refused like one."""
    assert snapshot_id
    async with opened(tmp_path / "other", backups) as other:
        await other.create("acme")
        with pytest.raises(SnapshotStorageOwnedError):
            await other.snapshots.create("acme")


async def test_a_directory_under_another_name(
    data_dir: Path, backups: LocalStorage, tmp_path: Path, snapshot_id: str
):
    """A data directory that was renamed is the same directory."""
    shutil.move(data_dir, tmp_path / "renamed")
    async with opened(tmp_path / "renamed", backups) as registry:
        await registry.snapshots.restore("acme", snapshot_id)


async def test_snapshots_in_the_directory_itself_are_copied_with_it(data_dir: Path, tmp_path: Path):
    """A copy of a directory that holds its own snapshots has snapshots of its own."""
    async with opened(data_dir, None) as registry:
        await registry.create("acme")
        taken = await registry.snapshots.create("acme")
    copied = Path(shutil.copytree(data_dir, tmp_path / "copied"))
    async with opened(copied, None) as staging:
        await staging.snapshots.restore("acme", taken.id)
        assert await staging.snapshots.claim_storage() is None
        await _purge(staging, taken.id)
    assert not (copied / "snapshots" / MARK_KEY).exists()
    async with opened(data_dir, None) as registry:
        assert len(await registry.snapshots.list("acme")) == 1


async def test_taken_over(data_dir: Path, copied: Path, backups: LocalStorage, snapshot_id: str):
    """A claim gives the storage to the copy, is in its audit, and the original is refused within a minute of it."""
    clock = MovedClock()
    async with opened(data_dir, backups, clock=clock) as production, opened(copied, backups) as staging:
        await production.snapshots.restore("acme", snapshot_id)
        taken_from = await staging.snapshots.claim_storage()
        assert taken_from is not None
        assert taken_from.data_dir == str(data_dir)
        await staging.snapshots.restore("acme", snapshot_id)
        [row] = [row for row in await staging.audit.list() if row.action == "claim_storage"]
        assert (row.outcome, row.tenant_id, row.detail["location"]) == ("ok", None, backups.location)
        assert str(data_dir) in row.detail["taken_from"]
        clock.waited_seconds = CHECKED_SECONDS_MAX
        with pytest.raises(SnapshotStorageOwnedError, match=str(copied)):
            await production.snapshots.delete("acme", snapshot_id)
        await production.snapshots.claim_storage()
        await production.snapshots.restore("acme", snapshot_id)


async def test_a_start_marks_the_storage(data_dir: Path, backups: LocalStorage):
    """A registry makes a storage its directory's when it opens, so that no later copy can be the first to use it."""
    async with opened(data_dir, backups) as registry:
        # Whoever comes next waits for the check that the start began.
        await registry.create("acme")
        await registry.snapshots.delete("acme", "20260101t000000000000z-00000000")
        assert [stored.key for stored in await backups.list("")] == [MARK_KEY]


@pytest.mark.parametrize("content", [b"", b"no JSON", b"{}"])
async def test_a_mark_that_cannot_be_read(
    data_dir: Path, backups: LocalStorage, snapshot_id: str, content: bytes
):
    """A damaged mark belongs to nobody that can be named: the storage is refused until it is claimed."""
    await backups.put_bytes(MARK_KEY, content)
    async with opened(data_dir, backups) as registry:
        with pytest.raises(SnapshotStorageOwnedError, match="cannot be read"):
            await registry.snapshots.restore("acme", snapshot_id)
        assert await registry.snapshots.claim_storage() is None
        await registry.snapshots.restore("acme", snapshot_id)


async def test_begun_elsewhere(copied: Path, backups: LocalStorage, tmp_path: Path, snapshot_id: str):
    """A copy that is given a storage of its own begins without snapshots there, and the original's are not touched."""
    before, new = await objects(backups), LocalStorage(tmp_path / "new")
    assert await switch_storage(RegistryConfig(data_dir=copied), new) == backups.location
    with pytest.raises(DataDirectoryError, match=str(tmp_path / "new")):
        await opened(copied, backups).open()
    async with opened(copied, new) as staging:
        assert await staging.snapshots.list("acme") == []
        await staging.snapshots.create("acme")
        [row] = [row for row in await staging.audit.list() if row.action == "switch_storage"]
        assert row.detail == {"location": new.location, "before": backups.location}
        await _purge(staging, snapshot_id)
    assert await objects(backups) == before


async def test_a_switch_to_what_is_not_empty(copied: Path, backups: LocalStorage, tmp_path: Path):
    """A storage that another directory has, or that holds something unmarked, is not taken by a switch."""
    config, unmarked = RegistryConfig(data_dir=copied), LocalStorage(tmp_path / "unmarked")
    with pytest.raises(SnapshotStorageOwnedError):
        await switch_storage(config, backups)
    await unmarked.put_bytes("something", b"of somebody")
    with pytest.raises(SnapshotError, match="an empty storage"):
        await switch_storage(config, unmarked)
    assert (copied / "snapshot-storage").read_text().strip() == backups.location


async def test_a_switch_beside_an_open_registry(copied: Path, backups: LocalStorage, tmp_path: Path):
    """A switch is refused, and changes nothing, while a registry has the directory open, and no registry opens during a switch."""
    config, new = RegistryConfig(data_dir=copied), LocalStorage(tmp_path / "new")
    async with opened(copied, backups), opened(copied, backups):
        with pytest.raises(DataDirectoryError, match="stop the service or the program"):
            await switch_storage(config, new)
    with locked_alone(copied), pytest.raises(DataDirectoryError, match="switch-storage"):
        await opened(copied, backups).open()
    assert (copied / "snapshot-storage").read_text().strip() == backups.location
    assert await switch_storage(config, new) == backups.location


async def test_a_switch_under_a_service(data_dir: Path, tmp_path: Path):
    """The command refuses to switch while another process has the directory open, and says to stop it."""
    async with opened(data_dir, None):
        done = tenantry(
            "snapshot", "switch-storage", tmp_path / "new", "--data-dir", data_dir, "--yes", is_measured=True
        )
    assert (done.returncode, "stop the service" in done.stderr) == (1, True)


async def test_the_doctor_finds_snapshots_that_were_left(data_dir: Path, tmp_path: Path):
    """Snapshots that are still in the data directory after a switch are counted by the examination; before it none are left."""

    async def left() -> list[str]:
        findings = (await examine(RegistryConfig(data_dir=data_dir))).findings
        return [
            f"{finding.level} {finding.found}" for finding in findings if finding.check == "snapshot storage"
        ]

    async with opened(data_dir, None) as registry:
        await registry.create("acme")
        await registry.snapshots.create("acme")
    assert await left() == []
    new = LocalStorage(tmp_path / "new")
    await switch_storage(RegistryConfig(data_dir=data_dir), new)
    [found] = await left()
    assert found.startswith(f"note 1 snapshot is in {data_dir / 'snapshots'}")
    assert new.location in found


async def test_what_the_doctor_says(data_dir: Path, copied: Path, backups: LocalStorage, tmp_path: Path):
    """The examination tells a directory's own storage, another one's, and one that nobody has; and writes in none."""

    async def level(directory: Path, storage: ObjectStorage) -> Level:
        report = await examine(RegistryConfig(data_dir=directory), snapshot_storage=storage)
        [found] = [finding for finding in report.findings if finding.check == "snapshot storage"]
        return found.level

    assert await level(data_dir, backups) is Level.OK
    assert await level(copied, backups) is Level.WRONG
    new = LocalStorage(tmp_path / "new")
    assert await level(data_dir, new) is Level.NOTE
    assert await objects(new) == []


async def test_the_commands(copied: Path, backups: LocalStorage, tmp_path: Path):
    """Both ways out can be gone on the command line, by those who know what they do."""
    done = tenantry("snapshot", "create", "acme", "--data-dir", copied)
    assert done.returncode == 1
    assert "claim-storage" in done.stderr
    done = tenantry("snapshot", "claim-storage", "--data-dir", copied)
    assert (done.returncode, "--yes" in done.stderr) == (2, True)
    claimed = document(tenantry("snapshot", "claim-storage", "--data-dir", copied, "--yes", "--json"))
    assert claimed["location"] == backups.location
    new = tmp_path / "new"
    done = tenantry("snapshot", "switch-storage", new, "--data-dir", copied, is_measured=True)
    assert (done.returncode, "--yes" in done.stderr) == (2, True)
    switched = document(
        tenantry("snapshot", "switch-storage", new, "--data-dir", copied, "--yes", "--json", is_measured=True)
    )
    assert switched == {"location": str(new), "before": backups.location}
    assert document(tenantry("snapshot", "list", "acme", "--data-dir", copied, "--json"))["items"] == []


def test_an_identity(tmp_path: Path):
    """It stays what it is, a copy of its file is another, and one that is made anew is too."""
    assert read_identity(tmp_path) is None
    one = make_identity(tmp_path)
    assert make_identity(tmp_path) == read_identity(tmp_path) == one
    (tmp_path / "copy").mkdir()
    shutil.copy2(tmp_path / "identity", tmp_path / "copy")
    copied = read_identity(tmp_path / "copy")
    assert copied is not None
    assert (copied.id, copied.is_same(one)) == (one.id, False)
    assert not one.is_same(make_identity(tmp_path, is_replaced=True))


def test_an_inode_that_another_file_had(tmp_path: Path):
    """Two file systems give the same numbers to different files: the generation tells them apart, where both have one."""
    one = make_identity(tmp_path)
    assert one.is_same(one._replace(generation=None))
    assert not one._replace(generation=1).is_same(one._replace(generation=2))
