"""tenantry itself: calls through the registry, with its settings as they come."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from benchmarks.fleet import Fleet
from benchmarks.harness import BenchmarkError
from benchmarks.other_process import NEVER_HANDED_OVER, other_process
from benchmarks.peers import DURABILITY_SQL, Durability, count_messages, fill_tasks
from tenantry import RegistryConfig, TenantRegistry
from tenantry.company import Message, Task
from tenantry.observability.metrics import export_metrics
from tenantry.sql.repository import Repository
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.sqlite.database_files.layout import tenant_paths
from tenantry.tenancy.handle import TenantHandle

TENANT = "acme"


class _DurabilityRepository(Repository):
    async def durability(self) -> Durability:
        statement = Statement("benchmarks.durability", DURABILITY_SQL, fetch=Fetch.ONE)
        return Durability(*await self.read(statement))


class TenantryStore:
    """One tenant of a registry."""

    def __init__(self, tenant: TenantHandle, database: Path) -> None:
        self.tenant = tenant
        self._database = database

    async def save(self, message: Message) -> None:
        """See `CompanyStore.save`."""
        await self.tenant.messages.save(message)

    async def get(self, task_id: str) -> Task | None:
        """See `CompanyStore.get`."""
        return await self.tenant.tasks.get(task_id)

    async def durability(self) -> Durability:
        """See `CompanyStore.durability`; what a transaction reads, it reads on the writer's connection."""
        async with self.tenant.transaction() as tx:
            return await tx.repository(_DurabilityRepository).durability()

    def stored_messages(self) -> int:
        """See `CompanyStore.stored_messages`."""
        return count_messages(self._database)


class TenantryFleet:
    """Many tenants of a registry."""

    def __init__(self, registry: TenantRegistry) -> None:
        # Handles are meant to be kept.
        self._tenant = cache(registry.tenant)

    async def save(self, tenant: str, message: Message) -> None:
        """See `FleetStore.save`."""
        await self._tenant(tenant).messages.save(message)

    async def get(self, tenant: str, task_id: str) -> Task | None:
        """See `FleetStore.get`."""
        return await self._tenant(tenant).tasks.get(task_id)

    async def durability(self, tenant: str) -> Durability:
        """See `FleetStore.durability`."""
        async with self._tenant(tenant).transaction() as tx:
            return await tx.repository(_DurabilityRepository).durability()


@asynccontextmanager
async def open_tenantry(
    directory: Path,
    tasks: Sequence[Task],
    *,
    prepare: Callable[[TenantRegistry], None] | None = None,
    **settings: Any,
) -> AsyncIterator[TenantryStore]:
    """Open a registry with one tenant, which it makes if there is none; `prepare` may add hooks to it."""
    config = RegistryConfig(data_dir=directory, **settings)
    database = await make_tenant(directory, tasks)
    async with TenantRegistry(config) as registry:
        if prepare is not None:
            prepare(registry)
        yield TenantryStore(registry.tenant(TENANT), database)


async def make_tenant(directory: Path, tasks: Sequence[Task]) -> Path:
    """Create the tenant with these tasks unless it exists, and return its file."""
    database = tenant_paths(directory, TENANT).database
    if not database.exists():
        async with TenantRegistry(RegistryConfig(data_dir=directory)) as registry:
            await registry.create(TENANT)
        fill_tasks(database, tasks)
    return database


@asynccontextmanager
async def open_tenantry_forwarded(
    directory: Path, tasks: Sequence[Task], **settings: Any
) -> AsyncIterator[TenantryStore]:
    """Open a registry that forwards all calls to another process, which has made the tenant's first call and keeps it open.

    Raises:
        BenchmarkError: The tenant was handed over.
    """
    config = RegistryConfig(data_dir=directory, **settings)
    database = await make_tenant(directory, tasks)
    with other_process(directory, **settings, **NEVER_HANDED_OVER) as owner:
        owner.use([TENANT])
        async with TenantRegistry(config) as registry:
            tenant = registry.tenant(TENANT)
            yield TenantryStore(tenant, database)
            if tenant.statistics() is not None:
                raise BenchmarkError("the tenant was opened by this process: nothing was forwarded")


@asynccontextmanager
async def open_tenantry_fleet(
    fleet: Fleet, *, open_tenants_max: int = 128, **settings: Any
) -> AsyncIterator[TenantryFleet]:
    """Open a registry on the fleet."""
    config = RegistryConfig(data_dir=fleet.data_dir, open_tenants_max=open_tenants_max, **settings)
    async with TenantRegistry(config) as registry:
        yield TenantryFleet(registry)


def export_to_prometheus(registry: TenantRegistry) -> None:
    """Measure everything that tenantry can measure."""
    export_metrics(registry, CollectorRegistry())
