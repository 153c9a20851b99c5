"""Archiving a tenant, and its way back."""

# tests look at files in between; nobody waits for them

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from operators import bring_to, config, contents, files_of, spoil
from tenantry import (
    Statement,
    TenantRegistry,
    TenantState,
)
from tenantry.errors import (
    DatabaseCorruptError,
    DataDirectoryError,
    TenantStateError,
)
from tenants import (
    database_path,
    make_message,
    tenant_files,
)

DELETE_MOST = Statement("test.delete", "DELETE FROM messages WHERE seq > 1")


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
