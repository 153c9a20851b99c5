"""The components shared by the operations on snapshots and copies."""

from collections.abc import Sequence
from dataclasses import dataclass

from tenantry.ids import TenantId
from tenantry.lifecycle import Permission
from tenantry.schemas.schema import Schema
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.snapshots.copying import Copies
from tenantry.tenancy.snapshots.scratch import Scratch
from tenantry.tenancy.snapshots.snapshot_archive import SnapshotArchive
from tenantry.tenancy.tenant_record import TenantRecord, not_found


@dataclass(frozen=True, slots=True)
class SnapshotTools:
    """The components shared by the operations on snapshots and copies."""

    operations: OperationTools
    archive: SnapshotArchive
    copies: Copies
    scratch: Scratch
    schemas: Sequence[Schema]

    async def find_existing(self, tenant_id: TenantId) -> TenantRecord:
        """Return the tenant, in any state except purged.

        Raises:
            TenantNotFoundError: The tenant does not exist.
        """
        return await self._find(tenant_id, Permission.EXIST)

    async def find_copyable(self, tenant_id: TenantId) -> TenantRecord:
        """Return the tenant, in any state in which the tenant has a database.

        Raises:
            TenantNotFoundError: The tenant does not exist, or has no database.
        """
        return await self._find(tenant_id, Permission.COPY)

    async def _find(self, tenant_id: TenantId, permission: Permission) -> TenantRecord:
        tenant = await self.operations.catalog.find(tenant_id)
        if tenant is None or not tenant.state.allows(permission):
            raise not_found(tenant_id, tenant)
        return tenant
