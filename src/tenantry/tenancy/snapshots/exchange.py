"""Replace a tenant's database and keep the old database as a restore point. All kinds of restores share these steps.

The new database is copied, checked and migrated in a scratch directory. Then the tenant is closed in this process, its callers
wait, and the intent is written:

    ``begun``      The intent, which names this restore's own restore point, is in the catalog.
    ``placed``     The new database is staged beside the tenant's database. On a database server this takes as long as loading all
                   rows, so there it is done before the tenant is closed.
    ``closed``     The exchange begins: other processes close the tenant, and this process locks the tenant.
    ``kept``       The old database is a restore point.
    ``exchanged``  The new database has replaced the old database, with one rename.
    ``finished``   The intent is cleared, and callers continue.

If a step before the exchange fails, the restore is rolled back. After a crash, a restore that staged or kept a database
(`RestorePoints.has_begun`) is finished, and any other restore is rolled back. A database that was staged without an intent is
replaced by the next restore, and removed with the tenant.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

import anyio

from tenantry.errors import (
    DatabaseCorruptError,
    SnapshotCorruptError,
    SnapshotNotFoundError,
    TenantryError,
    TenantStateError,
)
from tenantry.lifecycle import Permission, TenantEvent, next_state
from tenantry.storage import artifacts
from tenantry.storage.protocol import Capability, RestorePoints
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.snapshots.snapshot import begin_of_ids, check_snapshot_id, new_snapshot_id
from tenantry.tenancy.snapshots.tools import SnapshotTools
from tenantry.tenancy.tenant_record import TenantRecord

RESTORE_POINTS_MAX: Final = 3
"""The largest number of restore points of a tenant; older restore points are deleted."""

POINT_PREFIX: Final = "before-"
"""The prefix of restore points' names; the prefix distinguishes restore points from snapshots."""

_UNDONE: Final = "undone:"


class Exchange:
    """The base class of operations that exchange a tenant's database; subclasses have an `action` and a method `run`.

    Attributes:
        is_kept_as_found: Whether to keep the old database and its log unchanged, instead of merging the log into the database.
        is_undo: Whether the exchange undoes the tenant's previous exchange.
    """

    is_kept_as_found = False
    is_undo = False

    def __init__(self, tools: SnapshotTools) -> None:
        self._tools = tools
        self._operations = tools.operations

    async def exchange(
        self, operation: Operation, tenant: TenantRecord, database: Path, *, is_migrated: bool
    ) -> TenantRecord:
        """Prepare a checked database, and replace the tenant's database with the prepared database."""
        context = self._operations.context
        if is_migrated:
            await self._operations.recorded_schemas.check()
        with operation.preparing():
            versions = await self._operations.backend_of(tenant).prepare(database) if is_migrated else None
        await artifacts.make_durable(database)
        point = f"{POINT_PREFIX}{new_snapshot_id(context.clock.now())}"
        operation.detail["point"] = point
        backend = self._operations.backend_of(tenant)
        points = backend.points(tenant.place)
        is_loaded = Capability.SHARED in backend.capabilities
        arguments = {"point": point, "is_migrated": "yes" if is_migrated else None}
        # Hold the tenant before the intent, so that its callers wait: a caller that found the intent would be refused.
        async with (
            operation.lock(tenant),
            _loaded(points, point, database) if is_loaded else nullcontext(),
            self._operations.pool.held(tenant.id, operation.action),
            operation.begun(tenant, arguments=arguments, is_reversible=False, is_locked=True) as restoring,
        ):
            try:
                if not is_loaded:
                    await points.stage(point, database)
                operation.step("placed")
                return await self._exchange_held(operation, restoring, versions)
            except Exception:
                with anyio.CancelScope(shield=True):
                    if await points.unstage(point):
                        await operation.take_back(restoring)
                raise

    async def finish(self, operation: Operation, tenant: TenantRecord) -> None:
        """Finish an exchange whose process died, or roll the exchange back if nothing was staged."""
        if await self._operations.backend_of(tenant).points(tenant.place).has_begun(_point_of(tenant)):
            async with self._operations.pool.held(tenant.id, operation.action):
                await self._exchange_held(operation, tenant, None)
        else:
            await operation.take_back(tenant)

    async def _exchange_held(
        self, operation: Operation, tenant: TenantRecord, versions: dict[str, int] | None
    ) -> TenantRecord:
        """Exchange the database of a held tenant."""
        point = _point_of(tenant)
        operation.step("closed")
        async with self._operations.exclusive(tenant, operation.action) as closed:
            await closed.keep(point, is_as_found=self.is_kept_as_found)
            operation.step("kept")
            await closed.exchange(point)
            operation.step("exchanged")
        if versions is not None:
            await self._operations.recorded_schemas.record()
        known = {} if versions is None else {"schema_versions": versions, "last_error": None}
        # Read the record again: damage to the old database may have been recorded after the intent was written.
        latest = await self._operations.catalog.find_by_uid(tenant.uid) or tenant
        points = self._operations.backend_of(tenant).points(tenant.place)
        restored = await operation.complete(
            latest,
            restore_point=await self._restore_point(points, point),
            **self._changes_of_state(latest),
            **known,
        )
        await self._remove_old(points, point)
        return restored

    async def _restore_point(self, points: RestorePoints, point: str) -> str | None:
        """Return the restore point's entry in the tenant's record; None if there was no database to keep."""
        if not await points.exists(point):
            return None
        return f"{_UNDONE}{point}" if self.is_undo else point

    async def _remove_old(self, points: RestorePoints, point: str) -> None:
        latest = f"{POINT_PREFIX}{begin_of_ids(self._operations.context.watch.latest_plausible())}"
        await points.remove_old(point, latest=latest, kept_max=RESTORE_POINTS_MAX)

    def _changes_of_state(self, tenant: TenantRecord) -> dict[str, object]:
        """Return the changes that make a quarantined tenant serve calls again, now that its database is sound.

        If the new database was not migrated, the tenant stays quarantined: a failing migration may have caused the quarantine.
        """
        assert tenant.intent is not None
        is_migrated = tenant.intent.arguments["is_migrated"] is not None
        if not tenant.state.allows(TenantEvent.REPAIR) or not is_migrated:
            return {}
        repaired = next_state(tenant.state, TenantEvent.REPAIR, tenant_id=tenant.id)
        return {"state": repaired, "reason": None, "state_changed_at": self._operations.context.clock.now()}


