"""Take a snapshot of a tenant: copy its database, check and store the copy, and delete old snapshots.

A crash leaves nothing to finish: an object without a manifest is not a snapshot, and retention deletes the object a day later.
"""

from datetime import datetime
from pathlib import Path
from typing import Final

from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.events import OperationEnded
from tenantry.lifecycle import Permission
from tenantry.storage.archive.compression import compress
from tenantry.storage.artifacts import DatabaseReport
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.snapshots.copying import manifest_of
from tenantry.tenancy.snapshots.snapshot import Snapshot, new_snapshot_id
from tenantry.tenancy.snapshots.tools import SnapshotTools
from tenantry.tenancy.tenant_record import TenantRecord, not_found
from tenantry.threads import run_in_thread

RETENTION_FAILED: Final = "tenantry.snapshots.retention_failed"
RETENTION: Final = "retention"
"""The action of the event that reports the outcome of deleting a tenant's old snapshots."""


class TakeSnapshot:
    """Takes snapshots."""

    action = "snapshot"

    def __init__(self, tools: SnapshotTools) -> None:
        self._tools = tools
        self._log = EventLog()

    async def run(self, operation: Operation, *, trigger: str) -> Snapshot:
        """See `Snapshots.create`."""
        tenant = await self._tools.find_copyable(operation.tenant_id)
        operation.tenant_uid = tenant.uid
        async with self._tools.scratch.directory() as directory:
            with operation.preparing():
                snapshot = await self._copy_and_store(tenant, trigger, directory)
        operation.detail["snapshot_id"] = snapshot.id
        latest = await self._tools.operations.catalog.find_by_uid(tenant.uid)
        if latest is None or not latest.state.allows(Permission.EXIST):
            # The tenant was purged during the copy, so the new snapshot must be deleted.
            await self._tools.archive.delete(tenant.uid, snapshot.id)
            raise not_found(operation.tenant_id)
        await self.apply_retention(tenant, snapshot.id)
        return snapshot

    async def store_copy(
        self,
        tenant: TenantRecord,
        database: Path,
        report: DatabaseReport,
        trigger: str,
        *,
        now: datetime | None = None,
    ) -> Snapshot:
        """Store a checked copy as a snapshot, without deleting old snapshots.

        Args:
            tenant: The tenant.
            database: The copy. A compressed file is made beside the copy.
            report: The report of the copy's check.
            trigger: The reason for the snapshot.
            now: The time before the copy was made; by default the present time.
        """
        now = now or self._tools.operations.context.clock.now()
        stored = await run_in_thread(compress, database, database.with_name(f"{database.name}.gz"))
        manifest = manifest_of(
            tenant,
            report,
            now,
            trigger,
            database_sha256=stored.content_sha256,
            snapshot_id=new_snapshot_id(now),
            stored=stored,
        )
        return await self._tools.archive.store(manifest, stored)

    async def _copy_and_store(self, tenant: TenantRecord, trigger: str, directory: Path) -> Snapshot:
        now = self._tools.operations.context.clock.now()
        database = directory / "tenant.db"
        report = await self._tools.copies.copy(tenant, database)
        return await self.store_copy(tenant, database, report, trigger, now=now)

    async def apply_retention(self, tenant: TenantRecord, newest: str) -> None:
        """Delete old snapshots. A failed deletion is reported and logged, and the new snapshot is kept."""
        context = self._tools.operations.context
        config, now = context.config, context.clock.monotonic_seconds
        started, outcome = now(), "ok"
        try:
            await self._tools.archive.apply_retention(
                tenant.uid,
                newest,
                kept_max=config.snapshots_kept_max,
                age_seconds_max=config.snapshot_age_seconds_max,
                watch=context.watch,
            )
        except TenantryError as error:
            outcome = error.outcome
            self._log.failure(RETENTION_FAILED, error, tenant_id=tenant.id)
        context.report(OperationEnded(tenant.id, RETENTION, outcome, now() - started))
