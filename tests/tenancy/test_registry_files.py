"""The registry on real files: data directories and tenants that cannot be opened, and whose matter that is."""

# ruff: noqa: ASYNC240  # tests look at files in between; nobody waits for them

import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog

from open_file_limits import open_files_limited_to
from registries import INVOICES_SQL, config, make_tenant
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import (
    CallTimeoutError,
    DatabaseCorruptError,
    DataDirectoryError,
    MigrationError,
    PersistenceConnectionError,
    TenantQuarantinedError,
)
from tenants import (
    database_path,
    held_writer,
    make_message,
    open_files,
    query,
    stored_contents,
    threads_since,
)


class TestDataDirectory:
    """A data directory that cannot be used is said at the start, with what to change."""

    async def refused(self, data_dir: Path) -> DataDirectoryError:
        """Return how a registry refuses the directory; nothing of it stays open."""
        threads = set(threading.enumerate())
        with pytest.raises(DataDirectoryError) as caught:
            await TenantRegistry(config(data_dir)).open()
        assert threads_since(threads) == []
        assert not caught.value.is_retryable
        return caught.value

    async def test_is_a_file(self, tmp_path: Path):
        """A file in its place is left as it is."""
        path = tmp_path / "data"
        path.write_text("not yours")
        error = await self.refused(path)
        assert "give a directory that this process may write" in str(error)
        assert (error.path, path.read_text()) == (str(path), "not yours")

    async def test_is_below_a_file(self, tmp_path: Path):
        """A path that cannot be made is refused."""
        (tmp_path / "file").touch()
        await self.refused(tmp_path / "file" / "data")

    async def test_is_not_writable(self, tmp_path: Path):
        """A directory of another user is refused, whoever runs the tests: root becomes nobody for a moment."""
        path = tmp_path / "data"
        path.mkdir(mode=0o500)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            await self.refused(path)
        finally:
            if is_root:
                os.seteuid(0)
        assert list(path.iterdir()) == []

    async def test_has_a_nul_in_its_name(self, tmp_path: Path):
        """What no file can be called is refused like any other."""
        await self.refused(tmp_path / "da\0ta")

    @pytest.mark.parametrize("name", ["tenants", "catalog.db", "operations", "scratch", "snapshots"])
    async def test_holds_a_link(self, data_dir: Path, tmp_path: Path, name: str):
        """A link to elsewhere is refused, and what it leads to is not touched."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        data_dir.mkdir()
        (data_dir / name).symlink_to(elsewhere / "x.db" if name == "catalog.db" else elsewhere)
        error = await self.refused(data_dir)
        assert error.path == str(data_dir / name)
        assert list(elsewhere.iterdir()) == []

    async def test_a_tenants_directory_is_a_link(self, data_dir: Path, tmp_path: Path):
        """A tenant whose directory leads elsewhere is refused; others work."""
        await make_tenant(data_dir)
        directory = database_path(data_dir, "acme").parent
        moved = tmp_path / "moved"
        directory.rename(moved)
        directory.symlink_to(moved)
        async with TenantRegistry(config(data_dir)) as registry:
            with pytest.raises(DataDirectoryError, match="is a link or not a directory") as caught:
                await registry.tenant("acme").messages.save(make_message())
            assert caught.value.path == str(directory)
            assert (await registry.get("acme")).state is TenantState.ACTIVE
            await registry.create("globex")

    async def test_a_tenants_database_is_a_link(self, data_dir: Path, tmp_path: Path):
        """Nor may the database itself be one."""
        await make_tenant(data_dir)
        path = database_path(data_dir, "acme")
        path.rename(tmp_path / "moved.db")
        path.symlink_to(tmp_path / "moved.db")
        async with TenantRegistry(config(data_dir)) as registry:
            with pytest.raises(DataDirectoryError, match="is a link"):
                await registry.tenant("acme").messages.save(make_message())

    async def test_the_catalog_is_no_database(self, data_dir: Path):
        """A catalog that is something else is refused and left as it is."""
        data_dir.mkdir()
        (data_dir / "catalog.db").write_bytes(b"no database " * 100)
        with pytest.raises(DatabaseCorruptError):
            await TenantRegistry(config(data_dir)).open()
        assert (data_dir / "catalog.db").read_bytes() == b"no database " * 100
        assert open_files(data_dir) == []

    async def test_the_catalog_is_newer(self, data_dir: Path):
        """A catalog of a later version is refused and left as it is."""
        await make_tenant(data_dir)
        query(data_dir / "catalog.db", "PRAGMA user_version = 99")
        before = (data_dir / "catalog.db").read_bytes()
        with pytest.raises(MigrationError, match="newer"):
            await TenantRegistry(config(data_dir)).open()
        assert (data_dir / "catalog.db").read_bytes() == before
        assert open_files(data_dir) == []

    async def test_more_open_files_than_allowed(self, data_dir: Path):
        """A pool that the process could never fill is refused at the start, with the numbers and what to change."""
        with (
            open_files_limited_to(500),
            pytest.raises(
                PersistenceConnectionError, match=r"open_tenants_max \(200\).*needs 1264 open files.*500"
            ),
        ):
            await TenantRegistry(config(data_dir, open_tenants_max=200)).open()
        assert not data_dir.exists()

    @pytest.mark.parametrize(
        ("files", "settings", "open_tenants_max"),
        [
            (4096, {}, 512),
            (1024, {}, 128),
            (1024, {"readers_per_tenant": 2}, 96),
            (500, {}, 62),
            (200, {}, 22),
        ],
    )
    async def test_the_default_pool_fits_the_open_files(
        self, data_dir: Path, files: int, settings: dict[str, int], open_tenants_max: int
    ):
        """Without a setting the pool is as large as the process may open files; the log says so, and what an operator can do."""
        with open_files_limited_to(files), structlog.testing.capture_logs() as logs:
            async with TenantRegistry(RegistryConfig(data_dir=data_dir, **settings)) as registry:
                assert registry.statistics().pool.open_tenants_max == open_tenants_max
                assert registry.config.open_tenants_max == open_tenants_max
        lowered = [log for log in logs if log["event"] == "tenantry.registry.pool_lowered"]
        if open_tenants_max == 512:
            assert lowered == []
            return
        [line] = lowered
        assert (line["open_tenants_max"], line["default_open_tenants_max"]) == (open_tenants_max, 512)
        assert line["open_files_max"] == files
        needed = int(re.findall(r"raise the limit of open files to (\d+)", line["to_do"])[0])
        with open_files_limited_to(needed):
            assert (
                TenantRegistry(RegistryConfig(data_dir=data_dir, **settings)).config.open_tenants_max == 512
            )

    async def test_far_too_few_open_files(self, data_dir: Path):
        """A process that may open fewer files than one tenant needs is refused, also with the default pool."""
        with (
            open_files_limited_to(66),
            pytest.raises(PersistenceConnectionError, match="needs 70 open files"),
        ):
            await TenantRegistry(data_dir).open()


class TestOpeningATenant:
    """What can be wrong with one tenant, and that it is that tenant's matter alone."""

    async def test_a_failed_migration_quarantines_only_that_tenant(self, data_dir: Path, pack: Any):
        """The first call says why, so do later ones, and the catalog; everybody else works."""
        for tenant_id in ("acme", "globex"):
            await make_tenant(data_dir, tenant_id)
        query(database_path(data_dir, "acme"), "CREATE TABLE invoices (mine)")
        schema = pack(INVOICES_SQL)
        async with TenantRegistry(config(data_dir), schemas=[COMPANY, schema]) as registry:
            for _ in range(2):
                with pytest.raises(TenantQuarantinedError, match="invoices 0001_step failed") as caught:
                    await registry.tenant("acme").messages.save(make_message())
                assert caught.value.reason is not None
                assert "already exists" in caught.value.reason
            tenant = await registry.get("acme")
            assert (tenant.state, tenant.reason) == (TenantState.QUARANTINED, caught.value.reason)
            await registry.tenant("globex").messages.save(make_message("second"))
            assert (await registry.get("globex")).schema_versions == {"company": 1, "invoices": 1}
        assert stored_contents(data_dir, "acme") == ["first"]
        async with TenantRegistry(config(data_dir), schemas=[COMPANY, schema]) as registry:
            with pytest.raises(TenantQuarantinedError):
                await registry.tenant("acme").messages.save(make_message())

    async def test_a_file_that_is_no_database(self, data_dir: Path):
        """It is quarantined with the reason, and left as it is."""
        await make_tenant(data_dir)
        path = database_path(data_dir, "acme")
        path.write_bytes(b"this is no database\n" * 500)
        async with TenantRegistry(config(data_dir)) as registry:
            with pytest.raises(TenantQuarantinedError, match="NOTADB"):
                await registry.tenant("acme").messages.get_history("general")
            assert (await registry.get("acme")).state is TenantState.QUARANTINED
            await registry._parts.periodic_tasks.refresh()
            assert registry.statistics().tenants[TenantState.QUARANTINED] == 1
        assert path.read_bytes() == b"this is no database\n" * 500

    async def test_a_newer_file_is_not_the_tenants_fault(self, data_dir: Path):
        """A file of a later version is refused and left as it is; the tenant is not quarantined: newer code will serve it."""
        await make_tenant(data_dir)
        path = database_path(data_dir, "acme")
        query(path, "PRAGMA user_version = 99")
        before = path.read_bytes()
        async with TenantRegistry(config(data_dir)) as registry:
            for _ in range(2):
                with pytest.raises(MigrationError, match="newer") as caught:
                    await registry.tenant("acme").messages.get_history("general")
            tenant = await registry.get("acme")
            assert (tenant.state, tenant.last_error) == (TenantState.ACTIVE, str(caught.value))
        assert path.read_bytes() == before
        query(path, "PRAGMA user_version = 1")
        async with TenantRegistry(config(data_dir)) as registry:
            assert len(await registry.tenant("acme").messages.get_history("general")) == 1
            assert (await registry.get("acme")).last_error is None

    async def test_a_missing_file_is_not_made_anew(self, data_dir: Path):
        """An empty database in place of a lost one would look like a tenant without data."""
        await make_tenant(data_dir)
        database_path(data_dir, "acme").unlink()
        async with TenantRegistry(config(data_dir)) as registry:
            with pytest.raises(
                TenantQuarantinedError, match=r"is missing.*: put the file back, or restore a snapshot"
            ):
                await registry.tenant("acme").messages.get_history("general")
        assert not database_path(data_dir, "acme").exists()

    async def test_an_opening_that_takes_too_long(self, data_dir: Path):
        """A caller waits for an opening no longer than for any call; nothing was begun, and later the tenant opens."""
        await make_tenant(data_dir)
        timing = dict.fromkeys(
            ["call_timeout_seconds", "pool_wait_timeout_seconds", "transaction_timeout_seconds"], 0.05
        )
        async with TenantRegistry(config(data_dir, **timing)) as registry:
            with held_writer(data_dir / "catalog.db", "EXCLUSIVE"):
                with pytest.raises(CallTimeoutError, match="'acme' could not be opened within") as caught:
                    await registry.tenant("acme").messages.save(make_message())
                assert not caught.value.was_started
        async with TenantRegistry(config(data_dir)) as registry:
            assert len(await registry.tenant("acme").messages.get_history("general")) == 1

    async def test_another_tenants_file_in_its_place(self, data_dir: Path):
        """A database carries its tenant's mark: swapped files are found out before anyone reads them."""
        for tenant_id in ("acme", "globex"):
            await make_tenant(data_dir, tenant_id)
        wrong = database_path(data_dir, "globex").read_bytes()
        database_path(data_dir, "acme").write_bytes(wrong)
        async with TenantRegistry(config(data_dir)) as registry:
            with pytest.raises(TenantQuarantinedError, match="contains the database of another tenant"):
                await registry.tenant("acme").messages.get_history("general")
            assert len(await registry.tenant("globex").messages.get_history("general")) == 1
