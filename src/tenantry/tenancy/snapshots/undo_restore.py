"""Undo a tenant's last restore: bring back the replaced database. See `exchange` for the steps."""

from tenantry.errors import SnapshotNotFoundError
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.snapshots.exchange import Exchange, check_restorable, copy_point, is_undone
from tenantry.tenancy.tenant_record import TenantRecord


class UndoRestore(Exchange):
    """Undoes restores."""

    action = "undo_restore"
    is_undo = True

    async def run(self, operation: Operation) -> TenantRecord:
        """See `Snapshots.undo_restore`."""
        tenant = await operation.get()
        if tenant.restore_point is None:
            raise SnapshotNotFoundError(
                f"tenant {tenant.id!r} has no restore to undo: the tenant was never restored, the last restore replaced no "
                "database, or the restore point was deleted"
            )
        if is_undone(tenant):
            return tenant
        check_restorable(tenant, self.action)
        async with self._tools.scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing():
                await copy_point(self._tools.operations, tenant, tenant.restore_point, database)
            return await self.exchange(operation, tenant, database, is_migrated=True)
