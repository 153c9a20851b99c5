"""A process whose pool is full reaches the tenants of other processes, which need no place here, and takes none of them over."""

from pathlib import Path

from registries import config
from tenantry import TenantRegistry
from tenants import until


async def test_calls_from_a_full_and_busy_pool(data_dir: Path):
    """A process without a free place, which needs another process's tenant inside a transaction, gets answers and snapshots."""
    async with (
        TenantRegistry(config(data_dir)) as owner,
        TenantRegistry(config(data_dir, open_tenants_max=1, pool_wait_timeout_seconds=0.01)) as other,
    ):
        for registry, tenant_id in ((owner, "acme"), (other, "busy")):
            await registry.create(tenant_id)
            await registry.tenant(tenant_id).execute("CREATE TABLE notes (text ANY)")
        async with other.tenant("busy").transaction() as tx:
            await tx.execute("INSERT INTO notes VALUES ('x')")
            assert await other.tenant("acme").fetch_value("SELECT count(*) FROM notes") == 0
            await other.snapshots.create("acme")


async def test_no_tenant_is_evicted_for_a_tenant_of_another_process(data_dir: Path):
    """An idle tenant keeps its place when calls are forwarded for the first time."""
    async with (
        TenantRegistry(config(data_dir)) as owner,
        TenantRegistry(config(data_dir, open_tenants_max=1)) as other,
    ):
        await owner.create("acme")
        await owner.tenant("acme").tasks.get("none")
        await other.create("idle")
        await other.tenant("idle").tasks.get("none")
        await until(lambda: other.statistics().pool.idle_tenants == 1)
        await other.tenant("acme").tasks.get("none")
        assert other.statistics().pool.evictions == 0


async def test_a_process_that_starts_later_keeps_its_tenants(data_dir: Path):
    """A full pool that was alone in the data directory finds the owners that started since, again after each of them has ended."""
    async with TenantRegistry(config(data_dir, open_tenants_max=1)) as alone:
        for tenant_id in ("acme", "globex", "idle"):
            await alone.create(tenant_id)
        for tenant_id in ("acme", "globex"):
            async with TenantRegistry(config(data_dir)) as owner:
                await owner.tenant(tenant_id).tasks.get("none")
                await alone.tenant("idle").tasks.get("none")
                await until(lambda: alone.statistics().pool.idle_tenants == 1)
                evictions = alone.statistics().pool.evictions
                await alone.tenant(tenant_id).tasks.get("none")
                assert alone.statistics().pool.evictions == evictions
            await alone.tenant(tenant_id).tasks.get("none")
            assert alone.statistics().pool.evictions == evictions + 1


async def test_nothing_is_handed_over_to_a_full_pool(data_dir: Path):
    """A tenant stays with its owner while the process that uses the tenant has no place for it."""
    async with (
        TenantRegistry(config(data_dir, handed_over_after_calls=1)) as owner,
        TenantRegistry(config(data_dir, open_tenants_max=1, pool_wait_timeout_seconds=0.01)) as other,
    ):
        for registry, tenant_id in ((owner, "acme"), (other, "busy")):
            await registry.create(tenant_id)
            await registry.tenant(tenant_id).execute("CREATE TABLE notes (text ANY)")
        acme = other.tenant("acme")
        async with other.tenant("busy").transaction() as tx:
            await tx.execute("INSERT INTO notes VALUES ('x')")
            for number in range(3):
                await acme.execute("INSERT INTO notes VALUES ('x')")
                await acme.idempotent(f"key {number}").execute("INSERT INTO notes VALUES ('x')")
                assert await acme.fetch_value("SELECT count(*) FROM notes") == 2 * number + 2
        assert owner.statistics().pool.closed_by_reason["handed_over"] == 0
