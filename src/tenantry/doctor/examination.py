"""Runs all checks on a data directory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from typing import Final, NamedTuple

from tenantry.company import COMPANY
from tenantry.config import SQLITE, RegistryConfig
from tenantry.doctor.catalog import check_place, check_version, has_table, read_missing_schemas, read_tenants
from tenantry.doctor.databases import Databases, compare_schemas, open_databases, running_operations
from tenantry.doctor.dates import check_dates
from tenantry.doctor.files import check_files
from tenantry.doctor.finding import Finding, Level, ok, wrong
from tenantry.doctor.machine import check_machine
from tenantry.doctor.process_checks import check_processes
from tenantry.doctor.processes import Processes, find_processes
from tenantry.doctor.report import Report
from tenantry.doctor.schema_versions import check_migrations
from tenantry.doctor.snapshot_storage import check_storage, find_left_snapshots, snapshots_of_one_machine
from tenantry.doctor.tenants import (
    check_states,
    compare,
    find_unknown_snapshots,
    locked_operations,
    report_differences,
)
from tenantry.errors import PersistenceError
from tenantry.eventlog import EventLog
from tenantry.schemas.schema import Schema
from tenantry.storage.objects.protocol import ObjectStorage
from tenantry.storage.sqlite.maintenance.inspection import Inspection
from tenantry.storage.standalone import StoreSession
from tenantry.tenancy.catalog.audit import AdminAudit
from tenantry.tenancy.catalog.catalog import CATALOG
from tenantry.tenancy.catalog.session import CatalogReader
from tenantry.tenancy.clock_watch import ClockRecord, read_record
from tenantry.tenancy.tenant_record import TenantRecord

_UNREADABLE: Final = {
    True: "start a service on the directory, which recovers what a killed process left; if that fails, put the newest copy of "
    "catalog.db back",
    False: "check the database server, and the rights of the role on the schema tenantry",
}
"""What to do about a catalog that cannot be read: in the data directory, and in a database."""


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
    data_dir, is_in_files = config.data_dir, config.catalog_backend == SQLITE
    if is_in_files and not (data_dir / "catalog.db").is_file():
        missing = wrong(
            "data directory",
            f"{data_dir} has no catalog",
            "give a directory that a service has used; if a service has used this one, put the newest copy of catalog.db back",
        )
        return Report(data_dir=str(data_dir), findings=[missing])
    found = await _look_into_databases(config, schemas)
    findings, processes = found.findings, Processes()
    if data_dir.is_dir():  # with a catalog on a database server, the directory may not exist yet
        processes = await find_processes(data_dir, found.tenants)
        findings = [
            *check_machine(config),
            *check_files(data_dir),
            *find_left_snapshots(data_dir),
            *check_processes(processes, config),
            *findings,
        ]
    if snapshot_storage is not None:
        findings.append(await check_storage(config, snapshot_storage))
    elif not is_in_files:
        findings.append(snapshots_of_one_machine(data_dir))
    return Report(
        data_dir=str(data_dir),
        findings=findings,
        processes=processes.processes,
        open_tenants=processes.open_tenants,
    )


class _Examined(NamedTuple):
    findings: list[Finding]
    tenants: Sequence[TenantRecord] = ()


async def _look_into_databases(config: RegistryConfig, schemas: Sequence[Schema]) -> _Examined:
    is_in_files = config.catalog_backend == SQLITE
    async with open_databases(config, schemas) as databases:
        findings = list(databases.findings)
        try:
            async with _opened_catalog(config, databases) as catalog:
                if catalog is not None:
                    found = await _look_into(catalog, databases, config, schemas)
                    return _Examined([*findings, *found.findings], found.tenants)
                if config.catalog_backend in databases.answering:
                    no_catalog = wrong(
                        "catalog",
                        f"the database of the back end {config.catalog_backend} has no catalog",
                        "start a service, which creates the catalog; if the data directory has the catalog, use 'tenantry catalog move'",
                    )
                    findings.append(no_catalog)
        except PersistenceError as error:
            findings.append(
                wrong("catalog", f"the catalog cannot be read: {error}", _UNREADABLE[is_in_files])
            )
    return _Examined(findings)


@asynccontextmanager
async def _opened_catalog(
    config: RegistryConfig, databases: Databases
) -> AsyncIterator[CatalogReader | None]:
    """Yield the catalog, or None if its database does not answer or has no catalog."""
    if config.catalog_backend == SQLITE:
        with closing(Inspection(config.data_dir / "catalog.db")) as inspection:
            yield inspection
        return
    backend = databases.answering.get(config.catalog_backend)
    if backend is None or not await backend.has_catalog():
        yield None
        return
    store = backend.catalog(CATALOG, log=EventLog())
    await store.connect()
    try:
        yield StoreSession(store, EventLog())
    finally:
        await store.disconnect()


async def _look_into(
    catalog: CatalogReader, databases: Databases, config: RegistryConfig, schemas: Sequence[Schema]
) -> _Examined:
    data_dir, is_in_files = config.data_dir, config.catalog_backend == SQLITE
    version = await check_version(catalog, "sqlite" if is_in_files else "postgres")
    if version.level is Level.WRONG:
        return _Examined([version])  # this version of tenantry does not know the catalog's tables
    if (moved := await check_place(catalog)) is not None:
        return _Examined([version, moved])
    tenants = await read_tenants(catalog)
    differences = compare(data_dir, tenants) | await compare_schemas(databases, config, tenants)
    if differences:
        # A running operation causes a difference for a moment, so a second comparison confirms each difference.
        tenants = await read_tenants(catalog)
        differences &= compare(data_dir, tenants) | await compare_schemas(databases, config, tenants)
    running = (
        locked_operations(data_dir, tenants) if is_in_files else await running_operations(catalog, tenants)
    )
    findings = [
        version,
        *report_differences(differences, tenants),
        find_unknown_snapshots(data_dir, tenants),
        *check_states(tenants, running),
        *check_migrations(tenants, schemas, await read_missing_schemas(catalog, tenants, schemas)),
        *check_dates(config, tenants, await _clock_record(catalog)),
        await _audit(catalog, "catalog.db" if is_in_files else "the catalog's database"),
    ]
    return _Examined(findings, tenants)


async def _clock_record(catalog: CatalogReader) -> ClockRecord | None:
    return await read_record(catalog) if await has_table(catalog, "clock") else None


async def _audit(catalog: CatalogReader, place: str) -> Finding:
    found = await AdminAudit(catalog).verify()
    if not found.is_intact:
        return wrong(
            "audit",
            f"the audit's hash chain is broken: {found.problem}",
            f"find out who can write to {place}, and compare it with a copy",
        )
    return ok("audit", f"the hash chain of {found.rows:,} rows is intact")
