"""The operations that only change the record: suspend, resume, unarchive, undelete, quarantine, delete and update.

Each operation is one transaction of the catalog, so a crash leaves nothing to finish.
"""

from datetime import timedelta
from typing import Any

from tenantry.errors import DeletionProtectedError
from tenantry.lifecycle import Permission, TenantEvent, has_happened
from tenantry.storage.backends import check_supports
from tenantry.storage.protocol import Capability
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord


class Change:
    """Changes records of tenants, and applies the changes to tenants that are open in this process."""

    def __init__(self, tools: OperationTools) -> None:
        self._tools = tools

    async def apply(self, operation: Operation, *, event: TenantEvent, reason: str | None) -> TenantRecord:
        """Apply a lifecycle event; close the tenant if a tenant in the new state must not be open.

        If the new state refuses writes, no process acknowledges a write after this method has returned.
        """
        tenant = await operation.get()
        self._tools.backend_of(tenant)  # an unknown back end is refused before anything is changed
        tenant = await operation.apply(tenant, event, reason=reason)
        if tenant.state.allows(Permission.STAY_OPEN):
            await self._tools.apply_record_at_owner(tenant)
        else:
            await self._close(operation, tenant)
        if not tenant.state.allows(Permission.WRITE):
            # Also if the state did not change: an earlier request may have changed the catalog and then failed here.
            await self._tools.fence(tenant)
        return tenant

    async def delete(self, operation: Operation, *, reason: str | None) -> TenantRecord:
        """See `TenantRegistry.delete`."""
        tenant = await operation.get()
        self._tools.backend_of(tenant)
        if tenant.deletion_protected:
            raise DeletionProtectedError(
                f"tenant {tenant.id!r} is protected from deletion: remove the protection with an update (deletion_protected=False)",
                tenant_id=tenant.id,
                state=tenant.state,
                event=TenantEvent.DELETE,
            )
        purge_after = tenant.purge_after
        if not has_happened(tenant.state, TenantEvent.DELETE):
            context = self._tools.context
            purge_after = context.clock.now() + timedelta(seconds=context.config.delete_grace_seconds)
        tenant = await operation.apply(tenant, TenantEvent.DELETE, reason=reason, purge_after=purge_after)
        await self._close(operation, tenant)
        await self._tools.fence(tenant)
        return tenant

    async def update(self, operation: Operation, *, changes: dict[str, Any]) -> TenantRecord:
        """See `TenantRegistry.update`."""
        tenant = await operation.get()
        limits = changes.get("limits")
        if limits is not None and limits.database_bytes_max is not None:
            check_supports(
                self._tools.backend_of(tenant),
                Capability.BYTE_LIMIT,
                f"database_bytes_max of tenant {tenant.id!r}",
            )
        changed = {name: value for name, value in changes.items() if getattr(tenant, name) != value}
        tenant = await operation.change(tenant, **changed) if changed else tenant
        if "limits" in changes:
            # Apply limits even if the catalog has them already: an earlier request may have changed the catalog and then failed.
            await self._tools.apply_record_at_owner(tenant)
        return tenant

    async def _close(self, operation: Operation, tenant: TenantRecord) -> None:
        await self._tools.close(tenant, operation.action)
        operation.step("closed")
