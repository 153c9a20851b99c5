"""Tests whether a tenant's newest snapshot can be restored, without changing the tenant."""

import time
from dataclasses import dataclass

from tenantry.errors import SnapshotNotFoundError, TenantryError
from tenantry.ids import TenantId
from tenantry.tenancy.snapshots.snapshot import newest_first
from tenantry.tenancy.snapshots.tools import SnapshotTools
from tenantry.tenancy.tenant_record import TenantRecord


@dataclass(frozen=True, slots=True)
class DrillResult:
    """The outcome of a drill for one tenant.

    Attributes:
        snapshot_id: The id of the tenant's newest snapshot; None if the tenant has no snapshot.
        outcome: ``ok``, or the error's `outcome`; ``not_found`` if there is no snapshot.
        age_seconds: The age of the snapshot; a restore would lose later writes.
        duration_seconds: The time taken to fetch, check and migrate the snapshot.
    """

    tenant_id: TenantId
    snapshot_id: str | None
    outcome: str
    error: str | None
    age_seconds: float | None
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class DrillReport:
    """The results of a drill; see `Snapshots.drill`."""

    results: tuple[DrillResult, ...]

    @property
    def is_ok(self) -> bool:
        """Whether every tenant of the sample could be restored."""
        return all(result.outcome == "ok" for result in self.results)


async def try_newest(
    tenant: TenantRecord,
    tools: SnapshotTools,
) -> DrillResult:
    """Fetch, check and migrate the tenant's newest snapshot in a scratch directory."""
    archive, context = tools.archive, tools.operations.context
    started = time.monotonic()
    snapshot_id, age_seconds = None, None
    outcome, error = "ok", None
    try:
        dated = newest_first(await archive.ids(tenant.uid), context.watch.latest_plausible())
        snapshot_id = next(iter(dated.past), None)
        if snapshot_id is None:
            raise SnapshotNotFoundError(f"tenant {tenant.id!r} has no snapshot")
        manifest = await archive.manifest(tenant.uid, snapshot_id)
        age_seconds = (context.clock.now() - manifest.created_at).total_seconds()
        async with tools.scratch.directory() as directory:
            database = directory / "tenant.db"
            await archive.fetch(manifest, database)
            await tools.operations.recorded_schemas.check()
            await tools.operations.backend_of(tenant).prepare(database)
    except TenantryError as failure:
        outcome, error = failure.outcome, str(failure)
    return DrillResult(tenant.id, snapshot_id, outcome, error, age_seconds, time.monotonic() - started)
