"""A data directory remembers which packs its tenants have, and a registry that lacks one migrates and creates nothing."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from older_catalogs import make_older
from registries import INVOICES_SQL, config
from tenantry import JobState, Schema, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import MigrationError, MissingSchemaError, RecordNotFoundError
from tenants import make_message, query

MESSAGE = r"have schema packs that this process lacks \(invoices\).*--schema module:PACK.*TENANTRY_SCHEMAS"


@pytest.fixture
def invoices(pack: Any) -> Schema:
    """The pack that a registry may lack."""
    return pack(INVOICES_SQL)


@pytest.fixture
async def directory(data_dir: Path, invoices: Schema) -> Path:
    """A data directory with a tenant that has both packs, a snapshot and a bundle."""
    async with TenantRegistry(config(data_dir), schemas=[COMPANY, invoices]) as registry:
        await registry.create("acme")
        await registry.tenant("acme").messages.save(make_message("one"))
        await registry.snapshots.create("acme")
        await registry.export("acme", data_dir / "acme.tar.gz")
    return data_dir


async def names(registry: TenantRegistry) -> dict[str, bool]:
    """Return the recorded packs, and whether each is missing."""
    return {one.name: one.is_missing for one in await registry.recorded_schemas.list()}


async def test_packs_are_recorded_with_the_first_tenant(data_dir: Path, invoices: Schema):
    """A registry that only looks records nothing; the first tenant that is created does."""
    async with TenantRegistry(config(data_dir), schemas=[COMPANY, invoices]) as registry:
        assert await names(registry) == {}
        await registry.create("acme")
        assert await names(registry) == {"company": False, "invoices": False}
    async with TenantRegistry(config(data_dir)) as registry:
        assert await names(registry) == {"company": False, "invoices": True}


async def test_a_new_pack_is_recorded_when_a_tenant_gets_it(data_dir: Path, invoices: Schema):
    """Reading with the packs of before does not record the new one; the first opening that migrates does."""
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
    async with TenantRegistry(config(data_dir), schemas=[COMPANY, invoices]) as registry:
        assert await names(registry) == {"company": False}
        await registry.tenant("acme").messages.get_history("general")
        assert await names(registry) == {"company": False, "invoices": False}


async def test_a_pack_that_no_tenant_has_got(directory: Path, invoices: Schema, pack: Any):
    """A pack whose migration fails is not recorded: the next registry without it creates tenants."""
    broken = pack("CREATE TABLE (", name="broken")
    async with TenantRegistry(config(directory), schemas=[COMPANY, invoices, broken]) as registry:
        with pytest.raises(MigrationError, match="broken 0001_step failed"):
            await registry.create("new")
        assert "broken" not in await names(registry)


async def test_a_restored_tenant(directory: Path, invoices: Schema, pack: Any):
    """A restore migrates the snapshot, so it records a new pack too."""
    wiki = pack("CREATE TABLE pages (n);", name="wiki")
    async with TenantRegistry(config(directory), schemas=[COMPANY, invoices, wiki]) as registry:
        await restore_newest(registry)
        assert await names(registry) == {"company": False, "invoices": False, "wiki": False}


async def test_a_tenant_that_needs_no_migration_is_served(directory: Path):
    """Without the pack its calls, snapshots, exports and operations work."""
    async with TenantRegistry(config(directory)) as registry:
        acme = registry.tenant("acme")
        await acme.messages.save(make_message("two"))
        assert len(await acme.messages.get_history("general")) == 2
        await registry.snapshots.create("acme")
        await registry.export("acme", directory / "again.tar.gz")
        await registry.suspend("acme")
        await registry.resume("acme")
        await registry.rename("acme", "globex")
        (snapshot, *_) = await registry.snapshots.list("globex")
        await registry.snapshots.restore("globex", snapshot.id, migrate=False)
        assert (await registry.get("globex")).state is TenantState.ACTIVE


REFUSED: dict[str, Callable[[TenantRegistry, Path], Awaitable[object]]] = {
    "create": lambda registry, _: registry.create("new"),
    "clone": lambda registry, _: registry.clone("acme", "new"),
    "import": lambda registry, directory: registry.import_bundle("new", directory / "acme.tar.gz"),
    "adopt": lambda registry, directory: registry.adopt("new", directory / "app.db", at={}),
    "restore": lambda registry, _: restore_newest(registry),
    "migrate": lambda registry, _: registry.fleet.start("migrate"),
}


async def restore_newest(registry: TenantRegistry) -> None:
    """Restore the newest snapshot, migrated."""
    (snapshot, *_) = await registry.snapshots.list("acme")
    await registry.snapshots.restore("acme", snapshot.id)


@pytest.mark.parametrize("call", REFUSED)
async def test_what_creates_or_migrates_is_refused(directory: Path, call: str):
    """The error names the pack and what to do; nothing is changed, and the tenant still serves."""
    async with TenantRegistry(config(directory)) as registry:
        with pytest.raises(MissingSchemaError, match=MESSAGE) as caught:
            await REFUSED[call](registry, directory)
        assert caught.value.missing_schemas == ("invoices",)
        assert [tenant.id for tenant in await registry.list()] == ["acme"]
        assert not await registry.fleet.list()
        assert len(await registry.tenant("acme").messages.get_history("general")) == 1


async def test_a_tenant_that_needs_a_migration(directory: Path, invoices: Schema, pack: Any):
    """Its calls are refused, it is not quarantined, and a registry with all packs migrates and serves it."""
    wiki = pack("CREATE TABLE pages (n);", name="wiki")
    async with TenantRegistry(config(directory), schemas=[COMPANY, wiki]) as registry:
        with pytest.raises(MissingSchemaError, match=MESSAGE):
            await registry.tenant("acme").messages.get_history("general")
        assert (await registry.get("acme")).state is TenantState.ACTIVE
        assert await names(registry) == {"company": False, "invoices": True}
        status = await registry.fleet.status("acme")
        assert status.unknown_schemas == ("invoices",)
        assert status.pending == ("wiki 0001_step",)
    async with TenantRegistry(config(directory), schemas=[COMPANY, invoices, wiki]) as registry:
        assert len(await registry.tenant("acme").messages.get_history("general")) == 1
        assert (await registry.fleet.status("acme")).is_current


async def test_opening_without_the_pack_is_logged(directory: Path, invoices: Schema):
    """The log names the packs when the registry opens, before anybody meets the refusal; with all packs it says nothing."""
    for schemas, expected in (([COMPANY], [("invoices",)]), ([COMPANY, invoices], [])):
        with capture_logs() as logs:
            async with TenantRegistry(config(directory), schemas=schemas):
                pass
        found = [log for log in logs if log["event"] == "tenantry.registry.schemas_missing"]
        assert [log["missing_schemas"] for log in found] == expected
        assert all(log["log_level"] == "warning" for log in found)


async def test_a_status_does_not_say_current(directory: Path):
    """With a pack unknown, nothing is pending that is known here, and the tenant does not count as current."""
    async with TenantRegistry(config(directory)) as registry:
        status = await registry.fleet.status("acme")
        assert (status.pending, status.unknown_schemas, status.is_current) == ((), ("invoices",), False)


async def test_a_drill_without_the_pack_fails(directory: Path):
    """A snapshot that cannot be restored here does not pass."""
    async with TenantRegistry(config(directory)) as registry:
        report = await registry.snapshots.drill()
        assert [result.outcome for result in report.results] == ["migration"]


async def test_a_job_of_another_process(directory: Path, invoices: Schema):
    """A registry without the pack pauses a migration that it finds; it is resumed where the pack is, and nowhere else."""
    async with TenantRegistry(config(directory), schemas=[COMPANY, invoices]) as registry:
        job = await registry.fleet.start("migrate")
        await registry.fleet.wait(job.id)
    query(directory / "catalog.db", "UPDATE fleet_jobs SET state = 'running'")
    async with TenantRegistry(config(directory)) as registry:
        found = await registry.fleet.wait(job.id)
        assert found.state is JobState.PAUSED
        assert "this process lacks (invoices)" in str(found.reason)
        with pytest.raises(MissingSchemaError):
            await registry.fleet.resume(job.id)
        (entry, *_) = await registry.audit.list()
        assert (entry.action, entry.outcome) == ("fleet.resume", "migration")
    async with TenantRegistry(config(directory), schemas=[COMPANY, invoices]) as registry:
        await registry.fleet.resume(job.id)
        assert (await registry.fleet.wait(job.id)).state is JobState.DONE


async def test_a_creation_that_a_crash_interrupted(directory: Path, invoices: Schema):
    """A registry without the pack opens and leaves the half-made tenant alone; one with the pack finishes it."""
    query(directory / "catalog.db", "UPDATE tenants SET state = 'provisioning', schema_versions = '{}'")
    async with TenantRegistry(config(directory)) as registry:
        assert (await registry.get("acme")).state is TenantState.PROVISIONING
    async with TenantRegistry(config(directory), schemas=[COMPANY, invoices]) as registry:
        assert (await registry.get("acme")).state is TenantState.ACTIVE


class TestForget:
    """Giving a pack up on purpose."""

    async def test_forgetting_a_pack(self, directory: Path, invoices: Schema):
        """Tenants can be created again and do not get the tables; the tenant that has them keeps its rows; the audit has the call."""
        async with TenantRegistry(config(directory), schemas=[COMPANY, invoices]) as registry:
            repository = __import__(invoices.package).InvoiceRepository
            await registry.tenant("acme").repository(repository).add("i-1", 42)
        async with TenantRegistry(config(directory)) as registry:
            await registry.recorded_schemas.forget("invoices")
            assert await names(registry) == {"company": False}
            (entry, *_) = await registry.audit.list()
            assert (entry.action, entry.detail) == ("schema.forget", {"schema": "invoices"})
            assert (await registry.create("new")).schema_versions == {"company": 1}
            assert await registry.tenant("acme").repository(repository).total() == 42
            assert (await registry.get("acme")).schema_versions == {"company": 1, "invoices": 1}

    async def test_a_pack_that_is_given_again(self, directory: Path, invoices: Schema):
        """It is recorded again with the first tenant that gets it."""
        async with TenantRegistry(config(directory)) as registry:
            await registry.recorded_schemas.forget("invoices")
            await registry.create("new")
        async with TenantRegistry(config(directory), schemas=[COMPANY, invoices]) as registry:
            await registry.tenant("new").messages.get_history("general")
            assert await names(registry) == {"company": False, "invoices": False}

    async def test_what_cannot_be_forgotten(self, directory: Path):
        """A pack that is in use here would come back at once, and one that is not recorded is probably misspelt."""
        async with TenantRegistry(config(directory)) as registry:
            before = await registry.audit.list()
            with pytest.raises(MigrationError, match="this process uses the schema pack 'company'"):
                await registry.recorded_schemas.forget("company")
            with pytest.raises(
                RecordNotFoundError, match="no schema pack 'invoice' is recorded: 'tenantry schema list'"
            ):
                await registry.recorded_schemas.forget("invoice")
            assert await registry.audit.list() == before


async def test_a_directory_from_before(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The catalog's migration records the packs that tenants have, as of the oldest tenant."""
    await make_older(directory, 7, tmp_path / "packs", monkeypatch)
    async with TenantRegistry(config(directory)) as registry:
        assert await names(registry) == {"company": False, "invoices": True}
        (company, _) = await registry.recorded_schemas.list()
        assert company.recorded_at == (await registry.get("acme")).created_at
