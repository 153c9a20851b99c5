"""Snapshots of tenants: take, list, restore and test them. The public face is `registry.snapshots`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tenantry.errors import SnapshotCorruptError, SnapshotNotFoundError, TenantryError
from tenantry.ids import parse_tenant_id
from tenantry.sql.statements import Statement
from tenantry.tenancy.catalog import audit
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.runner import OperationRunner
from tenantry.tenancy.snapshot_storage.owner import StorageMark, StorageOwner
from tenantry.tenancy.snapshots.drill import DrillReport, try_newest
from tenantry.tenancy.snapshots.exchange import POINT_PREFIX, is_last_point
from tenantry.tenancy.snapshots.replace_file import ReplaceFile
from tenantry.tenancy.snapshots.restore import Restore
from tenantry.tenancy.snapshots.snapshot import Snapshot, check_snapshot_id, newest_first
from tenantry.tenancy.snapshots.take_snapshot import TakeSnapshot
from tenantry.tenancy.snapshots.tools import SnapshotTools
from tenantry.tenancy.snapshots.undo_restore import UndoRestore
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.texts import check_trigger

DRILL_SAMPLE_DEFAULT: Final = 10


class StoredSnapshots(NamedTuple):
    """The snapshots of a tenant.

    Attributes:
        sound: The snapshots, newest first.
        damaged: The ids of those with a damaged manifest, newest first. They can only be deleted.
    """

    sound: list[Snapshot]
    damaged: list[str]


@dataclass(frozen=True, slots=True)
class SnapshotOperations:
    """The operations on snapshots that have a file of their own."""

    take_snapshot: TakeSnapshot
    restore: Restore
    undo_restore: UndoRestore
    replace_file: ReplaceFile


class Snapshots:
    """Takes, lists, restores and deletes snapshots of tenants. Use `registry.snapshots`.

    The keywords ``by`` and ``if_revision`` are those of `TenantRegistry`'s operations.
    """

    def __init__(
        self,
        runner: OperationRunner,
        tools: SnapshotTools,
        operations: SnapshotOperations,
        owner: StorageOwner,
    ) -> None:
        self._runner = runner
        self._tools = tools
        self._operations = operations
        self._owner = owner
        self._context = tools.operations.context
        self._catalog = tools.operations.catalog
        self._backend = tools.operations.backend
        self._archive = tools.archive

    async def create(self, tenant_id: str, *, trigger: str = "manual", by: str | None = None) -> Snapshot:
        """Take a snapshot of the tenant's present state, check it, store it, and return it.

        It contains every write that was acknowledged before this call. The tenant's calls continue while it is taken. A tenant's
        snapshots are taken one at a time. Afterwards old snapshots are deleted, as ``snapshots_kept_max`` and
        ``snapshot_age_seconds_max`` say, but never the newest. Cancellation stops the waiting, not the snapshot.

        Args:
            tenant_id: The tenant, in any state in which it has a database.
            trigger: Why, in one word of lower-case letters, digits and ``-``.
            by: Who does it, for the audit, see the class.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            QueryError: The trigger is not valid.
            DatabaseCorruptError, TenantQuarantinedError: The tenant's database is damaged. A tenant that served calls is
                quarantined.
            SnapshotError: The tenant was closed before the copy ended, for example by `suspend`, or the storage refuses; try again.
            StorageFullError: There is no space for the snapshot.
        """
        check_trigger(trigger)
        work = partial(self._operations.take_snapshot.run, trigger=trigger)
        return await self._runner.run(
            parse_tenant_id(tenant_id), "snapshot", work, queue="snapshot", by=by, trigger=trigger
        )

    async def list(self, tenant_id: str) -> Sequence[Snapshot]:
        """Return the tenant's snapshots, newest first, without those whose manifest is damaged; `look` names these too.

        Snapshots dated in the future come last: the clock was ahead when they were taken.

        Raises:
            TenantNotFoundError: The tenant does not exist.
        """
        return (await self.look(tenant_id)).sound

    async def look(self, tenant_id: str) -> StoredSnapshots:
        """Return the tenant's snapshots, newest first, and the ids of those whose manifest is damaged.

        Snapshots dated in the future come last.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotError: The storage refuses.
        """
        tenant = await self._tools.find_copyable(parse_tenant_id(tenant_id))
        stored = StoredSnapshots([], [])
        dated = newest_first(await self._archive.ids(tenant.uid), self._context.watch.latest_plausible())
        for snapshot_id in (*dated.past, *dated.future):
            try:
                stored.sound.append(Snapshot.of(await self._archive.manifest(tenant.uid, snapshot_id)))
            except SnapshotCorruptError:
                stored.damaged.append(snapshot_id)
            except SnapshotNotFoundError:
                continue  # it was deleted since its id was listed
        return stored

    async def get(self, tenant_id: str, snapshot_id: str) -> Snapshot:
        """Return one snapshot.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotNotFoundError: It has no such snapshot.
            SnapshotCorruptError: The snapshot's manifest is damaged.
        """
        tenant = await self._tools.find_copyable(parse_tenant_id(tenant_id))
        return Snapshot.of(await self._archive.manifest(tenant.uid, snapshot_id))

    async def delete(self, tenant_id: str, snapshot_id: str, *, by: str | None = None) -> None:
        """Delete a snapshot; a missing one is not an error.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotError: The storage refuses.
        """
        work = partial(self._delete, snapshot_id)
        await self._runner.run(
            parse_tenant_id(tenant_id),
            "delete_snapshot",
            work,
            queue="snapshot",
            by=by,
            snapshot_id=snapshot_id,
        )

    async def restore(
        self,
        tenant_id: str,
        snapshot_id: str,
        *,
        migrate: bool = True,
        by: str | None = None,
        if_revision: int | None = None,
    ) -> TenantRecord:
        """Make the tenant's database what it was when the snapshot was taken, and return the tenant's record.

        The snapshot is fetched, checked and migrated in a scratch directory, while the tenant's calls continue. Then the calls wait,
        for ``pool_wait_timeout_seconds`` at most (`TenantBusyError`), while the database is replaced in one step. The replaced
        database is kept as a restore point, and `undo_restore` brings it back. A quarantined tenant serves calls again; other
        tenants stay in their state.

        Args:
            tenant_id: The tenant.
            snapshot_id: The id of a snapshot, or the name of a restore point, see `points`.
            migrate: Whether the database is migrated to what the code knows before it takes the other's place. Otherwise it is
                migrated when it is next opened, and a quarantined tenant stays quarantined.
            by: Who does it, for the audit, see the class.
            if_revision: The tenant's revision that this was decided on, see the class.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotNotFoundError: It has no such snapshot.
            SnapshotCorruptError: The snapshot is not what was stored; nothing was changed.
            MigrationError: The snapshot is newer than the code, or cannot be migrated; nothing was changed.
            TenantStateError: The tenant is deleted.
            TenantOwnedElsewhereError: Another process keeps the tenant open; nothing was changed.
        """
        work = partial(self._operations.restore.run, snapshot_id=snapshot_id, is_migrated=migrate)
        return await self._runner.run(
            parse_tenant_id(tenant_id),
            "restore",
            work,
            by=by,
            if_revision=if_revision,
            snapshot_id=snapshot_id,
        )

    async def replace_file(
        self,
        tenant_id: str,
        path: str | Path,
        *,
        owner: str | None = None,
        accepted_tables: Collection[str] = (),
        by: str | None = None,
        if_revision: int | None = None,
    ) -> TenantRecord:
        """Put a plain SQLite file in the place of the tenant's database, and return the tenant's record.

        The file is copied, checked and migrated in a scratch directory; then the copy takes the database's place as in `restore`.
        The old database and its write-ahead log are kept as they are, and `undo_restore` brings them back. The tenant's database
        may be missing or damaged. A quarantined tenant serves calls again; other tenants stay in their state.

        Args:
            tenant_id: The tenant.
            path: The file. No program has it open, and no log or journal is beside it.
            owner: The `uid` that the file may be marked with instead of the tenant's. The copy is marked with the tenant's.
            accepted_tables: Names of tables that no schema pack makes and that the file may have.
            by: Who does it, for the audit, see the class.
            if_revision: The tenant's revision that this was decided on, see the class.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotError: The file is not one plain file.
            SnapshotCorruptError: It is the database of another tenant; nothing was changed.
            DatabaseCorruptError: It is damaged, or is not a database; nothing was changed.
            ForeignSchemaError: It has objects that no schema pack makes; nothing was changed.
            MigrationError: It is newer than the code, or cannot be migrated; nothing was changed.
            TenantStateError: The tenant is deleted.
            TenantOwnedElsewhereError: Another process keeps the tenant open; nothing was changed.
        """
        work = partial(
            self._operations.replace_file.run,
            path=Path(path),
            owner=owner,
            accepted_tables=tuple(accepted_tables),
        )
        return await self._runner.run(
            parse_tenant_id(tenant_id),
            "replace_file",
            work,
            by=by,
            if_revision=if_revision,
            path=audit.shown_path(Path(path), self._context.config.data_dir),
            owner=owner,
        )

    async def undo_restore(
        self, tenant_id: str, *, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Bring back the database that the last restore replaced; the present one becomes a restore point. Repeatable.

        Raises:
            SnapshotNotFoundError: The tenant was never restored, or the restore point was deleted.
            TenantError, PersistenceError: As `restore`.
        """
        return await self._runner.run(
            parse_tenant_id(tenant_id),
            "undo_restore",
            self._operations.undo_restore.run,
            by=by,
            if_revision=if_revision,
        )

    async def points(self, tenant_id: str) -> Sequence[str]:
        """Return the names of the tenant's restore points, the databases that restores replaced, oldest first."""
        tenant = await self._tools.find_copyable(parse_tenant_id(tenant_id))
        return await self._backend.points(tenant.place).names()

    async def drop_point(
        self, tenant_id: str, point: str, *, by: str | None = None, if_revision: int | None = None
    ) -> None:
        """Delete a restore point, to free its disk space; a missing one is not an error.

        If the last restore made it, that restore cannot be undone any more.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotNotFoundError: The text is not the name of a restore point.
            SnapshotError: It cannot be deleted; call again.
        """
        work = partial(self._drop_point, point)
        await self._runner.run(
            parse_tenant_id(tenant_id), "drop_point", work, by=by, if_revision=if_revision, point=point
        )

    async def drill(self, *, sample: int = DRILL_SAMPLE_DEFAULT) -> DrillReport:
        """Restore the newest snapshots of some tenants to a scratch directory, check them, and report the results.

        Args:
            sample: How many active tenants, chosen at random.

        Raises:
            PersistenceError: The catalog cannot be read. The errors of single snapshots are in the report.
        """
        tenants = await self._catalog.sample(sample)
        return DrillReport(tuple([await try_newest(tenant, self._tools) for tenant in tenants]))

    @property
    def storage_location(self) -> str:
        """Where the snapshots are stored."""
        return self._owner.location

    async def claim_storage(self, *, by: str | None = None) -> StorageMark | None:
        """Make the snapshot storage this data directory's, and return the mark of its owner before, if it had one.

        For a directory that was moved or restored from a backup, or that takes over the snapshots of another one. The other
        directory is refused a minute later at the latest. The operation is in the audit.

        Raises:
            SnapshotError: The storage, or the data directory, cannot be written; call again.
        """
        self._runner.check_open()
        principal = audit.principal_of(by)
        try:
            before = await self._owner.claim()
        except TenantryError as error:
            await self._catalog.write(self._claimed(error.outcome, by=principal, error=str(error)))
            raise
        await self._catalog.write(
            self._claimed("ok", by=principal, taken_from=None if before is None else str(before))
        )
        return before

    def _claimed(self, outcome: str, *, by: str, **detail: str | None) -> Statement:
        return audit.append(
            self._context.clock,
            "claim_storage",
            tenant_id=None,
            tenant_uid=None,
            outcome=outcome,
            detail={"location": self._owner.location, **detail},
            by=by,
        )

    async def _delete(self, snapshot_id: str, operation: Operation) -> None:
        tenant = await self._tools.find_copyable(operation.tenant_id)
        operation.tenant_uid = tenant.uid
        await self._archive.delete(tenant.uid, snapshot_id)

    async def _drop_point(self, point: str, operation: Operation) -> None:
        tenant = await operation.get()
        check_snapshot_id(point, prefix=POINT_PREFIX)
        if is_last_point(tenant, point):
            await operation.change(tenant, restore_point=None)
        await self._backend.points(tenant.place).remove(point)
