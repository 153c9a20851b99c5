"""Create a tenant's record and database. Clones and imports share some of these steps.

    ``begun``     The record is in the catalog. The tenant is provisioning, and only this operation can open the tenant.
    ``opened``    The database is made and migrated.
    ``finished``  The tenant is active.

A failed creation removes the database and the record. After a crash, the creation is repeated from its first step, which
completes the database.
"""

import uuid

from tenantry.errors import (
    PersistenceConnectionError,
    TenantExistsError,
    TenantOwnedElsewhereError,
    TenantryError,
)
from tenantry.ids import TenantId
from tenantry.lifecycle import Permission, TenantEvent, TenantState
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord


class Create:
    """Creates tenants."""

    action = "create"

    def __init__(self, tools: OperationTools) -> None:
        self._tools = tools

    async def run(
        self,
        operation: Operation,
        *,
        display_name: str,
        backend: str | None = None,
        if_not_exists: bool = False,
    ) -> TenantRecord:
        """See `TenantRegistry.create`."""
        found = await operation.recover()
        if if_not_exists and found is not None and _is_kept(found):
            operation.detail = {**operation.detail, "is_created": False}
            return found
        tenant = await self.new_record(operation.tenant_id, display_name, backend)
        operation.tenant_uid = tenant.uid
        async with operation.lock(tenant):
            await self._tools.catalog.insert(tenant)
            operation.step("begun")
            try:
                lease = await self._tools.open(operation, tenant)
            except TenantryError:
                await self.abort(tenant)
                raise
            return await self._tools.activate(operation, tenant, TenantEvent.PROVISION, lease)

    async def finish(self, operation: Operation, tenant: TenantRecord) -> None:
        """Finish a creation whose process died."""
        await self.provision(operation, tenant)

    async def new_record(self, tenant_id: TenantId, display_name: str, backend: str | None) -> TenantRecord:
        """Return a new tenant's record without inserting it into the catalog.

        Args:
            tenant_id: The new tenant's id.
            display_name: The name that people see.
            backend: The name of the back end; None for the default back end.

        Raises:
            BackendNotConfiguredError: The settings do not name the back end.
            MissingSchemaError: This registry lacks schema packs that tenants have.
            TenantExistsError: A tenant with this id already exists.
            DataDirectoryError: A file or directory that belongs to no tenant is at the new database's path.
        """
        backends = self._tools.backends
        chosen = backends.default if backend is None else backends.of(backend)
        found = await self._tools.catalog.find(tenant_id)
        if found is not None and found.state.allows(Permission.EXIST):
            until = f", kept until {found.purge_after:%Y-%m-%d %H:%M} UTC" if found.purge_after else ""
            to_do = "choose another id" if _is_kept(found) else "undelete or purge it, or choose another id"
            raise TenantExistsError(
                f"tenant {tenant_id!r} exists already ({found.state}{until}): {to_do}", tenant_id=tenant_id
            )
        await self._tools.recorded_schemas.check()
        now = self._tools.context.clock.now()
        taken = await self._tools.catalog.locations(chosen.location_of(tenant_id))
        return TenantRecord(
            id=tenant_id,
            uid=uuid.uuid4().hex,
            backend=chosen.name,
            location=await chosen.new_location(tenant_id, taken),
            display_name=display_name,
            state=TenantState.PROVISIONING,
            created_at=now,
            state_changed_at=now,
        )

    async def provision(self, operation: Operation, tenant: TenantRecord) -> TenantRecord:
        """Open the new tenant and make it active."""
        return await self._tools.open_and_activate(operation, tenant, TenantEvent.PROVISION)

    async def abort(self, tenant: TenantRecord) -> None:
        """Remove the database and then the record of a tenant whose creation failed.

        If another process has the tenant open, nothing is removed, and the next registry that opens finishes the creation.
        """
        await self._tools.pool.close_tenant(tenant.id, "state")
        try:
            # No process can open the tenant and write to it during the removal.
            async with self._tools.backend_of(tenant).exclusive(tenant.place, is_waited_for=False) as closed:
                if await self._tools.catalog.find_by_uid(tenant.uid) != tenant:
                    return
                # Sync the removal of the files before the record is removed, even if the files are already gone. Otherwise a
                # power failure could bring back files without a record, and these files would block their tenant's id.
                await closed.remove()
                await self._tools.catalog.remove(tenant)
        except (TenantOwnedElsewhereError, PersistenceConnectionError):
            return


def _is_kept(tenant: TenantRecord) -> bool:
    """Return whether the tenant exists and is not about to be purged."""
    return tenant.state.allows(Permission.EXIST) and not tenant.state.allows(TenantEvent.UNDELETE)
