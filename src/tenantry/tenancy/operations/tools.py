"""The components and steps that operations share."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from tenantry.errors import TenantryError
from tenantry.lifecycle import TenantEvent, next_state
from tenantry.storage.backends import Backends
from tenantry.storage.protocol import Backend, ClosedDatabase
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.actors.lease import Lease
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.catalog.recorded_schemas import RecordedSchemas
from tenantry.tenancy.opening.tenant_opener import TenantOpener
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.peers.owners import Owners
from tenantry.tenancy.tenant_record import TenantRecord


@dataclass(frozen=True, slots=True)
class OperationTools:
    """The components and steps that operations share."""

    catalog: Catalog
    context: ActorContext
    pool: ActorPool
    opener: TenantOpener
    backends: Backends
    recorded_schemas: RecordedSchemas
    owners: Owners

    def backend_of(self, tenant: TenantRecord) -> Backend:
        """Return the back end that keeps the tenant's database.

        Raises:
            BackendNotConfiguredError: The settings of this process do not name the back end.
        """
        return self.backends.of(tenant.backend)

    async def close(self, tenant: TenantRecord, action: str) -> None:
        """Close the tenant after the accepted calls have ended, in this process or in the process that has the tenant open.

        Args:
            tenant: The tenant, whose record in the catalog refuses calls already.
            action: The name of the operation, for errors.

        Raises:
            TenantOwnedElsewhereError: The process that has the tenant open does not answer.
        """
        self.opener.forget_opened(tenant.id)
        await self.pool.close_tenant(tenant.id, "state")
        await self.owners.close(tenant, action)

    def exclusive(self, tenant: TenantRecord, action: str) -> AbstractAsyncContextManager[ClosedDatabase]:
        """Hold the lock of the tenant's database during the block; see `Owners.exclusive`."""
        return self.owners.exclusive(self.backend_of(tenant), tenant.place, action)

    async def take_over(self, tenant: TenantRecord, action: str) -> Lease:
        """Return a lease of a tenant that serves calls, open in this process; see `Owners.take_over`."""
        return await self.owners.take_over(tenant, action, lambda: self.pool.lease(tenant.id))

    async def fence(self, tenant: TenantRecord) -> None:
        """Let no other process acknowledge a write of the tenant any more; see `Backends.fence`."""
        await self.backends.fence(tenant.backend, tenant.place)

    async def open_and_activate(
        self, operation: Operation, tenant: TenantRecord, event: TenantEvent
    ) -> TenantRecord:
        """Open a tenant that does not serve callers yet, and apply the event that makes the tenant active.

        The tenant counts towards the limit on open tenants, because the pool opens the tenant.
        """
        return await self.activate(operation, tenant, event, await self.open(operation, tenant))

    async def open(self, operation: Operation, tenant: TenantRecord) -> Lease:
        """Open a tenant that does not serve callers yet; create or complete its database.

        The tenant opens in this process only. Nothing is forwarded, because another process may have the same operation unfinished.
        """
        with self.opener.opening_for_operation(tenant):
            lease = await self.pool.lease(tenant.id)
        operation.step("opened")
        return lease

    async def activate(
        self, operation: Operation, tenant: TenantRecord, event: TenantEvent, lease: Lease
    ) -> TenantRecord:
        """Apply the event that makes an open tenant active, and release the lease.

        Callers may already use the tenant. If the activation fails, the tenant is therefore closed and its data is kept.
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
            await self.close(tenant, operation.action)
            raise
        finally:
            self.pool.release(lease)

    async def apply_record_at_owner(self, tenant: TenantRecord) -> None:
        """Apply the record's limits and state to the tenant, in this process or in the process that has the tenant open.

        Raises:
            TenantOwnedElsewhereError: The process that has the tenant open does not answer.
        """
        await self.apply_record(tenant)
        if not self.pool.has(tenant.id):
            await self.owners.refresh(tenant)

    async def apply_record(self, tenant: TenantRecord) -> None:
        """Apply the record's limits and state to the tenant if the tenant is open or opening in this process."""
        # A concurrent opening of the tenant may have read the old record.
        actor = await self.pool.opened(tenant.id)
        if actor is not None:
            await actor.apply_record(tenant)
