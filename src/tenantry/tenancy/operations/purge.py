"""Purge a deleted tenant: remove its database and snapshots permanently.

    ``begun``      The tenant is purged and cannot be brought back.
    ``removed``    The database and the restore points are removed.
    ``forgotten``  The snapshots are deleted.
    ``finished``   The intent is cleared, and the id is free.

A purge is never rolled back. A purge that fails, or whose process dies, is repeated from its first step until it succeeds. The id
stays taken until the purge has succeeded.
"""

from functools import partial

from tenantry.errors import GracePeriodError, SnapshotError, TenantryError
from tenantry.lifecycle import TenantEvent, has_happened
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.retries import Retries
from tenantry.tenancy.operations.runner import OperationRunner
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.snapshot_storage.owner import StorageOwner
from tenantry.tenancy.snapshots.snapshot_archive import ObjectsLeftError, SnapshotArchive
from tenantry.tenancy.tenant_record import OBJECTS_LEFT, TenantRecord, not_found


class Purge:
    """Purges deleted tenants."""

    action = "purge"

    def __init__(self, tools: OperationTools, archive: SnapshotArchive, owner: StorageOwner) -> None:
        self._tools = tools
        self._archive = archive
        self._owner = owner

    async def run(self, operation: Operation, *, is_forced: bool) -> TenantRecord:
        """See `TenantRegistry.purge`."""
        tenant = await operation.find()
        if tenant is None:
            raise not_found(operation.tenant_id)
        if has_happened(tenant.state, TenantEvent.PURGE):
            return tenant
        if not is_forced:
            self._check_grace_is_over(tenant)
        await self._owner.check_not_foreign()
        async with operation.begun(tenant, TenantEvent.PURGE, is_reversible=False) as purged:
            return await self._remove(operation, purged)

    async def finish(self, operation: Operation, tenant: TenantRecord) -> None:
        """Finish a purge that failed, or whose process died."""
        await self._remove(operation, tenant)

    def _check_grace_is_over(self, tenant: TenantRecord) -> None:
        if tenant.purge_after is None:
            return
        context = self._tools.context
        watch, grace_seconds = context.watch, context.config.delete_grace_seconds
        left_seconds = (tenant.purge_after - context.clock.now()).total_seconds()
        until = f"until {tenant.purge_after:%Y-%m-%d %H:%M} UTC"
        if left_seconds <= 0:
            if tenant.purge_after <= watch.surely_past(grace_seconds):
                return
            left_seconds = max(watch.held_seconds, 1.0)
            until = (
                f"for {left_seconds:.0f} s more, because the clock may have leapt past the end of the grace period (check the "
                "machine's clock)"
            )
        raise GracePeriodError(
            f"tenant {tenant.id!r} is kept {until}: purge it later, or with force now (a purged tenant cannot be brought back)",
            tenant_id=tenant.id,
            state=tenant.state,
            event=TenantEvent.PURGE,
            retry_after_seconds=left_seconds,
        )

    async def _remove(self, operation: Operation, tenant: TenantRecord) -> TenantRecord:
        await self._tools.close(tenant, self.action)
        async with self._tools.exclusive(tenant, self.action) as closed:
            # Call `remove` even if the files are missing: another process may have died between their removal and the sync.
            await closed.remove()
        operation.step("removed")
        await self._forget_snapshots(operation, tenant)
        return await operation.complete(tenant)

    async def _forget_snapshots(self, operation: Operation, tenant: TenantRecord) -> None:
        try:
            await self._archive.delete_all(tenant.uid)
        except SnapshotError as error:
            count = error.objects if isinstance(error, ObjectsLeftError) else None
            await operation.note(tenant, **{OBJECTS_LEFT: "" if count is None else str(count)})
            raise SnapshotError(
                f"tenant {tenant.id!r} is purged, but its snapshots could not be deleted, so its id is still taken: {error}",
                is_retryable=error.is_retryable,
            ) from error
        operation.step("forgotten")


class ExpiredTenants:
    """Purges deleted tenants whose grace period has passed."""

    def __init__(self, tools: OperationTools, runner: OperationRunner, purge: Purge) -> None:
        self._catalog = tools.catalog
        self._context = tools.context
        self._runner = runner
        self._purge = purge
        self._failed = Retries(tools.context.clock.monotonic_seconds)

    async def purge(self, tenants_max: int, *, by: str) -> None:
        """Purge at most `tenants_max` expired tenants. A failed purge is audited and logged, and is retried later."""
        past = self._context.watch.surely_past(self._context.config.delete_grace_seconds)
        expired = await self._catalog.to_purge(past, tenants_max + len(self._failed))
        self._failed.keep_only({tenant.uid for tenant in expired})
        for tenant in expired:
            if self._failed.is_due(tenant.uid):
                await self._purge_one(tenant, by)

    async def _purge_one(self, tenant: TenantRecord, by: str) -> None:
        last_outcome = self._failed.last_outcome(tenant.uid)
        try:
            await self._runner.run(
                tenant.id,
                self._purge.action,
                partial(self._purge.run, is_forced=False),
                by=by,
                last_outcome=last_outcome,
                is_forced=False,
            )
        except TenantryError as error:
            self._failed.failed(tenant.uid, self._purge.action, error.outcome)
