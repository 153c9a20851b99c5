"""What operations are made of: the parts that they share, and the steps that several of them take."""

from dataclasses import dataclass

from tenantry.errors import TenantryError
from tenantry.lifecycle import TenantEvent, next_state
from tenantry.storage.protocol import Backend
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.actors.lease import Lease
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.catalog.recorded_schemas import RecordedSchemas
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.tenant_opener import TenantOpener
from tenantry.tenancy.tenant_record import TenantRecord


@dataclass(frozen=True, slots=True)
class OperationTools:
    """What operations work with."""

    catalog: Catalog
    context: ActorContext
    pool: ActorPool
    opener: TenantOpener
    backend: Backend
    recorded_schemas: RecordedSchemas

    async def close(self, tenant: TenantRecord) -> None:
        """Close the tenant in this process, when the calls that were accepted have ended."""
        self.opener.forget_opened(tenant.id)
        await self.pool.close_tenant(tenant.id, "state")

    async def open_and_activate(
        self, operation: Operation, tenant: TenantRecord, event: TenantEvent
    ) -> TenantRecord:
        """Open a tenant that does not serve its callers yet, and let the event make it active.

        It is opened through the pool, so that it counts among the open tenants.
        """
        return await self.activate(operation, tenant, event, await self.open(operation, tenant))

    async def open(self, operation: Operation, tenant: TenantRecord) -> Lease:
        """Open a tenant that does not serve its callers yet; what is missing of its database is made."""
        with self.opener.opening_for_operation(tenant):
            lease = await self.pool.lease(tenant.id)
        operation.step("opened")
        return lease

    async def activate(
        self, operation: Operation, tenant: TenantRecord, event: TenantEvent, lease: Lease
    ) -> TenantRecord:
        """Let the event make an open tenant active, and give the lease back.

        Callers that asked for the tenant while it opened may use it already. So if this fails, it is closed and its data stays.
        """
        try:
            return await operation.complete(
                tenant,
                state=next_state(tenant.state, event, tenant_id=tenant.id),
                reason=None,
                state_changed_at=self.context.clock.now(),
                schema_versions=lease.actor.schema_versions,
            )
        except TenantryError:
            await self.close(tenant)
            raise
        finally:
            self.pool.release(lease)

    async def apply_record(self, tenant: TenantRecord) -> None:
        """Apply the limits and the state of this record to the tenant, if it is open in this process or being opened."""
        # An opening that is under way may have read the record before.
        actor = await self.pool.opened(tenant.id)
        if actor is not None:
            await actor.apply_record(tenant)
