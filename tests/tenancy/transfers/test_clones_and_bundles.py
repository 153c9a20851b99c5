"""New tenants from others' data: clones, and bundles that other programs can read."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from damage import gunzipped
from tenantry import RegistryConfig, Schema, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import (
    MigrationError,
    SnapshotCorruptError,
    SnapshotError,
    TenantExistsError,
    TenantNotFoundError,
)
from tenantry.storage.sqlite.database_files.ownership import FileOwnership
from tenants import HANG_SECONDS, database_path, make_message, query, stored_contents, write_pack


def config(data_dir: Path, **fields: Any) -> RegistryConfig:
    """Return settings for a small pool."""
    return RegistryConfig(data_dir=data_dir, **{"open_tenants_max": 4, **fields})


async def make_acme(registry: TenantRegistry) -> None:
    """Create a tenant with two messages."""
    await registry.create("acme", display_name="Acme & Söhne")
    await registry.tenant("acme").messages.save_many([make_message("one"), make_message("two")])


def unpack(bundle: Path, place: Path) -> None:
    """Unpack a bundle as somebody without tenantry does."""
    place.mkdir()
    subprocess.run(["tar", "xzf", bundle], cwd=place, check=True)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=place, check=True)


class TestClone:
    """A tenant from another's present state."""

    async def test_it_is_a_tenant_of_its_own(self, registry: TenantRegistry, data_dir: Path):
        """It has the other one's data, and from then on each goes its own way."""
        await make_acme(registry)
        clone = await registry.clone("acme", "globex", display_name="Globex")
        assert (clone.id, clone.display_name, clone.state) == ("globex", "Globex", TenantState.ACTIVE)
        assert clone.uid != (await registry.get("acme")).uid
        await registry.tenant("globex").messages.save(make_message("three"))
        await registry.tenant("acme").messages.save(make_message("four"))
        assert stored_contents(data_dir, "globex") == ["one", "two", "three"]
        assert stored_contents(data_dir, "acme") == ["one", "two", "four"]
        assert list(await registry.snapshots.list("globex")) == []

    async def test_names_that_do_not_fit(self, registry: TenantRegistry):
        """The source must be there and the new id free; otherwise nothing is made."""
        await make_acme(registry)
        with pytest.raises(TenantExistsError):
            await registry.clone("acme", "acme")
        with pytest.raises(TenantNotFoundError, match="'nobody'"):
            await registry.clone("nobody", "globex")
        assert [tenant.id for tenant in await registry.list()] == ["acme"]

    async def test_a_suspended_source(self, registry: TenantRegistry, data_dir: Path):
        """What serves nobody can be copied, and the copy serves."""
        await make_acme(registry)
        await registry.suspend("acme")
        await registry.clone("acme", "globex")
        await registry.tenant("globex").messages.save(make_message("three"))
        assert stored_contents(data_dir, "globex") == ["one", "two", "three"]

    async def test_left_by_a_process_whose_thread_still_has_the_file(self, data_dir: Path):
        """A registry opens without waiting for the file of a clone that was not finished; the next one finishes it."""
        async with TenantRegistry(config(data_dir)) as registry:
            await make_acme(registry)
            clone = await registry.clone("acme", "globex")
        intent = json.dumps({"action": "clone", "arguments": {}, "begun_at": "2026-01-01T00:00:00Z"})
        query(
            data_dir / "catalog.db",
            "UPDATE tenants SET state = 'provisioning', intent = ? WHERE id = 'globex'",
            intent,
        )
        lock = FileOwnership(database_path(data_dir, "globex").with_name("lock"), clone.uid, clone.id)
        lock.acquire()
        try:
            async with (
                asyncio.timeout(HANG_SECONDS),
                TenantRegistry(config(data_dir, call_timeout_seconds=600.0)),
            ):
                pass
        finally:
            lock.release()
        async with TenantRegistry(config(data_dir)) as registry:
            assert (await registry.get("globex")).state is TenantState.ACTIVE


