"""Create a tenant from a copy of a database. Clones, imports and adoptions share these steps.

The copy is prepared in a scratch directory before the tenant is inserted into the catalog. The steps are then:

    ``begun``     The record and its intent are in the catalog. Nobody can open the tenant.
    ``placed``    The copy is the tenant's database.
    ``opened``    The tenant is open.
    ``finished``  The tenant is active, and the intent is cleared.

A failed creation removes the database and the record. After a crash, a tenant that has a database is finished, and a tenant
without a database is removed.
"""

from pathlib import Path

from tenantry.errors import TenantryError
from tenantry.storage import artifacts
from tenantry.tenancy.operations.create import Create
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.snapshots.tools import SnapshotTools
from tenantry.tenancy.tenant_record import Intent, TenantRecord


class NewFromCopy:
    """The base class of operations that create a tenant from a copy; subclasses have an `action` and a method `run`."""

    def __init__(self, tools: SnapshotTools, create: Create) -> None:
        self._tools = tools
        self._operations = tools.operations
        self._create = create

    async def new_record(self, operation: Operation, display_name: str, backend: str | None) -> TenantRecord:
        """Return the new tenant's record without inserting it into the catalog; see `Create.new_record`."""
        await operation.recover()
        return await self._create.new_record(operation.tenant_id, display_name, backend)

    async def prepare(self, tenant: TenantRecord, database: Path) -> None:
        """Migrate a checked copy, and mark it as the new tenant's database."""
        await self._operations.backend_of(tenant).prepare(database)
        await artifacts.assign_to(database, tenant.uid)

    async def create_with(self, operation: Operation, tenant: TenantRecord, database: Path) -> TenantRecord:
        """Create the tenant from a copy that `prepare` has prepared."""
        operation.tenant_uid = tenant.uid
        intent = Intent(action=operation.action, begun_at=self._operations.context.clock.now())
        operation.intent = intent
        tenant = tenant.model_copy(update={"intent": intent})
        async with operation.lock(tenant):
            await self._operations.catalog.insert(tenant)
            operation.step("begun")
            try:
                await self._operations.backend_of(tenant).adopt(tenant.place, database)
                operation.step("placed")
                return await self._create.provision(operation, tenant)
            except TenantryError:
                await self._create.abort(tenant)
                raise

    async def finish(self, operation: Operation, tenant: TenantRecord) -> None:
        """Finish a creation whose process died, or remove the tenant if it has no database."""
        # Do not wait for the lock: no process serves the tenant, so only a hanging thread can hold its lock.
        async with self._operations.backend_of(tenant).exclusive(tenant.place, is_waited_for=False) as closed:
            is_placed = await closed.exists()
        if is_placed:
            await self._create.provision(operation, tenant)
        else:
            await self._create.abort(tenant)
