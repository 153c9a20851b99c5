"""Restore a tenant from one of its snapshots or restore points. See `exchange` for the steps."""

from pathlib import Path

from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.snapshots.exchange import POINT_PREFIX, Exchange, check_restorable, copy_point
from tenantry.tenancy.tenant_record import TenantRecord


class Restore(Exchange):
    """Restores tenants."""

    action = "restore"

    async def run(self, operation: Operation, *, snapshot_id: str, is_migrated: bool) -> TenantRecord:
        """See `Snapshots.restore`."""
        tenant = await operation.get()
        check_restorable(tenant, self.action)
        async with self._tools.scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing():
                if snapshot_id.startswith(POINT_PREFIX):
                    await copy_point(self._tools.operations, tenant, snapshot_id, database)
                else:
                    await self._fetch(tenant, snapshot_id, database)
            return await self.exchange(operation, tenant, database, is_migrated=is_migrated)

    async def _fetch(self, tenant: TenantRecord, snapshot_id: str, database: Path) -> None:
        manifest = await self._tools.archive.manifest(tenant.uid, snapshot_id)
        await self._tools.archive.fetch(manifest, database)
