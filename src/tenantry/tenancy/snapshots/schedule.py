"""Takes one snapshot of each active tenant per interval, in the process that first claims the tenant."""

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
"""The longest time between two searches for tenants whose snapshot is due."""

_TENANTS_PER_POLL: Final = 100
_POLLS_PER_INTERVAL: Final = 10


class SnapshotSchedule:
    """Takes snapshots until it is cancelled.

    The catalog has a due time for each tenant. Processes compete to move a due time with a compare-and-set, and the winner takes
    the snapshot. A new tenant's first due time is a random time within the interval. A failed snapshot is logged and audited, and
    is retried after a tenth of the interval.
    """

    def __init__(self, snapshots: Snapshots, catalog: Catalog, context: ActorContext, log: EventLog) -> None:
        self._snapshots = snapshots
        self._catalog = catalog
        self._config = context.config
        self._clock = context.clock
        self._log = log

    async def run(self) -> None:
        """Take due snapshots until cancelled."""
        interval_seconds = self._config.snapshot_interval_seconds
        assert interval_seconds is not None
        while True:
            await anyio.sleep(min(POLL_SECONDS_MAX, interval_seconds / _POLLS_PER_INTERVAL))
            try:
                await self.take_due(interval_seconds)
            except Exception as error:  # noqa: BLE001  # after any error the next poll may succeed
                self._log.error(SCHEDULE_FAILED, error=str(error), error_type=type(error).__name__)

    async def take_due(self, interval_seconds: float) -> None:
        """Take the due snapshots, at most ``snapshot_jobs_max`` at the same time."""
        await self._correct_late(interval_seconds)
        limiter = anyio.CapacityLimiter(self._config.snapshot_jobs_max)
        async with anyio.create_task_group() as tasks:
            for tenant in await self._catalog.by_snapshot_due(_TENANTS_PER_POLL):
                tasks.start_soon(self._take_if_due, tenant, interval_seconds, limiter)

    async def _correct_late(self, interval_seconds: float) -> None:
        """Replace due times that are too late because the clock was ahead when they were set."""
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
            # Moving the due time claims the tenant. The new due time is soon, in case this process dies during the snapshot.
            if not await self._move(tenant, interval_seconds / _POLLS_PER_INTERVAL):
                return
            jitter = self._config.snapshot_jitter_seconds * random.uniform(-0.5, 0.5)  # noqa: S311
            next_seconds = max(interval_seconds + jitter, 0.0)
            try:
                await self._snapshots.create(tenant.id, trigger="schedule", by="tenantry")
            except TenantOwnedElsewhereError:
                # Retry soon: the process that has the tenant open can then take the snapshot.
                next_seconds = POLL_SECONDS_MAX * random.random()  # noqa: S311
            except TenantryError:
                return
            latest = await self._catalog.find_by_uid(tenant.uid)
            if latest is not None:
                await self._move(latest, next_seconds)

    async def _move(self, tenant: TenantRecord, seconds: float) -> bool:
        due_at = self._clock.now() + timedelta(seconds=seconds)
        return await self._catalog.move_snapshot_due(tenant, due_at)
