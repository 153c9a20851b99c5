"""Checks whether this tenantry can open the catalog, and reads its tenants."""

from collections.abc import Collection, Sequence
from typing import Final

from tenantry.config import SQLITE
from tenantry.doctor.finding import Finding, counted, note, ok, wrong
from tenantry.errors import MigrationError
from tenantry.schemas.migration import Migration
from tenantry.schemas.schema import Schema
from tenantry.sql.statements import Fetch, Sql, Statement
from tenantry.storage.migrations import AppliedMigration, plan_migrations
from tenantry.storage.sqlite.migrations.migrator import SUMMARY_SQL, plan_from_summary
from tenantry.tenancy.catalog.catalog import CATALOG
from tenantry.tenancy.catalog.place import moved_error, read_move
from tenantry.tenancy.catalog.recorded_schemas import read_recorded
from tenantry.tenancy.catalog.rows import COLUMNS, from_row
from tenantry.tenancy.catalog.session import CatalogReader
from tenantry.tenancy.tenant_record import TenantRecord

_CHECK: Final = "catalog"
_SUMMARY: Final = Statement("doctor.catalog_version", SUMMARY_SQL, (), Fetch.ONE)
_APPLIED: Final = Statement(
    "doctor.catalog_version", "SELECT schema, version, checksum FROM schema_migrations", (), Fetch.ALL
)
_TENANT_COLUMNS: Final = Statement(
    "doctor.tenant_columns",
    Sql(
        {
            "sqlite": "SELECT name FROM pragma_table_info('tenants')",
            "postgres": "SELECT column_name FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND table_name = 'tenants'",
        }
    ),
    (),
    Fetch.ALL,
)
_HAS_TABLE: Final = Sql(
    {
        "sqlite": "SELECT 1 FROM sqlite_schema WHERE name = ?",
        "postgres": "SELECT 1 FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = ?",
    }
)
_OLDER: Final = {"backend": "'sqlite'", "location": "directory", "reason_before": "NULL"}
"""SQL expressions for the columns that a catalog lacks until a service applies the migrations from 0006_location on."""


async def has_table(catalog: CatalogReader, name: str) -> bool:
    """Return whether the catalog has a table. An older catalog lacks some tables until a service opens the catalog."""
    return await catalog.read(Statement("doctor.has_table", _HAS_TABLE, (name,), Fetch.ONE)) is not None


async def check_place(catalog: CatalogReader) -> Finding | None:
    """Return a finding if a move has left the catalog, or has not completed it."""
    move = await read_move(catalog) if await has_table(catalog, "catalog_move") else None
    if move is None:
        return None
    return wrong(_CHECK, str(moved_error(move)), "do what the message says: no service opens this catalog")


async def check_version(catalog: CatalogReader, dialect: str) -> Finding:
    """Compare the catalog's version with this version of tenantry: a service refuses a newer catalog."""
    try:
        file_version, pending = await _read_version(catalog, dialect)
    except MigrationError as error:
        return wrong(
            _CHECK,
            f"this version of tenantry cannot open the catalog: {error}",
            "use the version of tenantry that used the directory last, or a newer one",
        )
    if pending:
        return note(
            _CHECK,
            f"the catalog lacks {counted(len(pending), 'migration', 'migrations')}",
            "nothing: the next start of a service applies them; older versions of tenantry cannot open the catalog after that",
        )
    return ok(_CHECK, f"the catalog is at version {file_version}")


async def read_missing_schemas(
    catalog: CatalogReader, tenants: Sequence[TenantRecord], schemas: Sequence[Schema]
) -> Collection[str]:
    """Return the names of the tenants' schema packs that are missing in `schemas`.

    Raises:
        PersistenceError: The catalog cannot be read.
    """
    if await has_table(catalog, "schemas"):
        return [one.name for one in await read_recorded(catalog, schemas) if one.is_missing]
    # A catalog of an older version lacks the table of the schemas until a service opens the catalog.
    return {name for tenant in tenants for name in tenant.schema_versions} - {one.name for one in schemas}


async def _read_version(catalog: CatalogReader, dialect: str) -> tuple[int, Sequence[Migration]]:
    """Return the number of applied migrations, and the pending migrations."""

    def plan(applied: Sequence[AppliedMigration], version: int) -> tuple[Migration, ...]:
        return plan_migrations([CATALOG], dialect, applied, version)

    if dialect == SQLITE:
        file_version, applied_json = await catalog.read(_SUMMARY)
        return file_version, plan_from_summary(plan, file_version, applied_json).pending
    applied = [AppliedMigration(*row) for row in await catalog.read(_APPLIED)]
    return len(applied), plan(applied, len(applied))


async def read_tenants(catalog: CatalogReader) -> Sequence[TenantRecord]:
    """Return all tenants of the catalog, even if an older version of tenantry wrote the catalog."""
    found = {name for (name,) in await catalog.read(_TENANT_COLUMNS)}
    columns = [name if name in found else _OLDER.get(name, name) for name in COLUMNS]
    sql = f"SELECT {', '.join(columns)} FROM tenants ORDER BY id"  # noqa: S608  # our names
    return [from_row(row) for row in await catalog.read(Statement("doctor.tenants", sql, (), Fetch.ALL))]
