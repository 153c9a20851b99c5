"""Snapshots of tenants: made, listed, restored, tried out; `registry.snapshots`."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tenantry.errors import SnapshotCorruptError, SnapshotNotFoundError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.events import OperationEnded
from tenantry.ids import TenantId, parse_tenant_id
from tenantry.lifecycle import Permission
from tenantry.statements import Statement
from tenantry.storage.archive.sealed_gzip import compress
from tenantry.storage.protocol import Backend
from tenantry.tenancy.catalog import audit
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.runner import OperationRunner
from tenantry.tenancy.snapshots.archive import SnapshotArchive
from tenantry.tenancy.snapshots.copying import Copies, manifest_of
from tenantry.tenancy.snapshots.drill import DrillReport, try_newest
from tenantry.tenancy.snapshots.restore import REPLACE_FILE, Restorer
from tenantry.tenancy.snapshots.scratch import Scratch
from tenantry.tenancy.snapshots.snapshot import Snapshot, new_snapshot_id, newest_first
from tenantry.tenancy.snapshots.storage_owner import StorageMark, StorageOwner
from tenantry.tenancy.tenant_record import TenantRecord, not_found
from tenantry.texts import check_trigger
from tenantry.threads import run_in_thread

RETENTION_FAILED: Final = "tenantry.snapshots.retention_failed"
RETENTION: Final = "retention"
"""The action in the event that tells how deleting a tenant's old snapshots ended."""

DRILL_SAMPLE_DEFAULT: Final = 10


class KeptSnapshots(NamedTuple):
    """What is kept of a tenant.

    Attributes:
        sound: The snapshots, newest first.
        damaged: The ids of those whose manifests are damaged, newest first: all that can be done with one is to delete it.
    """

    sound: list[Snapshot]
    damaged: list[str]


