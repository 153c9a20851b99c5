"""Where snapshots are kept: in a bucket, after the disk is lost, and beside another storage."""

import gzip
import re
import shutil
from pathlib import Path

import pytest

from buckets import make_bucket
from snapshots import config
from tenantry import TenantRegistry
from tenantry.errors import (
    DataDirectoryError,
)
from tenantry.storage import LocalStorage, ObstoreStorage
from tenants import (
    database_path,
    history,
    query,
    say,
)


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
        shutil.copytree(
            data_dir, crashed, ignore=shutil.ignore_patterns("peers")
        )  # with a log beside the database, as kill -9 leaves it
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
    with pytest.raises(DataDirectoryError, match="move the contents of"):
        await TenantRegistry(config(data_dir), snapshot_storage=elsewhere).open()
