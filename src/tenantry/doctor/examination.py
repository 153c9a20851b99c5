"""Runs all checks on a data directory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from typing import Final

from tenantry.company import COMPANY
from tenantry.config import RegistryConfig
from tenantry.doctor.catalog import check_version, read_missing_schemas, read_tenants
from tenantry.doctor.dates import check_dates
from tenantry.doctor.files import check_files
from tenantry.doctor.finding import Finding, Level, Report, ok, wrong
from tenantry.doctor.machine import check_machine
from tenantry.doctor.schema_versions import check_migrations
from tenantry.doctor.snapshot_storage import check_storage, find_left_snapshots
from tenantry.doctor.tenants import check_states, compare, find_unknown_snapshots, report_differences
from tenantry.errors import PersistenceError
from tenantry.schemas.schema import Schema
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.objects.protocol import ObjectStorage
from tenantry.storage.sqlite.maintenance.inspection import Inspection
from tenantry.tenancy.catalog.audit import AdminAudit
from tenantry.tenancy.clock_watch import ClockRecord, read_record

_CLOCK_TABLE: Final = Statement(
    "doctor.clock", "SELECT 1 FROM sqlite_schema WHERE name = 'clock'", (), Fetch.ONE
)


async def examine(
    config: RegistryConfig,
    *,
    schemas: Sequence[Schema] = (COMPANY,),
    snapshot_storage: ObjectStorage | None = None,
) -> Report:
    """Examine a data directory, which another process may use at the same time, without changing anything in it.

    Args:
        config: The settings that a service would use.
        schemas: The schema packs that a service would use.
        snapshot_storage: The storage of the snapshots; None if the data directory stores them.
    """
    findings = [finding async for finding in _findings(config, schemas)]
    if snapshot_storage is not None:
        findings.append(await check_storage(config, snapshot_storage))
    return Report(data_dir=str(config.data_dir), findings=findings)


async def _findings(config: RegistryConfig, schemas: Sequence[Schema]) -> AsyncIterator[Finding]:
    data_dir = config.data_dir
    if not (data_dir / "catalog.db").is_file():
        yield wrong(
            "data directory",
            f"{data_dir} has no catalog",
            "give a directory that a service has used; if a service has used this one, put the newest copy of catalog.db back",
        )
        return
    for finding in (*check_machine(config), *check_files(data_dir), *find_left_snapshots(data_dir)):
        yield finding
    try:
        with closing(Inspection(data_dir / "catalog.db")) as catalog:
            for finding in await _look_into(catalog, config, schemas):
                yield finding
    except PersistenceError as error:
        yield wrong(
            "catalog",
            f"the catalog cannot be read: {error}",
            "start a service on the directory, which recovers what a killed process left; if that fails, put the newest copy of "
            "catalog.db back",
        )


async def _look_into(
    catalog: Inspection, config: RegistryConfig, schemas: Sequence[Schema]
) -> Sequence[Finding]:
    data_dir = config.data_dir
    version = await check_version(catalog)
    if version.level is Level.WRONG:
        return [version]  # this version of tenantry does not know the catalog's tables
    tenants = await read_tenants(catalog)
    differences = compare(data_dir, tenants)
    if differences:
        # A running operation causes a difference for a moment, so a second comparison confirms each difference.
        tenants = await read_tenants(catalog)
        differences &= compare(data_dir, tenants)
    return [
        version,
        *report_differences(differences, tenants),
        find_unknown_snapshots(data_dir, tenants),
        *check_states(data_dir, tenants),
        *check_migrations(tenants, schemas, await read_missing_schemas(catalog, tenants, schemas)),
        *check_dates(config, tenants, await _clock_record(catalog)),
        await _audit(catalog),
    ]


async def _clock_record(catalog: Inspection) -> ClockRecord | None:
    # A catalog of an older version lacks the clock's table until a service opens the catalog.
    has_table = await catalog.read(_CLOCK_TABLE)
    return await read_record(catalog) if has_table else None


async def _audit(catalog: Inspection) -> Finding:
    found = await AdminAudit(catalog).verify()
    if not found.is_intact:
        return wrong(
            "audit",
            f"the audit's hash chain is broken: {found.problem}",
            "find out who can write to catalog.db, and compare the file with a copy",
        )
    return ok("audit", f"the hash chain of {found.rows:,} rows is intact")
