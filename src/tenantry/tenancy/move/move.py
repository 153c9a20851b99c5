"""Move a tenant to another back end, while its callers keep reading and writing.

    ``begun``      The intent, which names the new place, is in the catalog. Callers are served until the switch.
    ``journaled``  The original records the keys of changed rows; see `tenantry.storage.moves`.
    ``copied``     A copy is in a scratch directory, and a snapshot of the tenant is stored.
    ``placed``     The copy is at the new place.
    ``caught_up``  The copy lacks only the changes of the last moment.
    ``closed``     No process has the tenant open, and callers wait. The copy equals the original.
    ``switched``   The catalog names the new place, and callers continue there.
    ``removed``    The original is removed.
    ``finished``   The intent is cleared.

The pause of the callers is the time from the closing to the switch. It contains one pass over the changes of the last moment. The
number of rows of each table is compared before the pause, in one snapshot, because counting takes longer for larger tenants. Every
row that a pass copies is compared when it is copied.

A failure before the switch removes the journal and the copy, and the original continues to serve. If the copy's back end cannot be
reached, the registry removes the copy later, and until then other operations on the tenant are refused as busy. After a crash, a move that has not
switched is rolled back, and a move that has switched is finished. The switch is one compare-and-set of the tenant's record, so a
rollback first changes the record: only one of the two takes effect.

The original is not kept. Its snapshot, which a move takes in any case, is kept as long as other snapshots. Unlike the original, the
snapshot can be restored on every back end, is listed, and is deleted with the tenant.
"""

import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Final

import anyio

from tenantry.events import TenantMoved
from tenantry.storage.protocol import Backend, Place
from tenantry.tenancy.catalog.catalog import StaleTenantError
from tenantry.tenancy.move import phase
from tenantry.tenancy.move.phase import MovePhase
from tenantry.tenancy.move.plan import MovePlan, check_movable, check_tables, plan_move
from tenantry.tenancy.move.replication import Replication, tables_changed
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.snapshots.take_snapshot import TakeSnapshot
from tenantry.tenancy.snapshots.tools import SnapshotTools
from tenantry.tenancy.tenant_record import TenantRecord

SNAPSHOT_TRIGGER: Final = "move"


@dataclass(slots=True)
class _Progress:
    """What a running move has done.

    Attributes:
        snapshot_id: The snapshot that the move has taken.
        versions: The schema versions of the copy.
        rows: The number of rows in the copy.
        pause_seconds: The time for which the callers waited.
    """

    replication: Replication
    snapshot_id: str = ""
    versions: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    pause_seconds: float = 0.0