class TestBundle:
    """Exported here, imported there."""

    async def test_there_and_back(self, data_dir: Path, tmp_path: Path):
        """What was exported is imported by another registry, under another id, with the same content."""
        bundle = tmp_path / "acme.tar.gz"
        async with TenantRegistry(config(data_dir)) as registry:
            await make_acme(registry)
            manifest = await registry.export("acme", bundle)
            assert (manifest.tenant_id, manifest.kind) == ("acme", "bundle")
            assert manifest.row_counts["messages"] == 2
        async with TenantRegistry(config(tmp_path / "elsewhere")) as registry:
            tenant = await registry.import_bundle("globex", bundle)
            assert (tenant.id, tenant.display_name) == ("globex", "Acme & Söhne")
            assert tenant.uid != manifest.tenant_uid
            await registry.tenant("globex").messages.save(make_message("three"))
            assert stored_contents(tmp_path / "elsewhere", "globex") == ["one", "two", "three"]
            with pytest.raises(TenantExistsError):
                await registry.import_bundle("globex", bundle)

    async def test_other_programs_read_it(self, registry: TenantRegistry, tmp_path: Path):
        """They unpack it, find its checksums right, and open its database with plain SQLite."""
        await make_acme(registry)
        await registry.export("acme", tmp_path / "acme.tar.gz")
        place = tmp_path / "unpacked"
        unpack(tmp_path / "acme.tar.gz", place)
        assert {path.name for path in place.iterdir()} == {"manifest.json", "SHA256SUMS", "tenant.db"}
        assert query(place / "tenant.db", "SELECT content FROM messages ORDER BY seq") == [("one",), ("two",)]
        assert query(place / "tenant.db", "PRAGMA journal_mode") == [("delete",)]

    async def test_a_file_that_exists(self, registry: TenantRegistry, tmp_path: Path):
        """A file at the path is replaced only if that was asked for."""
        await make_acme(registry)
        (tmp_path / "acme.tar.gz").write_bytes(b"precious")
        with pytest.raises(SnapshotError, match="exists already"):
            await registry.export("acme", tmp_path / "acme.tar.gz")
        assert (tmp_path / "acme.tar.gz").read_bytes() == b"precious"
        await registry.export("acme", tmp_path / "acme.tar.gz", replace=True)
        assert (tmp_path / "acme.tar.gz").read_bytes() != b"precious"

    async def test_any_flipped_byte(self, registry: TenantRegistry, data_dir: Path, tmp_path: Path):
        """It is found before anything is created, if it is in a byte that the content depends on."""
        await make_acme(registry)
        bundle = tmp_path / "acme.tar.gz"
        await registry.export("acme", bundle)
        sound = bundle.read_bytes()
        for place in [*range(0, len(sound), max(1, len(sound) // 60)), len(sound) - 1]:
            spoiled = bytearray(sound)
            spoiled[place] ^= 1 << (place % 8)
            if gunzipped(spoiled) == gunzipped(sound):
                continue  # the padding of gzip's last block
            bundle.write_bytes(spoiled)
            with pytest.raises(SnapshotCorruptError):
                await registry.import_bundle("globex", bundle)
        assert [tenant.id for tenant in await registry.list()] == ["acme"]
        assert not database_path(data_dir, "globex").parent.exists()
        assert list((data_dir / "scratch").glob("*/*")) == []

    async def test_what_is_no_bundle(self, registry: TenantRegistry, tmp_path: Path):
        """A file that is missing, empty or something else is refused."""
        (tmp_path / "empty").touch()
        (tmp_path / "text").write_text("hello")
        for name in ("missing", "empty", "text"):
            with pytest.raises(SnapshotError):
                await registry.import_bundle("globex", tmp_path / name)
        with pytest.raises(TenantNotFoundError):
            await registry.get("globex")

    async def test_one_that_is_newer_than_the_code(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """An older program does not take in what a newer one wrote, and says so."""
        monkeypatch.syspath_prepend(tmp_path)
        pack = Schema("notes", write_pack(tmp_path, "notes_pack", "CREATE TABLE notes (x)"))
        later = Schema(
            "notes", write_pack(tmp_path, "notes_later", "CREATE TABLE notes (x)", "CREATE TABLE more (x)")
        )
        async with TenantRegistry(config(data_dir), schemas=[COMPANY, later]) as registry:
            await make_acme(registry)
            await registry.export("acme", tmp_path / "acme.tar.gz")
        async with TenantRegistry(config(tmp_path / "older"), schemas=[COMPANY, pack]) as registry:
            with pytest.raises(MigrationError, match="newer than the code"):
                await registry.import_bundle("globex", tmp_path / "acme.tar.gz")
            assert list(await registry.list()) == []

    async def test_one_that_is_older_is_migrated(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A bundle of last year's schema becomes a tenant of this year's."""
        monkeypatch.syspath_prepend(tmp_path)
        async with TenantRegistry(config(data_dir)) as registry:
            await make_acme(registry)
            await registry.export("acme", tmp_path / "acme.tar.gz")
        pack = Schema("notes", write_pack(tmp_path, "notes_new", "CREATE TABLE notes (x)"))
        async with TenantRegistry(config(tmp_path / "newer"), schemas=[COMPANY, pack]) as registry:
            tenant = await registry.import_bundle("globex", tmp_path / "acme.tar.gz")
            assert tenant.schema_versions == {"company": 1, "notes": 1}
