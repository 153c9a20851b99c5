"""Runs one fleet job in this process: wave after wave, so many tenants at once, until it has ended or is told to stop.

Theory of operation. The process that runs a job holds its lock, and nobody else works on its tenants. A worker takes the
next tenant that has no outcome, does the work, and writes the outcome down before it takes another. So after a crash only
the tenants that were being worked on are done again: at most as many as workers, and the only ones that may be worked on
twice.

Between two tenants it looks, once in ``catalog_poll_interval_seconds``, whether the job is still to run: an operator's pause
comes through the catalog, from whatever process. What was begun is finished; then the lock is given back.

    handing out    workers take tenants; the last of a wave ends it, and the next begins
    halted         paused, cancelled, too many failures, shutdown or a catalog that fails: workers end after their tenant
"""

import asyncio
from collections import deque
from typing import Final

from tenantry.errors import JobError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.events import FleetTenantFinished
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.fleet.job import (
    FIRST_WAVE,
    FleetJob,
    FleetWave,
    JobEvent,
    JobState,
)
from tenantry.tenancy.fleet.options import failures_allowed
from tenantry.tenancy.fleet.table import FleetTable, Outcome, PendingTenant
from tenantry.tenancy.fleet.work import RETRY_SECONDS, FleetWork, HaltedError

FLEET_JOB_ENDED: Final = "tenantry.fleet.ended"

_TENANTS_PER_PAGE: Final = 256


class FleetRun:
    """One job, as this process runs it.

    Args:
        job: As it was begun.
        table: Where it is written down.
        work: Does its work on single tenants.
        places: How many tenants all jobs of the registry work on at once.
        context: Settings, clock and event hook.
        log: Bound to the job.
    """

    def __init__(
        self,
        job: FleetJob,
        table: FleetTable,
        work: FleetWork,
        *,
        places: asyncio.Semaphore,
        context: ActorContext,
        log: EventLog,
    ) -> None:
        self._job = job
        self._table = table
        self._work = work
        self._places = places
        self._context = context
        self._log = log
        self._now = context.clock.monotonic_seconds
        self._looked_seconds = float("-inf")
        self._halted = asyncio.Event()
        self._handing_out = asyncio.Lock()
        self._page: deque[PendingTenant] = deque()
        self._after = -1
        self._total = 0
        self._failed: dict[int, int] = {}

    def halt(self) -> None:
        """Begin no further tenant; what was begun is finished."""
        self._halted.set()

    async def run(self) -> None:
        """Do what is left of the job, and return when nothing of it runs here any more.

        Raises:
            TenantryError: The catalog fails; the job stays to be run.
        """
        waves = await self._table.waves(self._job.id)
        self._total = sum(wave.total for wave in waves)
        self._failed = {wave.wave: wave.failed for wave in waves}
        for wave in waves:
            await self._run_wave(wave)
            if self._halted.is_set():
                return
        await self._end(JobEvent.FINISH)

    async def _run_wave(self, wave: FleetWave) -> None:
        self._page.clear()
        self._after = -1
        workers = [asyncio.create_task(self._run_tenants(wave)) for _ in range(self._job.options.concurrency)]
        try:
            await asyncio.gather(*workers)
        except BaseException:
            # One worker's catalog failed, and the others finish their tenants; or all of it was cancelled.
            self.halt()
            await _end_all(workers)
            raise
        if wave.wave < max(self._failed) and not self._halted.is_set():
            await self._check_failures(wave)

    async def _run_tenants(self, wave: FleetWave) -> None:
        while True:
            async with self._places:
                item = await self._next(wave)
                if item is None:
                    return
                await self._run_tenant(item)

    async def _next(self, wave: FleetWave) -> PendingTenant | None:
        """Return a tenant to work on; None when the wave has none any more, or the job is not to go on."""
        async with self._handing_out:
            await self._look()
            if self._halted.is_set():
                return None
            if not self._page:
                self._page.extend(
                    await self._table.pending(self._job.id, wave.wave, self._after, _TENANTS_PER_PAGE)
                )
            if not self._page:
                return None
            await self._check_failures(wave)
            if self._halted.is_set():
                return None
            item = self._page.popleft()
            self._after = item.position
            return item

    async def _look(self) -> None:
        """Look whether the job is still to run, unless it was looked a moment ago."""
        now = self._now()
        if now - self._looked_seconds < self._context.config.catalog_poll_interval_seconds:
            return
        self._looked_seconds = now
        job = await self._table.get(self._job.id)
        if job.state is not JobState.RUNNING:
            self.halt()

    async def _run_tenant(self, item: PendingTenant) -> None:
        started = self._now()
        try:
            outcome = await self._work.do(self._job, item, self._halted)
        except HaltedError:
            self.halt()
            return
        seconds = self._now() - started
        await self._record(item, outcome, seconds)
        if outcome.is_failure:
            self._failed[item.wave] += 1
        self._context.report(FleetTenantFinished(item.tenant_id, self._job.kind, outcome.outcome, seconds))

    async def _record(self, item: PendingTenant, outcome: Outcome, seconds: float) -> None:
        """Write the outcome down; not at once, where another process holds the catalog: what was done is not to be done again."""
        for pause_seconds in (*RETRY_SECONDS, None):
            try:
                return await self._table.finish(self._job.id, item, outcome, seconds)
            except TenantryError as error:
                if pause_seconds is None or not error.is_retryable:
                    raise
                await asyncio.sleep(pause_seconds)
        raise AssertionError  # the last attempt returns or raises

    async def _check_failures(self, wave: FleetWave) -> None:
        """Stop the job if more have failed than may, since it was made or an operator resumed it after the last stop."""
        options, accepted = self._job.options, self._job.failures_accepted
        failed = sum(self._failed.values()) - accepted
        limits = [("failures_max", options.failures_max, self._total)]
        if wave.wave == FIRST_WAVE and options.canary is not None:
            limits.insert(0, ("canary_failures_max", options.canary_failures_max, wave.total))
        for name, failures_max, total in limits:
            if failed > failures_allowed(failures_max, total):
                await self._end(
                    JobEvent.STOP, f"{failed} tenants failed, more than {name} ({failures_max}) allows"
                )
                return

    async def _end(self, event: JobEvent, reason: str | None = None) -> None:
        self.halt()
        try:
            job = await self._table.apply(self._job.id, event, reason=reason, is_audited=False)
        except JobError:
            return  # An operator paused or cancelled it at the same moment.
        self._log.info(FLEET_JOB_ENDED, state=job.state, reason=reason)


async def _end_all(workers: list["asyncio.Task[None]"]) -> None:
    """Wait for the workers; if that is cancelled, they are."""
    try:
        await asyncio.wait(workers)
    except asyncio.CancelledError:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
        raise
