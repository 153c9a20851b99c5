"""Puts another database in the place of a tenant's, in one rename, and keeps the one that was there.

Theory of operation. The new database is made ready in a scratch directory, checked and migrated, before anything is
decided. Then the tenant is closed here and its callers wait, and after the intent is written:

    placed    the new database is staged beside the tenant's
    closed    the tenant is closed elsewhere too, and its lock is taken
    kept      the old database is kept as a restore point
    exchanged the new one is in its place
    finished  the intent is gone and callers go on

The intent contains the name of the restore point, which is this restore's own. The back end does the steps on the database
(`RestorePoints`, `ClosedDatabase`), and tells after a crash whether any of them was done: then the rest is done again.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import anyio

from tenantry.errors import (
    DatabaseCorruptError,
    SnapshotCorruptError,
    SnapshotNotFoundError,
    TenantStateError,
)
from tenantry.lifecycle import Permission, TenantEvent, next_state
from tenantry.schema import Schema
from tenantry.storage import artifacts
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.runner import Finisher
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.snapshots.archive import SnapshotArchive
from tenantry.tenancy.snapshots.scratch import Scratch, named
from tenantry.tenancy.snapshots.snapshot import begin_of_ids, check_snapshot_id, new_snapshot_id
from tenantry.tenancy.tenant_record import TenantRecord

POINTS_KEPT_MAX: Final = 3
"""How many replaced databases are kept of a tenant; the oldest goes first."""

POINT_PREFIX: Final = "before-"
_UNDONE: Final = "undone:"
REPLACE_FILE: Final = "replace_file"


class Restorer:
    """Restores tenants and undoes it."""

    def __init__(
        self,
        tools: OperationTools,
        archive: SnapshotArchive,
        scratch: Scratch,
        schemas: Sequence[Schema],
    ) -> None:
        self._catalog = tools.catalog
        self._context = tools.context
        self._pool = tools.pool
        self._archive = archive
        self._backend = tools.backend
        self._scratch = scratch
        self._schemas = schemas

    @property
    def finishers(self) -> dict[str, Finisher]:
        """How each of the operations is finished after a crash, by action."""
        return dict.fromkeys(("restore", "undo_restore", REPLACE_FILE), self._finish_leftover)

    async def restore(self, snapshot_id: str, operation: Operation, *, is_migrated: bool) -> TenantRecord:
        """See `Snapshots.restore`."""
        tenant = await operation.get()
        _check_restorable(tenant, "restore")
        async with self._scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing():
                if snapshot_id.startswith(POINT_PREFIX):
                    await self._bring_point(tenant, snapshot_id, database)
                else:
                    await self._bring_snapshot(tenant, snapshot_id, database)
            return await self._replace(operation, tenant, database, is_migrated=is_migrated)

    async def replace_file(
        self, path: Path, owner: str | None, accepted_tables: Collection[str], operation: Operation
    ) -> TenantRecord:
        """See `Snapshots.replace_file`."""
        tenant = await operation.get()
        _check_restorable(tenant, REPLACE_FILE)
        async with self._scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing(), named(database, str(path)):
                await artifacts.copy_file(path, database)
                await artifacts.check_schema(database, self._schemas, accepted_tables)
                await _check_owner(database, tenant, owner, operation)
                if owner is not None and owner != tenant.uid:
                    await artifacts.assign_to(database, tenant.uid)
            return await self._replace(operation, tenant, database, is_migrated=True)

    async def undo(self, operation: Operation) -> TenantRecord:
        """See `Snapshots.undo_restore`."""
        tenant = await operation.get()
        if tenant.restore_point is None:
            raise SnapshotNotFoundError(
                f"tenant {tenant.id!r} has nothing to undo: it was never restored, or its last restore replaced no file, or that file was dropped"
            )
        if tenant.restore_point.startswith(_UNDONE):
            return tenant
        _check_restorable(tenant, "undo_restore")
        async with self._scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing():
                await self._bring_point(tenant, tenant.restore_point, database)
            return await self._replace(operation, tenant, database, is_migrated=True)

    async def points(self, tenant: TenantRecord) -> Sequence[str]:
        """Return the names of the replaced databases that are kept of the tenant, oldest first."""
        return await self._backend.points(tenant.place).names()

    async def drop_point(self, point: str, operation: Operation) -> None:
        """See `Snapshots.drop_point`."""
        tenant = await operation.get()
        check_snapshot_id(point, prefix=POINT_PREFIX)
        if tenant.restore_point in {point, f"{_UNDONE}{point}"}:
            await operation.change(tenant, restore_point=None)
        await self._backend.points(tenant.place).remove(point)

    async def _bring_snapshot(self, tenant: TenantRecord, snapshot_id: str, database: Path) -> None:
        manifest = await self._archive.manifest(tenant.uid, snapshot_id)
        report = await self._archive.fetch(manifest, database)
        if report.tenant_uid != tenant.uid:
            raise SnapshotCorruptError(f"snapshot {snapshot_id!r} is the database of another tenant")

    async def _bring_point(self, tenant: TenantRecord, point: str, database: Path) -> None:
        points = self._backend.points(tenant.place)
        if not await points.exists(check_snapshot_id(point, prefix=POINT_PREFIX)):
            raise SnapshotNotFoundError(
                f"there is no {point!r} of tenant {tenant.id!r} any more: the last {POINTS_KEPT_MAX} are kept",
                snapshot_id=point,
            )
        try:
            await points.copy_to(point, database)
        except DatabaseCorruptError as error:
            raise SnapshotCorruptError(str(error)) from error

    async def _replace(
        self, operation: Operation, tenant: TenantRecord, database: Path, *, is_migrated: bool
    ) -> TenantRecord:
        """Make a database ready and put it in the place of the tenant's."""
        with operation.preparing():
            versions = await self._backend.prepare(database) if is_migrated else None
        await artifacts.make_durable(database)
        point = f"{POINT_PREFIX}{new_snapshot_id(self._context.clock.now())}"
        operation.detail["point"] = point
        points = self._backend.points(tenant.place)
        arguments = {"point": point, "is_migrated": "yes" if is_migrated else None}
        # Held from before the intent on: a caller that finds the intent in the catalog is refused, and one that is held waits.
        async with (
            self._pool.held(tenant.id, operation.action),
            operation.begun(tenant, arguments=arguments, is_reversible=False) as restoring,
        ):
            try:
                await points.stage(point, database)
                operation.step("placed")
                return await self._exchange(operation, restoring, versions)
            except Exception:
                with anyio.CancelScope(shield=True):
                    if await points.unstage(point):
                        await operation.take_back(restoring)
                raise

    async def _exchange(
        self, operation: Operation, tenant: TenantRecord, versions: dict[str, int] | None
    ) -> TenantRecord:
        """Exchange the databases of a tenant that is held."""
        assert tenant.intent is not None
        point = tenant.intent.arguments["point"]
        assert point is not None
        operation.step("closed")
        async with self._backend.exclusive(tenant.place) as closed:
            await closed.keep(point, is_as_found=operation.action == REPLACE_FILE)
            operation.step("kept")
            await closed.exchange(point)
            operation.step("exchanged")
        known = {} if versions is None else {"schema_versions": versions, "last_error": None}
        # Damage of the database that is gone may have been noted meanwhile.
        latest = await self._catalog.find_by_uid(tenant.uid) or tenant
        points = self._backend.points(tenant.place)
        is_kept = await points.exists(point)
        undone = f"{_UNDONE}{point}" if operation.action == "undo_restore" else point
        restored = await operation.complete(
            latest,
            restore_point=undone if is_kept else None,
            **self._as_active(latest),
            **known,
        )
        latest_plausible = f"{POINT_PREFIX}{begin_of_ids(self._context.watch.latest_plausible())}"
        await points.forget_old(point, latest=latest_plausible, kept_max=POINTS_KEPT_MAX)
        return restored

    def _as_active(self, tenant: TenantRecord) -> dict[str, object]:
        """Return what changes because the database is sound now: a quarantined tenant serves calls again.

        Not if it was not migrated: that may be what it was quarantined for.
        """
        assert tenant.intent is not None
        is_migrated = tenant.intent.arguments["is_migrated"] is not None
        if not tenant.state.allows(TenantEvent.REPAIR) or not is_migrated:
            return {}
        repaired = next_state(tenant.state, TenantEvent.REPAIR, tenant_id=tenant.id)
        return {"state": repaired, "reason": None, "state_changed_at": self._context.clock.now()}

    async def _finish_leftover(self, operation: Operation, tenant: TenantRecord) -> None:
        assert tenant.intent is not None
        point = tenant.intent.arguments["point"]
        assert point is not None
        if await self._backend.points(tenant.place).has_begun(point):
            async with self._pool.held(tenant.id, operation.action):
                await self._exchange(operation, tenant, None)
        else:
            await operation.take_back(tenant)


