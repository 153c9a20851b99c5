"""A catalog that an older tenantry has left: a registry migrates it, and nothing in it is lost."""

from pathlib import Path

import pytest

from older_catalogs import make_older
from tenantry import RegistryConfig, TenantRegistry
from tenantry.doctor.examination import examine
from tenantry.doctor.finding import Level
from tenants import history, query, say

MIGRATIONS_BEFORE_LOCATIONS = 5
"""How many migrations made a catalog before its tenants had a back end and a location."""


@pytest.fixture
async def older(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with an older catalog: a tenant that was renamed, another with its former id, a suspended one."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
        await say(registry, "acme", "before")
        await registry.rename("acme", "umbrella")
        await registry.create("acme")
        await registry.suspend("globex", reason="unpaid")
    await make_older(data_dir, MIGRATIONS_BEFORE_LOCATIONS, tmp_path / "packs", monkeypatch)
    return data_dir


async def test_an_older_catalog_is_migrated(older: Path):
    """Tenants, their counts, their data and the audit's chain are what they were; new rows go on from there."""
    async with TenantRegistry(RegistryConfig(data_dir=older)) as registry:
        found = {record.id: (record.backend, record.location) for record in await registry.list()}
        assert found == {
            "acme": ("sqlite", "acme.1"),
            "globex": ("sqlite", "globex"),
            "umbrella": ("sqlite", "acme"),
        }
        assert await history(registry, "umbrella") == ["before"]
        assert (await registry.resume("globex")).reason is None
        [last] = await registry.audit.list(limit=1)
        assert (last.action, last.tenant_id) == ("resume", "globex")
        verification = await registry.audit.verify()
        assert (verification.is_intact, verification.rows) == (True, last.seq)
    counts = query(older / "catalog.db", "SELECT state, count FROM tenant_states WHERE count > 0")
    assert counts == [("active", 3)]


async def test_doctor_reads_an_older_catalog(older: Path):
    """The report says that migrations are pending, and compares tenants with files like that of a newer catalog."""
    report = await examine(RegistryConfig(data_dir=older))
    found = {finding.check: finding.level for finding in report.findings}
    assert found["catalog"] is Level.NOTE
    assert found["catalog and files"] is Level.OK


async def test_a_process_of_the_version_before_sees_what_changes(older: Path):
    """Its statements name the column that the location had, and read and change tenants as before."""
    async with TenantRegistry(RegistryConfig(data_dir=older)) as registry:
        await registry.suspend("acme")
    before = "SELECT directory, state FROM tenants WHERE id = 'acme'"
    assert query(older / "catalog.db", before) == [("acme.1", "suspended")]
    query(older / "catalog.db", "UPDATE tenants SET display_name = 'Acme' WHERE directory = 'acme.1'")
    async with TenantRegistry(RegistryConfig(data_dir=older)) as registry:
        assert (await registry.get("acme")).display_name == "Acme"
