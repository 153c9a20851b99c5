"""Examines the PostgreSQL databases of the settings, and compares their schemas with the catalog."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import NamedTuple

from tenantry.clock import SystemClock
from tenantry.config import RegistryConfig
from tenantry.doctor.finding import Finding, ok, wrong
from tenantry.doctor.tenants import NO_SCHEMA, UNKNOWN_SCHEMA, Difference, owned_locations
from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.lifecycle import Permission
from tenantry.schemas.schema import Schema
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.backends import make_backends
from tenantry.storage.protocol import Backend
from tenantry.tenancy.catalog.session import CatalogReader
from tenantry.tenancy.tenant_record import TenantRecord

_LOCKS: Statement[list[tuple[int]]] = Statement(
    "doctor.locks",
    "SELECT (classid::bigint << 32) | objid::bigint FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND database = "
    "(SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())",
    (),
    Fetch.ALL,
)


class Databases(NamedTuple):
    """The databases of the settings.

    Attributes:
        answering: The back ends whose databases can be used, by name.
        findings: A finding for each database.
    """

    answering: Mapping[str, Backend]
    findings: Sequence[Finding]


@asynccontextmanager
async def open_databases(config: RegistryConfig, schemas: Sequence[Schema]) -> AsyncIterator[Databases]:
    """Connect to each database for the block.

    Raises:
        SettingsError: The extra for PostgreSQL is not installed.
    """
    backends = make_backends(config, schemas, clock=SystemClock(), log=EventLog())
    answering: dict[str, Backend] = {}
    findings: list[Finding] = []
    async with AsyncExitStack() as stack:
        for name in config.all_databases:
            backend = backends.of(name)
            try:
                await backend.open()
                stack.push_async_callback(backend.aclose)
                report = await backend.report()
            except TenantryError as error:
                to_do = "check the server, and the setting with the address of the database"
                findings.append(wrong("databases", f"the back end {name} cannot be used: {error}", to_do))
            else:
                answering[name] = backend
                facts = "".join(f", {fact} {value}" for fact, value in report.details.items())
                findings.append(ok("databases", f"{name}: PostgreSQL {report.version}{facts}"))
        yield Databases(answering, findings)


async def compare_schemas(
    databases: Databases, config: RegistryConfig, tenants: Sequence[TenantRecord]
) -> set[Difference]:
    """Return the differences between the catalog and the schemas of the databases. Running operations also cause differences."""
    found: set[Difference] = set()
    for name, backend in databases.answering.items():
        there = await backend.locations()
        # The settings may give one database two names, for example after a move of the catalog.
        address = config.all_databases[name].address
        names = {other for other, one in config.all_databases.items() if one.address == address}
        owned = owned_locations(tenants, names)
        found |= {Difference(UNKNOWN_SCHEMA, f"{name}: {schema}") for schema in there - owned}
        found |= {
            Difference(NO_SCHEMA, tenant.id)
            for tenant in tenants
            if tenant.backend == name and tenant.state.allows(Permission.EXIST)
            if not tenant.is_under_way and tenant.location not in there
        }
    return found


async def running_operations(catalog: CatalogReader, tenants: Sequence[TenantRecord]) -> Collection[str]:
    """Return the keys of the tenants whose operation is running in any process, according to the locks of the catalog's database."""
    # The driver is loaded only if the settings name a database.
    name_key = import_module("tenantry.storage.postgres.connections.locks").name_key
    held = {key for (key,) in await catalog.read(_LOCKS)}
    return {tenant.uid for tenant in tenants if name_key(tenant.uid) in held}
