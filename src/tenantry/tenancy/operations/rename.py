"""Rename a tenant: change its id. The tenant's `uid`, database and snapshots stay unchanged.

    ``begun``     Callers wait, and other processes refuse the tenant's calls.
    ``closed``    No process has the tenant open under the old id.
    ``finished``  The tenant has the new id.

A rename that fails, or whose process dies, is rolled back: the id changes only in the last step.
"""

from tenantry.errors import TenantExistsError
from tenantry.ids import TenantId
from tenantry.lifecycle import Permission
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord, not_found


class Rename:
    """Renames tenants."""

    action = "rename"

    def __init__(self, tools: OperationTools) -> None:
        self._tools = tools

    async def run(self, operation: Operation, *, new_id: TenantId) -> TenantRecord:
        """See `TenantRegistry.rename`."""
        tenant = await operation.find()
        if tenant is None or not tenant.state.allows(Permission.CHANGE):
            return await self._already_renamed(operation.tenant_id, new_id)
        if new_id == tenant.id:
            return tenant
        await self._check_free(new_id)
        async with self._tools.pool.held(tenant.id, self.action), operation.begun(tenant) as under_way:
            # Otherwise another process could serve this tenant's data to callers of a new tenant with the old id.
            async with self._tools.exclusive(under_way, self.action):
                operation.step("closed")
            self._tools.opener.forget_opened(tenant.id)
            return await operation.complete(under_way, id=new_id, previous_id=tenant.id)

    async def finish(self, operation: Operation, tenant: TenantRecord) -> None:
        """Roll back a rename whose process died."""
        await operation.take_back(tenant)

    async def _already_renamed(self, old_id: TenantId, new_id: TenantId) -> TenantRecord:
        """Return the renamed tenant for a repeated request; raise if no earlier request renamed the tenant to this id."""
        renamed = await self._tools.catalog.find(new_id)
        if renamed is None or not renamed.state.allows(Permission.EXIST) or renamed.previous_id != old_id:
            raise not_found(old_id)
        return renamed

    async def _check_free(self, new_id: TenantId) -> None:
        taken = await self._tools.catalog.find(new_id)
        if taken is not None and taken.state.allows(Permission.EXIST):
            raise TenantExistsError(f"tenant {new_id!r} exists already", tenant_id=new_id)
