"""Takes a snapshot of each active tenant once in an interval, spread over the interval, in one of the open processes."""

import random
from datetime import timedelta
from typing import Final

import anyio

from tenantry.errors import TenantOwnedElsewhereError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.snapshots.snapshots import Snapshots
from tenantry.tenancy.tenant_record import TenantRecord

SCHEDULE_FAILED: Final = "tenantry.snapshots.schedule_failed"
POLL_SECONDS_MAX: Final = 10.0
"""How often it looks for tenants that are due; more often if the interval is short."""

_TENANTS_PER_POLL: Final = 100
_POLLS_PER_INTERVAL: Final = 10


class SnapshotSchedule:
    """Takes snapshots until it is cancelled.

    The catalog has a due time for each tenant. Of several processes, the one that moves the due time with a compare-and-set takes the
    snapshot. A new tenant's first due time is a random one within the interval. A snapshot that fails is in the log and in the audit,
    and is tried again after a tenth of the interval.
    """

    def __init__(self, snapshots: Snapshots, catalog: Catalog, context: ActorContext, log: EventLog) -> None:
        self._snapshots = snapshots
        self._catalog = catalog
        self._config = context.config
        self._clock = context.clock
        self._log = log

    async def run(self) -> None:
        """Take the snapshots that are due, again and again."""
        interval_seconds = self._config.snapshot_interval_seconds
        assert interval_seconds is not None
        while True:
            await anyio.sleep(min(POLL_SECONDS_MAX, interval_seconds / _POLLS_PER_INTERVAL))
            try:
                await self.take_due(interval_seconds)
            except Exception as error:  # noqa: BLE001  # after any error the next poll may succeed
                self._log.error(SCHEDULE_FAILED, error=str(error), error_type=type(error).__name__)

    async def take_due(self, interval_seconds: float) -> None:
        """Take the snapshots that are due, ``snapshot_jobs_max`` at once."""
        await self._correct_late(interval_seconds)
        limiter = anyio.CapacityLimiter(self._config.snapshot_jobs_max)
        async with anyio.create_task_group() as tasks:
            for tenant in await self._catalog.by_snapshot_due(_TENANTS_PER_POLL):
                tasks.start_soon(self._take_if_due, tenant, interval_seconds, limiter)

    async def _correct_late(self, interval_seconds: float) -> None:
        """Choose a new due time if the present one is later than any that the schedule sets: the clock was ahead when it was set."""
        seconds_max = interval_seconds + self._config.snapshot_jitter_seconds + POLL_SECONDS_MAX
        latest = self._clock.now() + timedelta(seconds=seconds_max)
        for tenant in await self._catalog.by_snapshot_due_after(latest, _TENANTS_PER_POLL):
            await self._move(tenant, interval_seconds * random.random())  # noqa: S311  # no secret

    async def _take_if_due(
        self, tenant: TenantRecord, interval_seconds: float, limiter: anyio.CapacityLimiter
    ) -> None:
        async with limiter:
            if tenant.snapshot_due_at is None:
                await self._move(tenant, interval_seconds * random.random())  # noqa: S311  # no secret
                return
            # To claim the tenant. If this process dies before the snapshot is stored, the next attempt comes soon.
            if not await self._move(tenant, interval_seconds / _POLLS_PER_INTERVAL):
                return
            jitter = self._config.snapshot_jitter_seconds * random.uniform(-0.5, 0.5)  # noqa: S311
            next_seconds = max(interval_seconds + jitter, 0.0)
            try:
                await self._snapshots.create(tenant.id, trigger="schedule", by="tenantry")
            except TenantOwnedElsewhereError:
                # The process that has it open can take the snapshot: it gets the next turn.
                next_seconds = POLL_SECONDS_MAX * random.random()  # noqa: S311
            except TenantryError:
                return
            latest = await self._catalog.find_by_uid(tenant.uid)
            if latest is not None:
                await self._move(latest, next_seconds)

    async def _move(self, tenant: TenantRecord, seconds: float) -> bool:
        due_at = self._clock.now() + timedelta(seconds=seconds)
        return await self._catalog.move_snapshot_due(tenant, due_at)
