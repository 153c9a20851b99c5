"""Takes each active tenant's snapshot every so often, spread over the interval, whichever process comes first."""

import random
from datetime import timedelta
from typing import Final

import anyio

from tenantry.errors import TenantOwnedElsewhereError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.catalog.audit import acting_as
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.snapshots.snapshots import Snapshots
from tenantry.tenancy.tenant_record import TenantRecord

SCHEDULE_FAILED: Final = "tenantry.snapshots.schedule_failed"
LOOK_SECONDS_MAX: Final = 10.0
"""How often it looks who is due; more often where the interval is short."""

_TENANTS_PER_LOOK: Final = 100
_LOOKS_PER_INTERVAL: Final = 10


class SnapshotSchedule:
    """Runs until it is cancelled.

    A tenant is due when its moment in the catalog has passed. Whoever moves that moment, a compare-and-set, takes the
    snapshot: so of several processes one does. A new tenant's first moment lies anywhere in the interval. A snapshot that
    fails is in the log and in the audit, and is tried again after a tenth of the interval.

    Args:
        snapshots: Takes them.
        catalog: Knows who is due.
        context: Settings and clock.
        log: For what fails.
    """

    def __init__(self, snapshots: Snapshots, catalog: Catalog, context: ActorContext, log: EventLog) -> None:
        self._snapshots = snapshots
        self._catalog = catalog
        self._config = context.config
        self._clock = context.clock
        self._log = log

    async def run(self) -> None:
        """Look who is due, again and again."""
        interval_seconds = self._config.snapshot_interval_seconds
        assert interval_seconds is not None
        while True:
            await anyio.sleep(min(LOOK_SECONDS_MAX, interval_seconds / _LOOKS_PER_INTERVAL))
            try:
                await self.take_due(interval_seconds)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next look may go well
                self._log.error(SCHEDULE_FAILED, error=str(error), error_type=type(error).__name__)

    async def take_due(self, interval_seconds: float) -> None:
        """Take the snapshots that are due, ``snapshot_jobs_max`` at once."""
        await self._bring_back(interval_seconds)
        limiter = anyio.CapacityLimiter(self._config.snapshot_jobs_max)
        async with anyio.create_task_group() as tasks:
            for tenant in await self._catalog.by_snapshot_due(_TENANTS_PER_LOOK):
                tasks.start_soon(self._take_if_due, tenant, interval_seconds, limiter)

    async def _bring_back(self, interval_seconds: float) -> None:
        """Choose a new moment where the present one is later than any that the schedule sets: the clock was ahead then."""
        seconds_max = interval_seconds + self._config.snapshot_jitter_seconds + LOOK_SECONDS_MAX
        latest = self._clock.now() + timedelta(seconds=seconds_max)
        for tenant in await self._catalog.by_snapshot_due_after(latest, _TENANTS_PER_LOOK):
            await self._move(tenant, interval_seconds * random.random())  # noqa: S311  # no secret

    async def _take_if_due(
        self, tenant: TenantRecord, interval_seconds: float, limiter: anyio.CapacityLimiter
    ) -> None:
        async with limiter:
            if tenant.snapshot_due_at is None:
                await self._move(tenant, interval_seconds * random.random())  # noqa: S311  # no secret
                return
            # A claim first: if this process ends before the snapshot is there, another try comes soon.
            if not await self._move(tenant, interval_seconds / _LOOKS_PER_INTERVAL):
                return
            jitter = self._config.snapshot_jitter_seconds * random.uniform(-0.5, 0.5)  # noqa: S311
            next_seconds = max(interval_seconds + jitter, 0.0)
            try:
                with acting_as("tenantry"):
                    await self._snapshots.create(tenant.id, trigger="schedule")
            except TenantOwnedElsewhereError:
                # Who has it open is to take it: leave the next turn to that one.
                next_seconds = LOOK_SECONDS_MAX * random.random()  # noqa: S311
            except TenantryError:
                return
            latest = await self._catalog.find_by_uid(tenant.uid)
            if latest is not None:
                await self._move(latest, next_seconds)

    async def _move(self, tenant: TenantRecord, seconds: float) -> bool:
        due_at = self._clock.now() + timedelta(seconds=seconds)
        return await self._catalog.move_snapshot_due(tenant, due_at)
