"""Clone a tenant: create a new tenant with a copy of its data. See `new_from_copy` for the steps."""

from tenantry.ids import TenantId
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.tenancy.transfers.new_from_copy import NewFromCopy


class Clone(NewFromCopy):
    """Clones tenants."""

    action = "clone"

    async def run(
        self,
        operation: Operation,
        *,
        source_id: TenantId,
        snapshot_id: str | None,
        display_name: str | None,
        backend: str | None,
    ) -> TenantRecord:
        """See `TenantRegistry.clone`."""
        source = await self._tools.operations.catalog.find(source_id)
        beside = None if source is None else source.backend
        new = await self.new_record(operation, display_name or operation.tenant_id, backend or beside)
        source = await self._tools.find_existing(source_id)
        operation.check_revision(source)
        async with self._tools.scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing():
                if snapshot_id is None:
                    await self._tools.copies.copy(source, database)
                else:
                    manifest = await self._tools.archive.manifest(source.uid, snapshot_id)
                    await self._tools.archive.fetch(manifest, database)
                await self.prepare(new, database)
            return await self.create_with(operation, new, database)