@asynccontextmanager
async def _loaded(points: RestorePoints, point: str, database: Path) -> AsyncIterator[None]:
    """Stage the database before the block; if the block fails, remove the staged database unless the databases were exchanged."""
    try:
        await points.stage(point, database)
        yield
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(TenantryError):
            await points.unstage(point)
        raise


def check_restorable(tenant: TenantRecord, action: str) -> None:
    """Raise `TenantStateError` unless the tenant's state allows a restore."""
    if not tenant.state.allows(Permission.RESTORE):
        raise TenantStateError(
            f"tenant {tenant.id!r} is {tenant.state}: {action} is not possible (undelete it first)",
            tenant_id=tenant.id,
            state=tenant.state,
            event=action,
        )


def is_undone(tenant: TenantRecord) -> bool:
    """Return whether the tenant's last restore was undone."""
    return tenant.restore_point is not None and tenant.restore_point.startswith(_UNDONE)


def is_last_point(tenant: TenantRecord, point: str) -> bool:
    """Return whether the tenant's last restore, or the undo of that restore, made this restore point."""
    return tenant.restore_point in {point, f"{_UNDONE}{point}"}


async def copy_point(tools: OperationTools, tenant: TenantRecord, point: str, database: Path) -> None:
    """Copy a restore point of the tenant into a new file, and check the copy.

    Raises:
        SnapshotNotFoundError: The tenant has no such restore point.
        SnapshotCorruptError: The restore point is damaged, or is another tenant's database; the restore point stays unchanged.
        SnapshotError: The restore point cannot be copied.
    """
    points = tools.backend_of(tenant).points(tenant.place)
    if not await points.exists(check_snapshot_id(point, prefix=POINT_PREFIX)):
        raise SnapshotNotFoundError(
            f"tenant {tenant.id!r} has no restore point {point!r}: only the last {RESTORE_POINTS_MAX} restore points are kept",
            snapshot_id=point,
        )
    try:
        await points.copy_to(point, database)
        owner = await artifacts.owner_of(database)
    except DatabaseCorruptError as error:
        raise SnapshotCorruptError(str(error)) from error
    if owner not in {tenant.uid, None}:
        raise SnapshotCorruptError(
            f"restore point {point!r} of tenant {tenant.id!r} contains the database of another tenant (its mark is {owner!r})"
        )


def _point_of(tenant: TenantRecord) -> str:
    """Return the name of the restore point in the tenant's intent."""
    assert tenant.intent is not None
    point = tenant.intent.arguments["point"]
    assert point is not None
    return point