async def _check_owner(database: Path, tenant: TenantRecord, owner: str | None, operation: Operation) -> None:
    """Check a database thoroughly, and that it is the tenant's, or the one whose key was given.

    Raises:
        SnapshotCorruptError: It is another tenant's.
        DatabaseCorruptError: It is damaged.
    """
    report = await artifacts.check(database, is_thorough=True)
    operation.detail["sha256"] = await artifacts.digest(database)
    if report.tenant_uid not in {tenant.uid, owner} or report.tenant_uid is None:
        if report.tenant_uid is None:
            mark, advice = "no tenant", "give a file that tenantry made"
        else:
            mark = f"the tenant with the uid {report.tenant_uid!r}"
            advice = f"give the right file, or make this one the tenant's with the owner {report.tenant_uid} (--owner, or owner in Python)"
        raise SnapshotCorruptError(
            f"the file is marked as the database of {mark}, and tenant {tenant.id!r} has the uid {tenant.uid!r}: {advice}"
        )


def _check_restorable(tenant: TenantRecord, action: str) -> None:
    if not tenant.state.allows(Permission.RESTORE):
        raise TenantStateError(
            f"tenant {tenant.id!r} is {tenant.state}: {action} is not possible (undelete it first)",
            tenant_id=tenant.id,
            state=tenant.state,
            event=action,
        )
