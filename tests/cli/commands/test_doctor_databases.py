"""The examination of a deployment whose catalog or tenants are in PostgreSQL databases."""

from pathlib import Path
from typing import Any

import pytest

from catalogs import PostgresCatalog
from postgres_servers import Database
from tenantry import LocalStorage, RegistryConfig, TenantRegistry
from tenantry.doctor import Level, examine
from tenantry.doctor.finding import Finding
from tenantry.sql.statements import Statement
from tenantry.tenancy.catalog_move.run import move_catalog
from tenants import query

pytestmark = pytest.mark.disk


@pytest.fixture
async def config(data_dir: Path, postgres_database: Database) -> RegistryConfig:
    """The settings of a service that has ended: the catalog in a database, a tenant there, and one in a file."""
    config = RegistryConfig(data_dir=data_dir, database=postgres_database.url)
    async with TenantRegistry(config) as registry:
        await registry.create("acme")
        await registry.create("globex", backend="sqlite")
    return config


async def found(config: RegistryConfig) -> dict[str, Finding]:
    """Examine a deployment, and return the worst finding of each check."""
    report = await examine(config)
    order = list(Level)
    return {one.check: one for one in sorted(report.findings, key=lambda one: order.index(one.level))}


async def test_a_sound_deployment(config: RegistryConfig):
    """The databases are named with their versions and without a secret, and every tenant is where the catalog says."""
    findings = await found(config)
    assert findings["databases"].found.startswith("postgres: PostgreSQL ")
    assert findings["catalog"].level is Level.OK
    assert findings["catalog and files"].found == "the catalog's 2 tenants match their files and schemas"
    assert findings["audit"].found == "the hash chain of 2 rows is intact"
    wrong = [one for one in findings.values() if one.level is Level.WRONG]
    assert wrong == []


async def test_snapshots_that_other_machines_do_not_see(config: RegistryConfig, tmp_path: Path):
    """Snapshots in the data directory are noted, because the machines that share the database each have their own."""
    noted = (await found(config))["snapshot storage"]
    assert noted.level is Level.NOTE
    assert "other machines on the same database neither list nor delete" in noted.found
    report = await examine(config, snapshot_storage=LocalStorage(tmp_path / "snapshots"))
    assert not any("other machines" in one.found for one in report.findings)


async def test_a_deployment_in_use(config: RegistryConfig):
    """An operation that is running is not an interrupted one; without its lock it is."""
    async with TenantRegistry(config) as registry:
        record = await registry.get("acme")
        database = registry._parts.backends.catalog
        intent = '{"action": "archive", "arguments": {}, "begun_at": "2026-01-01T00:00:00Z"}'
        async with database.lock(record.uid):
            await set_intent(registry, intent)
            assert (await found(config))["lifecycle operations"].level is Level.OK
            await set_intent(registry, None)
        await registry.suspend("acme")


async def set_intent(registry: TenantRegistry, intent: str | None) -> None:
    """Write an operation into the tenant's record, as a process does that begins one."""
    sql = "UPDATE tenants SET intent = ? WHERE id = 'acme'"
    await registry._catalog.write(Statement("tests.intent", sql, (intent,)))


async def test_schemas_that_differ(config: RegistryConfig, postgres_database: Database):
    """A tenant without its schema, and a schema without a tenant."""
    catalog = PostgresCatalog(postgres_database)
    catalog.query("ALTER SCHEMA tenant_acme RENAME TO tenant_other")
    report = await examine(config)
    subjects = {one.subjects for one in report.findings if one.level is Level.WRONG}
    assert subjects == {("acme",), ("postgres: tenant_other",)}


async def test_a_database_that_does_not_answer(config: RegistryConfig):
    """It is named with the reason, and the password is not."""
    gone = RegistryConfig(
        data_dir=config.data_dir,
        database="postgresql://app:secret@127.0.0.1:1/tenants?sslmode=disable",  # type: ignore[arg-type]
    )
    report = await examine(gone)
    assert [one.level for one in report.findings if one.check == "databases"] == [Level.WRONG]
    assert "secret" not in report.model_dump_json()


async def test_a_database_without_a_catalog(data_dir: Path, postgres_database: Database):
    """Nobody has started a service with these settings yet, and the examination creates no catalog."""
    config = RegistryConfig(data_dir=data_dir, database=postgres_database.url)
    finding = (await found(config))["catalog"]
    assert (finding.level, "has no catalog" in finding.found) == (Level.WRONG, True)
    names = PostgresCatalog(postgres_database).query("SELECT 1 FROM pg_namespace WHERE nspname = 'tenantry'")
    assert names == []


@pytest.mark.parametrize("to", ["postgres", "sqlite"])
async def test_a_catalog_that_was_moved(data_dir: Path, postgres_database: Database, to: str):
    """The old catalog is found with what to change in the settings; the new one is sound."""
    files = RegistryConfig(data_dir=data_dir)
    database = RegistryConfig(data_dir=data_dir, database=postgres_database.url, default_backend="sqlite")
    old, new = (files, database) if to == "postgres" else (database, files)
    async with TenantRegistry(old) as registry:
        await registry.create("acme")
    await move_catalog(database, to)
    finding = (await found(old))["catalog"]
    assert (finding.level, "TENANTRY_DATABASE" in finding.found) == (Level.WRONG, True)
    assert (await found(new))["catalog"].level is Level.OK


async def test_tenants_in_a_database_and_a_catalog_in_files(data_dir: Path, postgres_database: Database):
    """Tenants of a database are not looked for among the files."""
    settings: dict[str, Any] = {"databases": {"east": postgres_database.url}}
    config = RegistryConfig(data_dir=data_dir, **settings)
    async with TenantRegistry(config) as registry:
        await registry.create("acme", backend="east")
        await registry.create("globex")
    assert (await found(config))["catalog and files"].level is Level.OK
    assert query(data_dir / "catalog.db", "SELECT backend FROM tenants ORDER BY id") == [
        ("east",),
        ("sqlite",),
    ]
