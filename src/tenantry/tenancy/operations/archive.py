"""Archive a tenant: close the tenant for a long time, and compact its database.

    ``begun``      The tenant is archived, and serves no calls.
    ``closed``     The tenant is closed in this process.
    ``compacted``  The disk space of deleted rows is free.
    ``finished``   The intent is cleared.

A failed archive operation is rolled back. After a crash, the operation is repeated from its first step.
"""

from tenantry.errors import TenantryError
from tenantry.lifecycle import TenantEvent, has_happened
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord


class Archive:
    """Archives tenants."""

    action = "archive"

    def __init__(self, tools: OperationTools) -> None:
        self._tools = tools

    async def run(self, operation: Operation, *, reason: str | None) -> TenantRecord:
        """See `TenantRegistry.archive`."""
        tenant = await operation.get()
        if has_happened(tenant.state, TenantEvent.ARCHIVE):
            return tenant
        async with operation.begun(tenant, TenantEvent.ARCHIVE, reason=reason) as archived:
            return await self._compact(operation, archived)

    async def finish(self, operation: Operation, tenant: TenantRecord) -> None:
        """Finish an archive operation whose process died; if this fails, roll the operation back."""
        try:
            await self._compact(operation, tenant)
        except TenantryError:
            await operation.take_back(tenant)
            raise

    async def _compact(self, operation: Operation, tenant: TenantRecord) -> TenantRecord:
        await self._tools.close(tenant, self.action)
        operation.step("closed")
        async with self._tools.exclusive(tenant, self.action) as closed:
            await closed.compact()
        operation.step("compacted")
        return await operation.complete(tenant)