class Snapshots:
    """Makes, keeps and restores snapshots of tenants. Use `registry.snapshots`.

    Args:
        runner: Runs the calls.
        catalog: The list of tenants.
        archive: Where they are kept.
        copies: Makes and checks copies.
        backend: Tries out a copy.
        restorer: Puts one in the place of a tenant's database.
        scratch: Where copies are made.
        owner: Which directory the storage belongs to.
    """

    def __init__(
        self,
        runner: OperationRunner,
        catalog: Catalog,
        archive: SnapshotArchive,
        copies: Copies,
        backend: Backend,
        restorer: Restorer,
        scratch: Scratch,
        owner: StorageOwner,
    ) -> None:
        self._runner = runner
        self._context = runner.context
        self._catalog = catalog
        self._archive = archive
        self._copies = copies
        self._backend = backend
        self._restorer = restorer
        self._scratch = scratch
        self._owner = owner
        self._log = EventLog()

    async def create(self, tenant_id: str, *, trigger: str = "manual") -> Snapshot:
        """Take a snapshot of the tenant's present state, check it, keep it, and return it.

        The tenant's calls go on meanwhile: what was acknowledged before this call is in it. One at a time for each tenant.
        Older ones are forgotten as ``snapshots_kept_max`` and ``snapshot_age_seconds_max`` say, but never the newest.
        Cancellation stops the waiting, not the snapshot.

        Args:
            tenant_id: The tenant, in any state in which it has files.
            trigger: Why, in a word: lower-case letters, digits and ``-``.

        Raises:
            TenantNotFoundError: There is none.
            QueryError: The trigger is none.
            DatabaseCorruptError, TenantQuarantinedError: The tenant's database is damaged; a tenant that served calls is
                quarantined.
            SnapshotError: It was closed meanwhile, for example by `suspend`, or the storage refuses; try again.
            StorageFullError: There is no space for it.
        """
        check_trigger(trigger)
        work = partial(self._create, trigger)
        return await self._runner.run(
            parse_tenant_id(tenant_id), "snapshot", work, queue="snapshot", trigger=trigger
        )

    async def list(self, tenant_id: str) -> Sequence[Snapshot]:
        """Return the tenant's snapshots, newest first; without those whose manifests are damaged, see `look`.

        Those dated in the future come last: they were made while the clock was ahead.

        Raises:
            TenantNotFoundError: There is no such tenant.
        """
        return (await self.look(tenant_id)).sound

    async def look(self, tenant_id: str) -> KeptSnapshots:
        """Return the tenant's snapshots, newest first, and the ids of those of which not even the manifest is sound.

        One that is damaged hides no other: it is the moment to restore one. Those dated in the future come last.

        Raises:
            TenantNotFoundError: There is no such tenant.
            SnapshotError: The storage refuses.
        """
        tenant = await self._get(parse_tenant_id(tenant_id))
        kept = KeptSnapshots([], [])
        dated = newest_first(await self._archive.ids(tenant.uid), self._context.watch.latest_plausible())
        for snapshot_id in (*dated.past, *dated.future):
            try:
                kept.sound.append(Snapshot.of(await self._archive.manifest(tenant.uid, snapshot_id)))
            except SnapshotCorruptError:
                kept.damaged.append(snapshot_id)
            except SnapshotNotFoundError:
                continue  # forgotten meanwhile
        return kept

    async def get(self, tenant_id: str, snapshot_id: str) -> Snapshot:
        """Return one snapshot.

        Raises:
            TenantNotFoundError: There is no such tenant.
            SnapshotNotFoundError: It has no such snapshot.
            SnapshotCorruptError: Its manifest was altered.
        """
        tenant = await self._get(parse_tenant_id(tenant_id))
        return Snapshot.of(await self._archive.manifest(tenant.uid, snapshot_id))

    async def delete(self, tenant_id: str, snapshot_id: str) -> None:
        """Forget a snapshot; that there is none is no error.

        Raises:
            TenantNotFoundError: There is no such tenant.
            SnapshotError: The storage refuses.
        """
        work = partial(self._delete, snapshot_id)
        await self._runner.run(
            parse_tenant_id(tenant_id), "delete_snapshot", work, queue="snapshot", snapshot_id=snapshot_id
        )

    async def restore(self, tenant_id: str, snapshot_id: str, *, migrate: bool = True) -> TenantRecord:
        """Make the tenant's database what it was when the snapshot was taken, and return its entry.

        The snapshot is fetched, checked and migrated beside the tenant, whose calls go on meanwhile. Then its calls wait, for
        ``pool_wait_timeout_seconds`` at most (`TenantBusyError`), while the file is replaced in one step. What was there is
        kept: `undo_restore` brings it back. A quarantined tenant serves calls again; others stay in their state.

        Args:
            tenant_id: The tenant.
            snapshot_id: A snapshot's, or one of `points`.
            migrate: Whether it is migrated to what the code knows before it takes the other's place. If not, it is when it is
                next opened, and a quarantined tenant stays quarantined.

        Raises:
            TenantNotFoundError: There is no such tenant.
            SnapshotNotFoundError: It has no such snapshot.
            SnapshotCorruptError: The snapshot is not what was kept; nothing was changed.
            MigrationError: It is newer than the code, or cannot be migrated; nothing was changed.
            TenantStateError: The tenant is deleted.
            TenantOwnedElsewhereError: Another process keeps the tenant open; nothing was changed.
        """
        work = partial(self._restorer.restore, snapshot_id, is_migrated=migrate)
        return await self._runner.run(parse_tenant_id(tenant_id), "restore", work, snapshot_id=snapshot_id)

    async def replace_file(
        self,
        tenant_id: str,
        path: str | Path,
        *,
        owner: str | None = None,
        accepted_tables: Collection[str] = (),
    ) -> TenantRecord:
        """Put a plain SQLite file in the place of the tenant's database, and return the tenant's entry.

        The file is copied, checked and migrated beside the tenant; then it takes the database's place as in `restore`. The old
        database is kept with its write-ahead log, as they are, and `undo_restore` brings it back. Also for a tenant whose
        database is missing or damaged. A quarantined tenant serves calls again; others stay in their state.

        Args:
            tenant_id: The tenant.
            path: The file. It must be closed: no log or journal lies beside it.
            owner: The `uid` that the file may be marked with instead of the tenant's: it becomes the tenant's.
            accepted_tables: Names of tables that no schema pack makes and that the file may have.

        Raises:
            TenantNotFoundError: There is no such tenant.
            SnapshotError: The file cannot be used: it is not one plain file.
            SnapshotCorruptError: It is the database of another tenant; nothing was changed.
            DatabaseCorruptError: It is damaged, or is not a database; nothing was changed.
            ForeignSchemaError: It has objects that no schema pack makes; nothing was changed.
            MigrationError: It is newer than the code, or cannot be migrated; nothing was changed.
            TenantStateError: The tenant is deleted.
            TenantOwnedElsewhereError: Another process keeps the tenant open; nothing was changed.
        """
        work = partial(self._restorer.replace_file, Path(path), owner, tuple(accepted_tables))
        return await self._runner.run(
            parse_tenant_id(tenant_id),
            REPLACE_FILE,
            work,
            path=audit.shown_path(Path(path), self._context.config.data_dir),
            owner=owner,
        )

    async def undo_restore(self, tenant_id: str) -> TenantRecord:
        """Bring back what the last restore replaced; what is there now is kept as one of `points`. Can be repeated.

        Raises:
            SnapshotNotFoundError: The tenant was never restored.
            TenantError, PersistenceError: As `restore`.
        """
        return await self._runner.run(parse_tenant_id(tenant_id), "undo_restore", self._restorer.undo)

    async def points(self, tenant_id: str) -> Sequence[str]:
        """Return the names of the databases that restores replaced and that are still kept, oldest first."""
        return await self._restorer.points(await self._get(parse_tenant_id(tenant_id)))

    async def drop_point(self, tenant_id: str, point: str) -> None:
        """Remove one of `points`, to free its space on the disk; a missing one is not an error.

        If the last restore replaced it, that restore cannot be undone any more.

        Raises:
            TenantNotFoundError: There is no such tenant.
            SnapshotNotFoundError: The text does not name a point.
            SnapshotError: It cannot be removed; call again.
        """
        work = partial(self._restorer.drop_point, point)
        await self._runner.run(parse_tenant_id(tenant_id), "drop_point", work, point=point)

    async def drill(self, *, sample: int = DRILL_SAMPLE_DEFAULT) -> DrillReport:
        """Restore the newest snapshot of some tenants to a scratch place, check it thoroughly, and report the result.

        Args:
            sample: How many tenants, drawn at random from those that are active.

        Raises:
            PersistenceError: The catalog cannot be read. What goes wrong with a tenant's snapshot is in the report.
        """
        try_out = partial(
            try_newest,
            archive=self._archive,
            backend=self._backend,
            scratch=self._scratch,
            context=self._context,
        )
        return DrillReport(tuple([await try_out(tenant) for tenant in await self._catalog.sample(sample)]))

    @property
    def storage_location(self) -> str:
        """Where the snapshots are kept."""
        return self._owner.location

    async def claim_storage(self) -> StorageMark | None:
        """Make the snapshot storage this data directory's, and return the mark of the directory that had it, if any.

        For a directory that was moved or restored from a backup, or that takes over the snapshots of another one. The other
        directory is refused from then on, a minute later at the latest. The call is in the audit.

        Raises:
            SnapshotError: The storage, or the data directory, cannot be written; call again.
        """
        self._runner.check_open()
        try:
            before = await self._owner.claim()
        except TenantryError as error:
            await self._catalog.write(self._claimed(error.outcome, error=str(error)))
            raise
        await self._catalog.write(self._claimed("ok", taken_from=None if before is None else str(before)))
        return before

    async def _create(self, trigger: str, operation: Operation) -> Snapshot:
        tenant = await self._get(operation.tenant_id)
        operation.tenant_uid = tenant.uid
        now = self._context.clock.now()
        async with self._scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing():
                report = await self._copies.copy(tenant, database)
                stored = await run_in_thread(partial(compress, database, directory / "tenant.db.gz"))
                manifest = manifest_of(
                    tenant,
                    report,
                    now,
                    trigger,
                    database_sha256=stored.content_sha256,
                    snapshot_id=new_snapshot_id(now),
                    stored=stored,
                )
                snapshot = await self._archive.store(manifest, stored)
        operation.detail["snapshot_id"] = snapshot.id
        latest = await self._catalog.find_by_uid(tenant.uid)
        if latest is None or not latest.state.allows(Permission.EXIST):
            # Purged meanwhile, here or elsewhere: then nothing of it may be kept.
            await self._archive.delete(tenant.uid, snapshot.id)
            raise not_found(operation.tenant_id)
        await self._retain(tenant, snapshot.id)
        return snapshot

    async def _retain(self, tenant: TenantRecord, newest: str) -> None:
        """Forget surplus snapshots; a failure is reported and does not fail the new snapshot."""
        config, now = self._context.config, self._context.clock.monotonic_seconds
        started, outcome = now(), "ok"
        try:
            await self._archive.retain(
                tenant.uid,
                newest,
                kept_max=config.snapshots_kept_max,
                age_seconds_max=config.snapshot_age_seconds_max,
                watch=self._context.watch,
            )
        except TenantryError as error:
            outcome = error.outcome
            self._log.failure(RETENTION_FAILED, error, tenant_id=tenant.id)
        self._context.report(OperationEnded(tenant.id, RETENTION, outcome, now() - started))

    def _claimed(self, outcome: str, **detail: str | None) -> Statement:
        return audit.append(
            self._context.clock,
            "claim_storage",
            tenant_id=None,
            tenant_uid=None,
            outcome=outcome,
            detail={"location": self._owner.location, **detail},
        )

    async def _delete(self, snapshot_id: str, operation: Operation) -> None:
        tenant = await self._get(operation.tenant_id)
        operation.tenant_uid = tenant.uid
        await self._archive.delete(tenant.uid, snapshot_id)

    async def _get(self, tenant_id: TenantId) -> TenantRecord:
        tenant = await self._catalog.find(tenant_id)
        if tenant is None or not tenant.state.allows(Permission.COPY):
            raise not_found(tenant_id, tenant)
        return tenant
