"""Takes, lists, restores and tests snapshots of tenants. The public API is `registry.snapshots`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

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
        sound: The snapshots whose manifest is sound, newest first.
        damaged: The ids of snapshots with a damaged manifest, newest first. These snapshots can only be deleted.
    """

    sound: list[Snapshot]
    damaged: list[str]


@dataclass(frozen=True, slots=True)
class SnapshotOperations:
    """The operations on snapshots that are implemented in separate modules."""

    take_snapshot: TakeSnapshot
    restore: Restore
    undo_restore: UndoRestore
    replace_file: ReplaceFile


class Snapshots:
    """Takes, lists, restores and deletes snapshots of tenants. Use `registry.snapshots`.

    The keywords ``by`` and ``if_revision`` mean the same as in `TenantRegistry`'s operations.
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
        self._archive = tools.archive

    async def create(self, tenant_id: str, *, trigger: str = "manual", by: str | None = None) -> Snapshot:
        """Take, check and store a snapshot of the tenant's current state, and return the snapshot.

        The snapshot contains every write that was acknowledged before this call. The tenant's calls continue while its snapshot
        is taken. A tenant's snapshots are taken one at a time. Afterwards old snapshots are deleted according to
        ``snapshots_kept_max`` and ``snapshot_age_seconds_max``, but never the newest. Cancellation does not stop the snapshot.

        Args:
            tenant_id: The tenant's id; the tenant must have a database.
            trigger: The reason for the snapshot: one word of lower-case letters, digits and ``-``.
            by: The principal for the audit, see the class.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            QueryError: The trigger is not valid.
            DatabaseCorruptError, TenantQuarantinedError: The tenant's database is damaged. A damaged tenant that served calls is
                quarantined.
            SnapshotError: The tenant was closed during the copy, for example by `suspend`, or the storage failed; try again.
            StorageFullError: The disk or the storage has no space for the snapshot.
        """
        check_trigger(trigger)
        work = partial(self._operations.take_snapshot.run, trigger=trigger)
        return await self._runner.run(
            parse_tenant_id(tenant_id), "snapshot", work, queue="snapshot", by=by, trigger=trigger
        )

    async def list(self, tenant_id: str) -> Sequence[Snapshot]:
        """Return the tenant's snapshots, newest first; see `look` for the ids of snapshots with a damaged manifest.

        Snapshots dated in the future come last, because the clock was ahead when they were taken.

        Raises:
            TenantNotFoundError: The tenant does not exist.
        """
        return (await self.look(tenant_id)).sound

    async def look(self, tenant_id: str) -> StoredSnapshots:
        """Return the tenant's snapshots, newest first, and the ids of snapshots whose manifest is damaged.

        Snapshots dated in the future come last.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotError: The snapshot storage cannot be used.
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
                continue  # the snapshot was deleted after its id was listed
        return stored

    async def get(self, tenant_id: str, snapshot_id: str) -> Snapshot:
        """Return one snapshot.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotNotFoundError: The tenant has no such snapshot.
            SnapshotCorruptError: The snapshot's manifest is damaged.
        """
        tenant = await self._tools.find_copyable(parse_tenant_id(tenant_id))
        return Snapshot.of(await self._archive.manifest(tenant.uid, snapshot_id))

    async def delete(self, tenant_id: str, snapshot_id: str, *, by: str | None = None) -> None:
        """Delete a snapshot; a missing snapshot is not an error.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotError: The snapshot storage cannot be used.
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
        """Replace the tenant's database with a snapshot, and return the tenant's record.

        The snapshot is fetched, checked and migrated in a scratch directory, while the tenant's calls continue. Calls then wait,
        for at most ``pool_wait_timeout_seconds`` (`TenantBusyError`), while one step replaces the database. The replaced database
        is kept as a restore point, and `undo_restore` brings it back. A quarantined tenant serves calls again; a tenant in
        another state keeps its state.

        Args:
            tenant_id: The tenant's id.
            snapshot_id: The id of a snapshot, or the name of a restore point, see `points`.
            migrate: Whether to apply pending migrations to the snapshot before the exchange. Otherwise the next opening migrates
                the database, and a quarantined tenant stays quarantined.
            by: The principal for the audit, see the class.
            if_revision: The revision that the tenant must have, see the class.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotNotFoundError: The tenant has no such snapshot.
            SnapshotCorruptError: The stored snapshot was altered or damaged; nothing was changed.
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
        """Replace the tenant's database with a copy of a plain SQLite file, and return the tenant's record.

        The file is copied, checked and migrated in a scratch directory; then the copy replaces the database as in `restore`. The
        old database and its write-ahead log are kept unchanged, and `undo_restore` brings them back. The tenant's database may be
        missing or damaged. A quarantined tenant serves calls again; a tenant in another state keeps its state.

        Args:
            tenant_id: The tenant's id.
            path: The file's path. No program may have the file open, and no log or journal may be beside the file.
            owner: Another tenant's `uid` that the file's mark may have. The copy is marked with the tenant's `uid`.
            accepted_tables: The names of extra tables that the file may have, although no schema pack makes them.
            by: The principal for the audit, see the class.
            if_revision: The revision that the tenant must have, see the class.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotError: The file is missing, is empty, or changed during the copy, or a log or journal is beside the file.
            SnapshotCorruptError: The file is another tenant's database; nothing was changed.
            DatabaseCorruptError: The file is damaged, or is not a database; nothing was changed.
            ForeignSchemaError: The file has objects that no schema pack makes; nothing was changed.
            MigrationError: The file is newer than the code, or cannot be migrated; nothing was changed.
            TenantStateError: The tenant is deleted.
            TenantOwnedElsewhereError: Another process keeps the tenant open; nothing was changed.
        """
        work = partial(
            self._operations.replace_file.run,
            path=Path(path),
            owner=owner,
            accepted_tables=tuple(accepted_tables),
        )
        detail: dict[str, Any] = {"accepted_tables": sorted(accepted_tables)} if accepted_tables else {}
        return await self._runner.run(
            parse_tenant_id(tenant_id),
            "replace_file",
            work,
            by=by,
            if_revision=if_revision,
            path=audit.shown_path(Path(path), self._context.config.data_dir),
            owner=owner,
            **detail,
        )

    async def undo_restore(
        self, tenant_id: str, *, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Bring back the database that the last restore replaced; the current database becomes a restore point. Idempotent.

        Raises:
            SnapshotNotFoundError: The tenant was never restored, or the restore point was deleted.
            TenantError, PersistenceError: See `restore`.
        """
        return await self._runner.run(
            parse_tenant_id(tenant_id),
            "undo_restore",
            self._operations.undo_restore.run,
            by=by,
            if_revision=if_revision,
        )

    async def points(self, tenant_id: str) -> Sequence[str]:
        """Return the names of the tenant's restore points (replaced databases), oldest first."""
        tenant = await self._tools.find_copyable(parse_tenant_id(tenant_id))
        return await self._tools.operations.backend_of(tenant).points(tenant.place).names()

    async def drop_point(
        self, tenant_id: str, point: str, *, by: str | None = None, if_revision: int | None = None
    ) -> None:
        """Delete a restore point, to free its disk space; a missing restore point is not an error.

        The last restore cannot be undone after its restore point was deleted.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            SnapshotNotFoundError: `point` is not a valid name of a restore point.
            SnapshotError: The restore point cannot be deleted; call again.
        """
        work = partial(self._drop_point, point)
        await self._runner.run(
            parse_tenant_id(tenant_id), "drop_point", work, by=by, if_revision=if_revision, point=point
        )

    async def drill(self, *, sample: int = DRILL_SAMPLE_DEFAULT) -> DrillReport:
        """Restore the newest snapshots of some tenants to a scratch directory, check them, and report the results.

        Args:
            sample: The number of active tenants to choose at random.

        Raises:
            PersistenceError: The catalog cannot be read. The report includes the errors of individual snapshots.
        """
        tenants = await self._catalog.sample(sample)
        return DrillReport(tuple([await try_newest(tenant, self._tools) for tenant in tenants]))

    @property
    def storage_location(self) -> str:
        """The location of the snapshot storage."""
        return self._owner.location

    async def claim_storage(self, *, by: str | None = None) -> StorageMark | None:
        """Make this data directory the owner of the snapshot storage, and return the previous owner's mark, if any.

        Claim the storage after the data directory was moved or restored from a backup, or to take over another directory's
        snapshots. The storage refuses the previous owner within a minute. The claim is audited.

        Raises:
            SnapshotError: The storage or the data directory cannot be written; call again.
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
        await self._tools.operations.backend_of(tenant).points(tenant.place).remove(point)
