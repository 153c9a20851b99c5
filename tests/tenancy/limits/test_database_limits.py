"""Limits of a tenant on real files: the size of its database, and its durability."""

import asyncio
from pathlib import Path

import pytest

from limited import SIZE_MAX, acme_limits, contents, limit, pragma, save, save_until_refused
from samples import a_task
from stores import make_store, rows, run, small_disk
from tenantry import RegistryConfig, Schema, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import (
    MigrationError,
    StorageFullError,
    TransactionClosedError,
)
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenants import (
    as_another,
    database_path,
    make_message,
    until,
    write_pack,
)

pytestmark = pytest.mark.usefixtures("each_engine")

BIG = "x" * 20_000


class TestDatabaseBytes:
    """SQLite's own limit of pages."""

    async def test_full_and_not_broken(self, registry: TenantRegistry, data_dir: Path):
        """Writes that need more are refused by name; reads, deletes and what then fits go on, and so does it with more room."""
        await limit(registry, database_bytes_max=SIZE_MAX)
        await registry.tenant("acme").tasks.save(a_task(description=BIG * 5))
        error = await save_until_refused(registry, BIG)
        assert isinstance(error, StorageFullError)
        assert (error.limit, error.limit_value, error.code) == ("database_bytes_max", SIZE_MAX, "SQLITE_FULL")
        assert str(error) == (
            "messages.save: the write would exceed database_bytes_max (400000 bytes): delete something, or raise the limit "
            "(SQLITE_FULL)"
        )
        assert error.retry_after_seconds is None
        kept = len(await contents(registry))
        assert kept > 5
        await registry.tenant("acme").tasks.delete("task-1")
        for _ in range(3):
            await save(registry, BIG)
        assert isinstance(await save_until_refused(registry, BIG), StorageFullError)
        await limit(registry, database_bytes_max=2 * SIZE_MAX)
        await save(registry, "more room")
        await save(registry, BIG)
        assert isinstance(await save_until_refused(registry, BIG), StorageFullError)
        await limit(registry)
        for _ in range(50):
            await save(registry, BIG)
        assert len(await contents(registry)) > 50
        await registry.suspend("acme")
        assert database_path(data_dir, "acme").stat().st_size > 2 * SIZE_MAX

    async def test_it_is_kept_to_the_page(self, registry: TenantRegistry, data_dir: Path):
        """The file never becomes larger than the limit, rounded down to a page."""
        await limit(registry, database_bytes_max=SIZE_MAX)
        await save_until_refused(registry, "x" * 2000)
        await registry.suspend("acme")
        size = database_path(data_dir, "acme").stat().st_size
        assert SIZE_MAX - 3 * 4096 < size <= SIZE_MAX // 4096 * 4096

    async def test_the_innocent_are_served(self, registry: TenantRegistry):
        """Of calls that share a batch, those that fit are kept, whoever does not fit beside them."""
        await limit(registry, database_bytes_max=SIZE_MAX)
        async with registry.tenant("acme").transaction():  # behind which they gather
            calls = [
                as_another(save(registry, content))
                for content in ("one", BIG * 100, "two", BIG * 100, "three")
            ]
            await until(lambda: registry.statistics().mailbox_requests["write"] == 5)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [
            type(None),
            StorageFullError,
            type(None),
            StorageFullError,
            type(None),
        ]
        assert [result.limit for result in results if isinstance(result, StorageFullError)] == [
            "database_bytes_max"
        ] * 2
        assert sorted(await contents(registry)) == ["one", "three", "two"]

    async def test_a_transaction_that_does_not_fit(self, registry: TenantRegistry):
        """Its caller hears of the limit, and nothing of it is kept."""
        await limit(registry, database_bytes_max=SIZE_MAX)
        with pytest.raises(TransactionClosedError):  # noqa: PT012  # it is at its end that it cannot commit
            async with registry.tenant("acme").transaction() as tx:
                await tx.messages.save(make_message("small"))
                with pytest.raises(StorageFullError, match=r"database_bytes_max \(400000 bytes\)"):
                    await tx.messages.save(make_message(BIG * 100))
        assert await contents(registry) == []
        await save(registry, "afterwards")

    @pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
    async def test_one_that_is_larger_already(self, registry: TenantRegistry, is_open: bool):  # noqa: FBT001  # a parameter of the test
        """It is read, written where it needs no page more, and deleted from; what was freed is used again."""
        await registry.tenant("acme").tasks.save(a_task(description="short"))
        for _ in range(50):
            await save(registry, BIG)
        if not is_open:
            await save(registry, tenant_id="globex")
        await limit(registry, database_bytes_max=SIZE_MAX)
        assert isinstance(await save_until_refused(registry, BIG), StorageFullError)
        assert len(await contents(registry)) >= 50
        await registry.tenant("acme").tasks.save(a_task(description="other"))
        found = await registry.tenant("acme").tasks.get("task-1")
        assert found is not None
        assert found.description == "other"
        with pytest.raises(StorageFullError):
            await registry.tenant("acme").tasks.save(a_task(description=BIG * 10))

    async def test_a_migration_that_does_not_fit(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """The tenant is not quarantined for it: it serves again as soon as there is room."""
        monkeypatch.syspath_prepend(str(tmp_path))
        big = "CREATE TABLE big (b); INSERT INTO big VALUES (zeroblob(1000000));"
        pack = write_pack(tmp_path, "bigpack", "CREATE TABLE small (b);", big)
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            await registry.create("acme")
            await save(registry, "before")
            await limit(registry, database_bytes_max=SIZE_MAX)
        schemas = [COMPANY, Schema(name="bigpack", package=pack)]
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            for _ in range(2):
                with pytest.raises(
                    MigrationError, match=r"0002.*database_bytes_max \(400000 bytes\)"
                ) as caught:
                    await save(registry, "refused")
                assert (caught.value.is_retryable, caught.value.is_step_failure) == (True, False)
            tenant = await registry.get("acme")
            assert tenant.state is TenantState.ACTIVE
            assert tenant.last_error is not None
            assert "database_bytes_max" in tenant.last_error
            await limit(registry, database_bytes_max=10 * SIZE_MAX)
            await save(registry, "after")
            assert (await registry.get("acme")).last_error is None
            assert sorted(await contents(registry)) == ["after", "before"]

    async def test_a_full_disk_is_not_the_limit(self, tmp_path: Path):
        """SQLite has one code for both; where it is the disk, nobody is told to raise the limit."""
        with small_disk(tmp_path / "disk", "2m") as disk:
            store = make_store(SQLiteOptions(path=disk / "a.db", database_bytes_max=10_000_000), [])
            await store.connect()
            await store.write([(run("CREATE TABLE t (b)"),)])
            insert = run("INSERT INTO t VALUES (zeroblob(100000))")
            error: object = [None]
            while error == [None]:
                [error] = await store.write([(insert,)])
            assert isinstance(error, StorageFullError)
            assert error.limit is None
            assert "free space on the disk" in str(error)
            assert await store.read([rows("SELECT COUNT(*) > 5 FROM t")]) == [[(1,)]]
            await store.disconnect()


class TestDurability:
    """The tenant's own, or else the registry's."""

    async def test_a_tenants_own(self, registry: TenantRegistry):
        """It is what the writer is opened with, and what an open one changes to."""
        await save(registry)
        assert await pragma(registry, "synchronous") == 2
        await limit(registry, durability="normal")
        assert await pragma(registry, "synchronous") == 1
        await save(registry, tenant_id="globex")
        await save(registry)
        assert await pragma(registry, "synchronous") == 1
        await limit(registry)
        assert await pragma(registry, "synchronous") == 2

    async def test_a_tenant_that_is_open_for_reading(self, registry: TenantRegistry):
        """One that has only been read has no writer yet: the one that it gets has the new limits."""
        await save(registry)
        await save(registry, tenant_id="globex")
        await contents(registry)
        await limit(registry, durability="normal", database_bytes_max=SIZE_MAX)
        await contents(registry)
        await save(registry)
        assert await pragma(registry, "synchronous") == 1
        assert await pragma(registry, "max_page_count") == SIZE_MAX // 4096

    async def test_a_transaction_is_waited_for(self, registry: TenantRegistry):
        """It ends as it began; whatever is written after the change is written in the new way."""
        async with registry.tenant("acme").transaction() as tx:
            await tx.messages.save(make_message("one"))
            changing = asyncio.create_task(limit(registry, durability="normal", database_bytes_max=SIZE_MAX))
            await until(lambda: acme_limits(registry).durability == "normal")
            await tx.messages.save(make_message(BIG * 100))
            assert await pragma(registry, "synchronous") == 2
            assert not changing.done()
        await changing
        assert await pragma(registry, "synchronous") == 1
        with pytest.raises(StorageFullError):
            await save(registry, BIG * 100)
        assert len(await contents(registry)) == 2
