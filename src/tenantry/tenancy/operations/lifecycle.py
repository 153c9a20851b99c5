"""What operators do to a tenant: create, suspend, archive, delete, purge, rename, repair and the ways back.

How they run, and what becomes of them in a crash, is `tenantry.tenancy.operations.runner`.
"""

import uuid
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenantry.errors import (
    DataDirectoryError,
    DeletionProtectedError,
    GracePeriodError,
    PersistenceConnectionError,
    SnapshotError,
    TenantExistsError,
    TenantOwnedElsewhereError,
    TenantryError,
)
from tenantry.files.durable_files import remove_tree
from tenantry.ids import TenantId
from tenantry.lifecycle import Permission, TenantEvent, TenantState, has_happened, next_state
from tenantry.storage.sqlite import log_note, maintenance
from tenantry.storage.sqlite.layout import TenantPaths, tenant_paths
from tenantry.tenancy.actors.lease import Lease
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.files import owned_files
from tenantry.tenancy.operations.operation import Operation, expecting
from tenantry.tenancy.operations.retries import Retries
from tenantry.tenancy.operations.runner import OperationRunner
from tenantry.tenancy.snapshots.archive import ObjectsLeftError
from tenantry.tenancy.tenant_opener import TenantOpener
from tenantry.tenancy.tenant_record import OBJECTS_LEFT, TenantRecord, not_found
from tenantry.texts import check_display_name
from tenantry.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class LifecycleCalls:
    """Carries out lifecycle operations on the catalog, the pool and the files."""

    def __init__(
        self, runner: OperationRunner, catalog: Catalog, pool: ActorPool, opener: TenantOpener
    ) -> None:
        self._runner = runner
        self._catalog = catalog
        self._pool = pool
        self._opener = opener
        self._context = runner.context
        self._purges = Retries(runner.context.clock.monotonic_seconds)
        self.forget_snapshots: Callable[[TenantRecord], Awaitable[None]] | None = None
        """Forgets the snapshots of a tenant that is being purged."""
        self.check_storage: Callable[[], Awaitable[None]] | None = None
        """Raises if those snapshots are known to belong to another data directory."""
        runner.finishers |= {
            "create": self._finish_create,
            "archive": self._finish_archive,
            "purge": self._finish_purge,
            "rename": self._take_back,
            "repair": self._take_back,
        }

    async def create(self, tenant_id: TenantId, display_name: str) -> TenantRecord:
        """See `TenantRegistry.create`."""
        check_display_name(display_name)
        return await self._runner.run(tenant_id, "create", partial(self._create, display_name))

    async def apply(
        self, tenant_id: TenantId, event: TenantEvent, *, reason: str | None = None
    ) -> TenantRecord:
        """Let `event` happen; unless the tenant serves calls afterwards, close it."""
        return await self._runner.run(
            tenant_id, event.value, partial(self._apply, event, reason), reason=reason
        )

    async def archive(self, tenant_id: TenantId, reason: str | None) -> TenantRecord:
        """See `TenantRegistry.archive`."""
        return await self._runner.run(tenant_id, "archive", partial(self._archive, reason), reason=reason)

    async def delete(self, tenant_id: TenantId, reason: str | None) -> TenantRecord:
        """See `TenantRegistry.delete`."""
        return await self._runner.run(tenant_id, "delete", partial(self._delete, reason), reason=reason)

    async def purge(self, tenant_id: TenantId, *, is_forced: bool) -> TenantRecord:
        """See `TenantRegistry.purge`."""
        return await self._runner.run(
            tenant_id, "purge", partial(self._purge, is_forced=is_forced), is_forced=is_forced
        )

    async def purge_expired(self, tenants_max: int) -> None:
        """Purge deleted tenants whose grace period has passed; what fails is audited and logged, and tried again later."""
        past = self._context.watch.surely_past(self._context.config.delete_grace_seconds)
        expired = await self._catalog.to_purge(past, tenants_max + len(self._purges))
        self._purges.keep_only({tenant.uid for tenant in expired})
        for tenant in expired:
            if self._purges.is_due(tenant.uid):
                await self._purge_expired(tenant)

    async def _purge_expired(self, tenant: TenantRecord) -> None:
        last_outcome = self._purges.last_outcome(tenant.uid)
        work = partial(self._purge, is_forced=False)
        try:
            await self._runner.run(tenant.id, "purge", work, last_outcome=last_outcome, is_forced=False)
        except TenantryError as error:
            self._purges.failed(tenant.uid, "purge", error.outcome)

    async def rename(self, tenant_id: TenantId, new_id: TenantId) -> TenantRecord:
        """See `TenantRegistry.rename`."""
        return await self._runner.run(tenant_id, "rename", partial(self._rename, new_id), new_id=new_id)

    async def repair(self, tenant_id: TenantId) -> TenantRecord:
        """See `TenantRegistry.repair`."""
        return await self._runner.run(tenant_id, "repair", self._repair)

    async def update(
        self, tenant_id: TenantId, revision: int | None, changes: dict[str, Any]
    ) -> TenantRecord:
        """See `TenantRegistry.update`."""
        with expecting(revision):
            return await self._runner.run(
                tenant_id, "update", partial(self._update, changes), **_as_detail(changes)
            )

    async def apply_limits(self, tenant: TenantRecord) -> None:
        """Apply the limits of this record to the tenant, if it is open here or about to be.

        Raises:
            PersistenceError: The limits of its database could not be applied; call again.
        """
        # An opening that is in progress may have read the old record.
        actor = await self._pool.opened(tenant.id)
        if actor is not None:
            await actor.apply_limits(tenant)

    async def new_tenant(self, tenant_id: TenantId, display_name: str) -> TenantRecord:
        """Return the entry of a tenant to be, not yet in the catalog.

        Raises:
            TenantExistsError: The id is taken.
            DataDirectoryError: Where its directory would be lies something that no tenant of the catalog owns.
        """
        found = await self._catalog.find(tenant_id)
        if found is not None and found.state.allows(Permission.EXIST):
            until = f", kept until {found.purge_after:%Y-%m-%d %H:%M} UTC" if found.purge_after else ""
            raise TenantExistsError(
                f"tenant {tenant_id!r} exists already ({found.state}{until})", tenant_id=tenant_id
            )
        now = self._context.clock.now()
        return TenantRecord(
            id=tenant_id,
            uid=uuid.uuid4().hex,
            location=await self._free_location(tenant_id),
            display_name=display_name,
            state=TenantState.PROVISIONING,
            created_at=now,
            state_changed_at=now,
        )

    async def provision(self, operation: Operation, tenant: TenantRecord) -> TenantRecord:
        """Open the new tenant through the pool, so that it counts among the open tenants, and call it active.

        What is missing of its database is made.
        """
        return await self._activate(
            operation, tenant, TenantEvent.PROVISION, await self._open(operation, tenant)
        )

    async def abort(self, tenant: TenantRecord) -> None:
        """Take back what was made of a tenant that never came to life, and that nobody could use."""
        await self._pool.close_tenant(tenant.id, "state")
        directory = self._paths(tenant).directory
        try:
            if not await run_in_thread(directory.exists):
                await self._forget(tenant, directory)
                return
            # Under the tenant's lock nobody can open it, and write to it, while its files go.
            async with owned_files(tenant, self._context, is_waited_for=False):
                if await self._catalog.find_by_uid(tenant.uid) == tenant:
                    await self._forget(tenant, directory)
        except (TenantOwnedElsewhereError, PersistenceConnectionError):
            return  # Whoever next opens a registry finishes it.

    async def _forget(self, tenant: TenantRecord, directory: Path) -> None:
        """Remove a tenant whose creation failed: its files first, then its entry.

        Files that came back after a power failure would belong to nobody, and its id could not be created again. Therefore their
        removal is synced before the entry goes, also if another process removed them: it may have died before its sync.
        """
        await run_in_thread(partial(_remove_directory, directory))
        await self._catalog.remove(tenant)

    async def _create(self, display_name: str, operation: Operation) -> TenantRecord:
        await operation.recover()
        tenant = await self.new_tenant(operation.tenant_id, display_name)
        operation.tenant_uid = tenant.uid
        async with self._runner.lock(tenant, "create"):
            await self._catalog.insert(tenant)
            operation.step("begun")
            try:
                lease = await self._open(operation, tenant)
            except TenantryError:
                await self.abort(tenant)
                raise
            return await self._activate(operation, tenant, TenantEvent.PROVISION, lease)

    async def _finish_create(self, operation: Operation, tenant: TenantRecord) -> None:
        await self.provision(operation, tenant)

    async def _apply(self, event: TenantEvent, reason: str | None, operation: Operation) -> TenantRecord:
        tenant = await operation.apply(await operation.get(), event, reason=reason)
        if not tenant.state.allows(Permission.STAY_OPEN):
            await self._close(tenant)
            operation.step("closed")
        return tenant

    async def _archive(self, reason: str | None, operation: Operation) -> TenantRecord:
        tenant = await operation.get()
        if has_happened(tenant.state, TenantEvent.ARCHIVE):
            return tenant
        async with operation.begun(tenant, TenantEvent.ARCHIVE, reason=reason) as archived:
            return await self._compact(operation, archived)

    async def _finish_archive(self, operation: Operation, tenant: TenantRecord) -> None:
        try:
            await self._compact(operation, tenant)
        except TenantryError:
            await operation.take_back(tenant)
            raise

    async def _compact(self, operation: Operation, tenant: TenantRecord) -> TenantRecord:
        await self._close(tenant)
        operation.step("closed")
        async with owned_files(tenant, self._context) as paths:
            await run_in_thread(partial(log_note.check_fits, paths.lock, paths.database))
            await run_in_thread(partial(maintenance.compact, paths.database))
        operation.step("compacted")
        return await operation.finish(tenant)

    async def _delete(self, reason: str | None, operation: Operation) -> TenantRecord:
        tenant = await operation.get()
        if tenant.deletion_protected:
            raise DeletionProtectedError(
                f"tenant {tenant.id!r} is protected from deletion: set deletion_protected to False first",
                tenant_id=tenant.id,
                state=tenant.state,
                event=TenantEvent.DELETE,
            )
        purge_after = tenant.purge_after
        if not has_happened(tenant.state, TenantEvent.DELETE):
            grace = timedelta(seconds=self._context.config.delete_grace_seconds)
            purge_after = self._context.clock.now() + grace
        tenant = await operation.apply(tenant, TenantEvent.DELETE, reason=reason, purge_after=purge_after)
        await self._close(tenant)
        operation.step("closed")
        return tenant

    async def _purge(self, operation: Operation, *, is_forced: bool) -> TenantRecord:
        tenant = await operation.find()
        if tenant is None:
            raise not_found(operation.tenant_id)
        if has_happened(tenant.state, TenantEvent.PURGE):
            return tenant
        if not is_forced:
            self._check_grace_is_over(tenant)
        if self.check_storage is not None:
            await self.check_storage()
        async with operation.begun(tenant, TenantEvent.PURGE, is_reversible=False) as purged:
            return await self._remove(operation, purged)

    def _check_grace_is_over(self, tenant: TenantRecord) -> None:
        if tenant.purge_after is None:
            return
        watch, grace_seconds = self._context.watch, self._context.config.delete_grace_seconds
        left_seconds = (tenant.purge_after - self._context.clock.now()).total_seconds()
        until = f"until {tenant.purge_after:%Y-%m-%d %H:%M} UTC"
        if left_seconds <= 0:
            if tenant.purge_after <= watch.surely_past(grace_seconds):
                return
            left_seconds = max(watch.held_seconds, 1.0)
            until = (
                f"for {left_seconds:.0f} s more, because the clock may have leapt past the end of its grace period (check the "
                "machine's clock)"
            )
        raise GracePeriodError(
            f"tenant {tenant.id!r} is kept {until}: purge it then, or now by force; it cannot be brought back",
            tenant_id=tenant.id,
            state=tenant.state,
            event=TenantEvent.PURGE,
            retry_after_seconds=left_seconds,
        )

    async def _finish_purge(self, operation: Operation, tenant: TenantRecord) -> None:
        await self._remove(operation, tenant)

    async def _remove(self, operation: Operation, tenant: TenantRecord) -> TenantRecord:
        await self._close(tenant)
        directory = self._paths(tenant).directory
        if await run_in_thread(directory.exists):
            async with owned_files(tenant, self._context):
                await run_in_thread(partial(_remove_directory, directory))
        else:
            # A process that removed it may have died before its sync.
            await run_in_thread(partial(_remove_directory, directory))
        operation.step("removed")
        await self._forget_snapshots(operation, tenant)
        return await operation.finish(tenant)

    async def _forget_snapshots(self, operation: Operation, tenant: TenantRecord) -> None:
        if self.forget_snapshots is None:
            return
        try:
            await self.forget_snapshots(tenant)
        except SnapshotError as error:
            count = error.objects if isinstance(error, ObjectsLeftError) else None
            await operation.note(tenant, **{OBJECTS_LEFT: "" if count is None else str(count)})
            raise SnapshotError(
                f"tenant {tenant.id!r} is purged, but not its snapshots, and the id is not free before they are: {error}",
                is_retryable=error.is_retryable,
            ) from error
        operation.step("forgotten")

    async def _rename(self, new_id: TenantId, operation: Operation) -> TenantRecord:
        tenant = await operation.find()
        if tenant is None or not tenant.state.allows(Permission.CHANGE):
            renamed = await self._catalog.find(new_id)
            if (
                renamed is None
                or not renamed.state.allows(Permission.EXIST)
                or renamed.previous_id != operation.tenant_id
            ):
                raise not_found(operation.tenant_id)
            return renamed
        if new_id == tenant.id:
            return tenant
        taken = await self._catalog.find(new_id)
        if taken is not None and taken.state.allows(Permission.EXIST):
            raise TenantExistsError(f"tenant {new_id!r} exists already", tenant_id=new_id)
        async with self._pool.held(tenant.id, "rename"), operation.begun(tenant) as under_way:
            # A process that had it open under the old id would serve it to whoever takes that id next.
            if await run_in_thread(self._paths(tenant).directory.exists):
                async with owned_files(under_way, self._context):
                    operation.step("closed")
            self._opener.forget_opened(tenant.id)
            return await operation.finish(under_way, id=new_id, previous_id=tenant.id)

    async def _repair(self, operation: Operation) -> TenantRecord:
        tenant = await operation.get()
        if next_state(tenant.state, TenantEvent.REPAIR, tenant_id=tenant.id) is tenant.state:
            return tenant
        async with operation.begun(tenant) as damaged:
            async with owned_files(damaged, self._context) as paths:
                await run_in_thread(partial(log_note.check_fits, paths.lock, paths.database, is_strict=True))
                with self._runner.preparing():
                    await run_in_thread(partial(maintenance.repair, paths.database))
            operation.step("checked")
            return await self._activate(
                operation, damaged, TenantEvent.REPAIR, await self._open(operation, damaged)
            )

    async def _update(self, changes: dict[str, Any], operation: Operation) -> TenantRecord:
        tenant = await operation.get()
        changed = {name: value for name, value in changes.items() if getattr(tenant, name) != value}
        tenant = await operation.change(tenant, **changed) if changed else tenant
        if "limits" in changes:
            # Also if the catalog has them already: an earlier call may have come no further.
            await self.apply_limits(tenant)
        return tenant

    async def _take_back(self, operation: Operation, tenant: TenantRecord) -> None:
        await operation.take_back(tenant)

    async def _open(self, operation: Operation, tenant: TenantRecord) -> Lease:
        """Open a tenant that does not serve its callers yet."""
        with self._opener.opening_for_operation(tenant):
            lease = await self._pool.lease(tenant.id)
        operation.step("opened")
        return lease

    async def _activate(
        self, operation: Operation, tenant: TenantRecord, event: TenantEvent, lease: Lease
    ) -> TenantRecord:
        """Let the event make an open tenant active, and give the lease back.

        Callers may use it already: they asked for it while it opened. So if this fails it is closed, and nothing of it removed.
        """
        try:
            return await operation.finish(
                tenant,
                state=next_state(tenant.state, event, tenant_id=tenant.id),
                reason=None,
                state_changed_at=self._context.clock.now(),
                schema_versions=lease.actor.schema_versions,
            )
        except TenantryError:
            await self._close(tenant)
            raise
        finally:
            self._pool.release(lease)

    async def _close(self, tenant: TenantRecord) -> None:
        self._opener.forget_opened(tenant.id)
        await self._pool.close_tenant(tenant.id, "state")

    async def _free_location(self, tenant_id: TenantId) -> str:
        """Return the location of a new tenant: its id, or the id with a counter if another tenant's location is that id."""
        taken = await self._catalog.locations(tenant_id)
        names = (tenant_id, *(f"{tenant_id}.{number}" for number in range(1, len(taken) + 1)))
        name = next(name for name in names if name not in taken)
        directory = tenant_paths(self._context.config.data_dir, name).directory
        if await run_in_thread(directory.exists):
            # Whatever lies there, this catalog does not know it: never to be taken over, or removed when creating fails.
            raise DataDirectoryError(
                f"{directory} exists and belongs to no tenant in the catalog: restore the catalog that knows it, or move "
                "the directory away",
                path=str(directory),
            )
        return name

    def _paths(self, tenant: TenantRecord) -> TenantPaths:
        return tenant_paths(self._context.config.data_dir, tenant.location)


def _as_detail(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value
        for name, value in changes.items()
    }


def _remove_directory(directory: Path) -> None:
    try:
        remove_tree(directory)
    except OSError as error:
        raise DataDirectoryError(f"cannot remove {directory}: {error}", path=str(directory)) from error
