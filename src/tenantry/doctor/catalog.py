"""Checks whether this tenantry can open the catalog, and reads its tenants."""

from collections.abc import Collection, Sequence
from typing import Final

from tenantry.doctor.finding import Finding, counted, note, ok, wrong
from tenantry.errors import MigrationError
from tenantry.schemas.schema import Schema
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.migrations import plan_migrations
from tenantry.storage.sqlite.maintenance.inspection import Inspection
from tenantry.storage.sqlite.migrations.migrator import SUMMARY_SQL, plan_from_summary
from tenantry.tenancy.catalog.catalog import CATALOG
from tenantry.tenancy.catalog.recorded_schemas import read_recorded
from tenantry.tenancy.catalog.rows import COLUMNS, from_row
from tenantry.tenancy.tenant_record import TenantRecord

_CHECK: Final = "catalog"
_SUMMARY: Final = Statement("doctor.catalog_version", SUMMARY_SQL, (), Fetch.ONE)
_TENANT_COLUMNS: Final = Statement(
    "doctor.tenant_columns", "SELECT name FROM pragma_table_info('tenants')", (), Fetch.ALL
)
_SCHEMAS_TABLE: Final = Statement(
    "doctor.schemas_table", "SELECT 1 FROM sqlite_schema WHERE name = 'schemas'", (), Fetch.ONE
)
_OLDER: Final = {"backend": "'sqlite'", "location": "directory", "reason_before": "NULL"}
"""SQL expressions for the columns that a catalog lacks until a service applies the migrations from 0006_location on."""


async def check_version(catalog: Inspection) -> Finding:
    """Compare the catalog's version with this version of tenantry: a service refuses a newer catalog."""
    file_version, applied_json = await catalog.read(_SUMMARY)
    try:
        plan = plan_from_summary(
            lambda applied, version: plan_migrations([CATALOG], "sqlite", applied, version),
            file_version,
            applied_json,
        )
    except MigrationError as error:
        return wrong(
            _CHECK,
            f"this version of tenantry cannot open the catalog: {error}",
            "use the version of tenantry that used the directory last, or a newer one",
        )
    if plan.pending:
        return note(
            _CHECK,
            f"the catalog lacks {counted(len(plan.pending), 'migration', 'migrations')}",
            "nothing: the next start of a service applies them; older versions of tenantry cannot open the catalog after that",
        )
    return ok(_CHECK, f"the catalog is at version {file_version}")


async def read_missing_schemas(
    catalog: Inspection, tenants: Sequence[TenantRecord], schemas: Sequence[Schema]
) -> Collection[str]:
    """Return the names of the tenants' schema packs that are missing in `schemas`.

    Raises:
        PersistenceError: The catalog cannot be read.
    """
    if await catalog.read(_SCHEMAS_TABLE):
        return [one.name for one in await read_recorded(catalog, schemas) if one.is_missing]
    # A catalog of an older version lacks the table of the schemas until a service opens the catalog.
    return {name for tenant in tenants for name in tenant.schema_versions} - {one.name for one in schemas}


async def read_tenants(catalog: Inspection) -> Sequence[TenantRecord]:
    """Return all tenants of the catalog, even if an older version of tenantry wrote the catalog."""
    found = {name for (name,) in await catalog.read(_TENANT_COLUMNS)}
    columns = [name if name in found else _OLDER.get(name, name) for name in COLUMNS]
    sql = f"SELECT {', '.join(columns)} FROM tenants ORDER BY id"  # noqa: S608  # our names
    return [from_row(row) for row in await catalog.read(Statement("doctor.tenants", sql, (), Fetch.ALL))]
