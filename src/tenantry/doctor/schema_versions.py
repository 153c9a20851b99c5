"""Compares the schema versions of the tenants with the versions of the schema packs."""

from collections.abc import Collection, Iterator, Sequence

from tenantry.doctor.finding import Finding, counted, note, ok, wrong
from tenantry.lifecycle import Permission
from tenantry.schemas.schema import Schema
from tenantry.tenancy.tenant_record import TenantRecord

_CHECK = "migrations"


def check_migrations(
    tenants: Sequence[TenantRecord], schemas: Sequence[Schema], missing_schemas: Collection[str]
) -> Iterator[Finding]:
    """Yield the findings about the tenants' migrations.

    Args:
        tenants: All tenants.
        schemas: The known schema packs.
        missing_schemas: The names of the tenants' other schema packs.
    """
    known = {schema.name: len(schema.migrations("sqlite")) for schema in schemas}
    served = [tenant for tenant in tenants if tenant.state.allows(Permission.COPY)]
    if missing_schemas:  # then a pack that no tenant has is only the default of the command line
        had = {name for tenant in served for name in tenant.schema_versions}
        known = {name: version for name, version in known.items() if name in had}
    newer = {t.id for t in served for name in known if t.schema_versions.get(name, 0) > known[name]}
    pending = {t.id for t in served for name in known if t.schema_versions.get(name, 0) < known[name]}
    if newer:
        yield wrong(
            _CHECK,
            f"{counted(len(newer), 'tenant has', 'tenants have')} a newer schema version than this version of tenantry or of a "
            "schema pack",
            "deploy the newer version",
            newer,
        )
    if missing_schemas:
        yield note(
            _CHECK,
            f"the tenants have {counted(len(missing_schemas), 'schema pack that is', 'schema packs that are')} unknown here, "
            "and whose migrations were not checked",
            "run this command again with --schema module:PACK for each pack of the tenants, or use 'tenantry schema forget'",
            missing_schemas,
        )
    if pending:
        yield note(
            _CHECK,
            f"{counted(len(pending), 'tenant lacks', 'tenants lack')} migrations",
            "opening a tenant migrates it; 'tenantry fleet start migrate' migrates all tenants now",
            pending,
        )
    if not (newer or missing_schemas or pending):
        versions = ", ".join(f"version {version} of {name}" for name, version in known.items())
        yield ok(_CHECK, f"every tenant is at {versions}" if versions else "there are no schema packs")
