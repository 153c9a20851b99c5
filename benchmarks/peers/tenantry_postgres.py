"""tenantry with its tenants in a PostgreSQL database: calls through the registry, with its settings as they come."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.harness import Load
from benchmarks.peers import PostgresDurability
from benchmarks.peers.postgres import SETTINGS, PostgresServer
from tenantry import RegistryConfig, TenantRegistry
from tenantry.company import Message, Task
from tenantry.postgres_config import PostgresConfig
from tenantry.tenancy.handle import TenantHandle

BACKEND = "bench"
"""The name of the server's back end; the catalog stays in a file, because no call of a benchmark waits for it."""

_tenant_numbers = count(1)


class TenantryPostgresStore:
    """One tenant of a registry, in a schema of the server."""

    def __init__(self, tenant: TenantHandle, server: PostgresServer, schema: str) -> None:
        self.tenant = tenant
        self.schema = schema
        self._server = server

    async def save(self, message: Message) -> None:
        """See `CompanyStore.save`."""
        await self.tenant.messages.save(message)

    async def get(self, task_id: str) -> Task | None:
        """See `CompanyStore.get`."""
        return await self.tenant.tasks.get(task_id)

    async def durability(self) -> PostgresDurability:
        """See `CompanyStore.durability`; what a transaction reads, it reads on the writer's connection."""
        async with self.tenant.transaction() as tx:
            row = await tx.fetch_one(SETTINGS)
        assert row is not None
        return PostgresDurability(*row)

    def stored_messages(self) -> int:
        """See `CompanyStore.stored_messages`."""
        return self._server.count_messages(self.schema)


@asynccontextmanager
async def open_tenantry_postgres(
    load: Load, directory: Path, tasks: Sequence[Task], *, connections_max: int | None = None
) -> AsyncIterator[TenantryPostgresStore]:
    """Open a registry with a new tenant on the load's server."""
    server = PostgresServer.of(load)
    async with TenantRegistry(
        postgres_config(server, directory, connections_max=connections_max)
    ) as registry:
        yield await create_tenant(registry, server, tasks)


def postgres_config(
    server: PostgresServer, directory: Path, *, connections_max: int | None = None
) -> RegistryConfig:
    """Return the settings of a registry whose new tenants are on the server."""
    database = PostgresConfig.model_validate({"url": server.uri, "connections_max": connections_max})
    return RegistryConfig(data_dir=directory, databases={BACKEND: database}, default_backend=BACKEND)


async def create_tenant(
    registry: TenantRegistry, server: PostgresServer, tasks: Sequence[Task]
) -> TenantryPostgresStore:
    """Create a tenant with tasks, whose id no other tenant on the server had."""
    record = await registry.create(f"bench-{next(_tenant_numbers)}")
    tenant = registry.tenant(record.id)
    for task in tasks:
        await tenant.tasks.save(task)
    schema = (await registry.get(record.id)).location
    with psycopg.connect(server.uri, autocommit=True) as connection:
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, "tasks")))
    return TenantryPostgresStore(tenant, server, schema)
