"""Repair a quarantined tenant: check its database, rebuild damaged indexes, and open the tenant.

    ``begun``     The tenant is still quarantined.
    ``checked``   The database is sound.
    ``opened``    The tenant is open and migrated.
    ``finished``  The tenant is active.

Only damage to indexes can be repaired. A repair that fails, or whose process dies, leaves the tenant quarantined.
"""

from tenantry.lifecycle import TenantEvent, next_state
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord


class Repair:
    """Repairs quarantined tenants."""

    action = "repair"

    def __init__(self, tools: OperationTools) -> None:
        self._tools = tools

    async def run(self, operation: Operation) -> TenantRecord:
        """See `TenantRegistry.repair`."""
        tenant = await operation.get()
        if next_state(tenant.state, TenantEvent.REPAIR, tenant_id=tenant.id) is tenant.state:
            operation.detail = {**operation.detail, "is_checked": False}
            return tenant
        async with operation.begun(tenant) as damaged:
            async with self._tools.exclusive(damaged, self.action) as closed:
                await closed.check_repairable()
                with operation.preparing():
                    await closed.repair()
            operation.step("checked")
            return await self._tools.open_and_activate(operation, damaged, TenantEvent.REPAIR)

    async def finish(self, operation: Operation, tenant: TenantRecord) -> None:
        """Roll back a repair whose process died; the tenant stays quarantined."""
        await operation.take_back(tenant)
