"""What lifecycle operations make and remove is durable when they return, so that a power failure does not undo it."""

from pathlib import Path

import pytest

from directory_entries import EntryRecorder
from tenantry import RegistryConfig, Schema, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import TenantryError
from tenantry.storage.sqlite.tenant_files import replacement
from tenants import database_path, make_message, stored_contents, write_pack


def without_scratch(directories: set[Path]) -> set[Path]:
    """Leave out what a power failure may bring back, because the next registry removes it: locks and scratch directories."""
    return {path for path in directories if not {"scratch", "operations"} & set(path.parts)}


async def test_a_new_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It and the directories above it are durable before anything is made in them."""
    entries = EntryRecorder(tmp_path, monkeypatch)
    async with TenantRegistry(RegistryConfig(data_dir=tmp_path / "srv" / "tenantry")) as registry:
        await registry.create("acme")
        assert without_scratch(entries.unsynced) == set()
    assert entries.made_in_unsynced == []


async def test_a_purge(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """The files of a purged tenant do not come back, nor do its snapshots."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
        await registry.snapshots.create("acme")
        await registry.delete("acme")
        entries = EntryRecorder(data_dir, monkeypatch)
        await registry.purge("acme", force=True)
        assert without_scratch(entries.unsynced) == set()
        assert database_path(data_dir, "acme").parents[1] in entries.synced


async def test_an_aborted_create(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its directory does not come back: the id could not be created again."""
    monkeypatch.syspath_prepend(tmp_path)
    schema = Schema(name="broken", package=write_pack(tmp_path, "broken_pack", "CREATE NONSENSE"))
    entries = EntryRecorder(data_dir, monkeypatch)
    async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=[COMPANY, schema]) as registry:
        with pytest.raises(TenantryError):
            await registry.create("acme")
        assert without_scratch(entries.unsynced) == set()
        assert not database_path(data_dir, "acme").parent.exists()


class DiedError(BaseException):
    """Ends a call as the end of its process would: nothing is taken back."""


async def test_a_staged_file_that_came_back(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """A database that an earlier restore gave up is not put in place by the next restore, which dies before it placed its own."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
        snapshot = await registry.snapshots.create("acme")
        await registry.tenant("acme").messages.save(make_message("newer than the snapshot"))
    database = database_path(data_dir, "acme")
    stale = [
        database.with_name(name) for name in ("restore.db", "restore-before-20260101t000000000000z-abcdef.db")
    ]

    def die(*_: object) -> None:
        for path in stale:
            path.write_bytes(b"what an earlier restore gave up")
        raise DiedError

    registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
    await registry.open()
    with monkeypatch.context() as patched:
        patched.setattr(replacement, "place", die)
        with pytest.raises(DiedError):
            await registry.snapshots.restore("acme", snapshot.id)
    await registry.aclose()
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        tenant = await registry.get("acme")
        assert (tenant.state, tenant.intent) == (TenantState.ACTIVE, None)
        history = await registry.tenant("acme").messages.get_history("general")
        assert [message.content for message in history] == ["newer than the snapshot"]
        await registry.snapshots.restore("acme", snapshot.id)
        assert [path for path in stale if path.exists()] == []
    assert stored_contents(data_dir, "acme") == []