class Move:
    """Moves tenants to other back ends."""

    action = phase.ACTION

    def __init__(self, tools: SnapshotTools, take_snapshot: TakeSnapshot) -> None:
        self._tools = tools
        self._operations = tools.operations
        self._take_snapshot = take_snapshot

    async def plan(self, tenant: TenantRecord, to: str) -> MovePlan:
        """See `TenantRegistry.plan_move`."""
        return await plan_move(self._operations, tenant, self._operations.backends.of(to))

    async def run(self, operation: Operation, *, to: str) -> TenantRecord:
        """See `TenantRegistry.move`."""
        tenant = await operation.get()
        target = self._operations.backends.of(to)
        if tenant.backend == to:
            operation.detail["is_moved"] = False
            return tenant
        check_movable(tenant, target)
        source = self._operations.backend_of(tenant)
        check_tables(tenant, await source.original(tenant.place).tables())
        await self._operations.recorded_schemas.check()
        taken = await self._operations.catalog.locations(target.location_of(tenant.id))
        location = await target.new_location(tenant.id, taken)
        arguments = phase.arguments_of(tenant, to, location)
        started = time.monotonic()
        async with operation.begun(tenant, arguments=arguments, is_reversible=False) as moving:
            progress = _Progress(Replication(moving, source, target, location))
            switched = await self._switch_or_roll_back(operation, moving, progress)
            operation.detail |= {"rows": progress.rows, "pause_seconds": round(progress.pause_seconds, 3)}
            moved = await self._complete(operation, switched)
        await self._take_snapshot.apply_retention(moved, progress.snapshot_id)
        seconds = time.monotonic() - started
        self._operations.context.report(
            TenantMoved(tenant.id, tenant.backend, to, progress.rows, seconds, progress.pause_seconds)
        )
        return moved

    async def finish(self, operation: Operation, tenant: TenantRecord) -> None:
        """Finish a move whose process died after the switch, or roll the move back."""
        if phase.phase_of(tenant) is MovePhase.SWITCHED:
            await self._complete(operation, tenant)
        else:
            await self._roll_back(operation, tenant, has_journal=True)

    async def _switch_or_roll_back(
        self, operation: Operation, moving: TenantRecord, progress: _Progress
    ) -> TenantRecord:
        try:
            return await self._copy_and_switch(operation, moving, progress)
        except Exception:
            with anyio.CancelScope(shield=True):
                # A switch whose commit was reported as failed may have taken effect.
                latest = await self._operations.catalog.find_by_uid(moving.uid)
                if latest is None or not operation.owns(latest):
                    raise
                if phase.phase_of(latest) is MovePhase.SWITCHED:
                    return latest
                await self._roll_back(operation, latest, has_journal=progress.replication.has_journal)
            raise

    async def _copy_and_switch(
        self, operation: Operation, moving: TenantRecord, progress: _Progress
    ) -> TenantRecord:
        replication = progress.replication
        async with AsyncExitStack() as stack:
            lease = stack.enter_context(ExitStack())
            if moving.is_served and self._operations.opener.is_behind(moving):
                # Opening migrates the tenant. A migration during the move would change the tables that the journal is about.
                self._operations.pool.release(await self._operations.take_over(moving, self.action))
            await self._install(operation, moving, replication)
            if moving.is_served:
                # The lease keeps the tenant open, and so the log from which the passes read.
                held = await self._operations.take_over(moving, self.action)
                lease.callback(self._operations.pool.release, held)
            await self._place_copy(operation, moving, progress)
            await stack.enter_async_context(replication.connected())
            if moving.is_served:
                with operation.preparing():
                    await replication.catch_up()
            operation.step("caught_up")
            lease.close()
            return await self._switch(operation, moving, progress)

    async def _install(self, operation: Operation, moving: TenantRecord, replication: Replication) -> None:
        async with (
            self._operations.pool.held(moving.id, self.action),
            self._operations.exclusive(moving, self.action),
        ):
            await replication.install_journal()
        operation.step("journaled")

    async def _place_copy(self, operation: Operation, moving: TenantRecord, progress: _Progress) -> None:
        target, place = self._target(moving)
        async with self._tools.scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing():
                report = await self._tools.copies.copy(moving, database)
                taken = await self._take_snapshot.store_copy(moving, database, report, SNAPSHOT_TRIGGER)
            progress.versions = report.schema_versions
            progress.rows = progress.replication.rows(report.row_counts)
            progress.snapshot_id = operation.detail["snapshot_id"] = taken.id
            operation.step("copied")
            with operation.preparing():
                await target.adopt(place, database)
        await progress.replication.prepare_copy()
        operation.step("placed")

    async def _switch(self, operation: Operation, moving: TenantRecord, progress: _Progress) -> TenantRecord:
        """Make the copy the tenant's database, while the callers wait."""
        started = time.monotonic()
        # Hold the tenant first, so that its callers wait. Without the hold, a caller that found the intent would be refused.
        async with self._operations.pool.held(moving.id, self.action):
            try:
                switched = await self._switch_held(operation, moving, progress)
            except Exception:
                with anyio.CancelScope(shield=True):
                    await self._give_up_switch(operation, moving)
                raise
            self._operations.opener.forget_opened(moving.id)
        progress.pause_seconds = time.monotonic() - started
        return switched

    async def _switch_held(
        self, operation: Operation, moving: TenantRecord, progress: _Progress
    ) -> TenantRecord:
        catalog = self._operations.catalog
        source = self._operations.backend_of(moving)
        switching = await catalog.change(moving, intent=phase.with_phase(moving, MovePhase.SWITCHING))
        async with self._operations.exclusive(moving, self.action):
            if await source.closed_versions(moving.place) not in (None, progress.versions):
                raise tables_changed(moving)
            await progress.replication.complete(is_counted=not moving.is_served)
            operation.step("closed")
            moved = phase.moved(switching) | {"schema_versions": progress.versions}
            switched = await catalog.change(switching, **moved)
            operation.step("switched")
        return switched

    async def _give_up_switch(self, operation: Operation, moving: TenantRecord) -> None:
        """Let the original serve the callers again, unless the switch has taken effect."""
        latest = await self._operations.catalog.find_by_uid(moving.uid)
        if latest is not None and operation.owns(latest) and phase.phase_of(latest) is MovePhase.SWITCHING:
            await self._operations.catalog.change(latest, intent=phase.with_phase(latest, MovePhase.DROPPING))

    async def _complete(self, operation: Operation, tenant: TenantRecord) -> TenantRecord:
        """Remove the original of a tenant that has moved, and clear the intent."""
        name, place = phase.source_of(tenant)
        source = self._operations.backends.of(name)
        async with self._operations.owners.exclusive(source, place, self.action) as closed:
            await self._check_owned(operation, tenant)
            await closed.remove()
        target, place = self._target(tenant)
        await target.replica(place).validate_rules()
        operation.step("removed")
        return await operation.complete(tenant)

    async def _roll_back(self, operation: Operation, tenant: TenantRecord, *, has_journal: bool) -> None:
        """Remove the copy and the journal of a move that has not switched, and clear the intent."""
        if phase.phase_of(tenant) is not MovePhase.DROPPING:
            # If a switch is still being committed, either this change or the switch fails with a StaleTenantError.
            dropping = phase.with_phase(tenant, MovePhase.DROPPING)
            tenant = await self._operations.catalog.change(tenant, intent=dropping)
        if has_journal:
            source = self._operations.backend_of(tenant)
            async with (
                self._operations.pool.held(tenant.id, self.action),
                self._operations.exclusive(tenant, self.action),
            ):
                await source.original(tenant.place).remove()
        # The copy is removed last: its back end may be unreachable, and then the intent stays until the copy can be removed.
        target, place = self._target(tenant)
        async with target.exclusive(place, is_waited_for=False) as copy:
            await self._check_owned(operation, tenant)
            await copy.remove()
        await operation.take_back(tenant)

    async def _check_owned(self, operation: Operation, tenant: TenantRecord) -> None:
        """Raise unless this move still runs: after another process has finished it, the tenant may have moved to this place again."""
        if not operation.owns(await self._operations.catalog.find_by_uid(tenant.uid)):
            raise StaleTenantError(tenant.id)

    def _target(self, tenant: TenantRecord) -> tuple[Backend, Place]:
        name, place = phase.target_of(tenant)
        return self._operations.backends.of(name), place
