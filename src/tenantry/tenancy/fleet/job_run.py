"""Runs one fleet job in this process, wave by wave, until the job has ended or is halted.

Theory of operation. The process that runs a job holds the job's lock, so no other process runs the job. A worker takes the next
tenant without an outcome, does the work, and records the outcome before the worker takes another tenant. After a crash at most
one tenant per worker is processed again.

Any process may pause or cancel the job. So between two tenants the run reads the job's state from the catalog, at most once in
``catalog_poll_interval_seconds``. A halted run finishes the tenants in progress, and then releases the lock.

    ``handing out``  Workers take tenants. After the last tenant of a wave, the next wave begins.
    ``halted``       After a pause, a cancellation, too many failures, a shutdown or a catalog error, each worker finishes its
                     tenant and ends.
"""

import asyncio
from collections import deque
from typing import Final

from tenantry.errors import JobError
from tenantry.eventlog import EventLog
from tenantry.events import FleetTenantFinished
from tenantry.tenancy.fleet.attempts import with_retries
from tenantry.tenancy.fleet.job import (
    FIRST_WAVE,
    FleetJob,
    FleetWave,
    JobEvent,
    JobState,
)
from tenantry.tenancy.fleet.options import failures_allowed
from tenantry.tenancy.fleet.results import PendingTenant
from tenantry.tenancy.fleet.table import FleetTable
from tenantry.tenancy.fleet.work import FleetTools, FleetWork, JobHaltedError

FLEET_JOB_ENDED: Final = "tenantry.fleet.ended"

_TENANTS_PER_PAGE: Final = 256


class JobRun:
    """Runs one job in this process.

    Args:
        places: The semaphore that limits the number of tenants that all jobs of the registry process at the same time.
    """

    def __init__(
        self,
        job: FleetJob,
        tools: FleetTools,
        table: FleetTable,
        work: FleetWork,
        *,
        places: asyncio.Semaphore,
        log: EventLog,
    ) -> None:
        self._job = job
        self._table = table
        self._work = work
        self._places = places
        self._context = tools.context
        self._limits = tools.limits
        self._log = log
        self._now = self._context.clock.monotonic_seconds
        self._checked_seconds = float("-inf")
        self._halted = asyncio.Event()
        self._handing_out = asyncio.Lock()
        self._page: deque[PendingTenant] = deque()
        self._after = -1
        self._total = 0
        self._failed: dict[int, int] = {}

    def halt(self) -> None:
        """Let the workers finish the tenants in progress, and then end the run."""
        self._halted.set()

    async def run(self) -> None:
        """Run the rest of the job, and return after the job has ended or is halted and all workers have ended.

        Raises:
            TenantryError: The catalog failed. The job has not ended, and runs again later.
        """
        waves = await self._table.results.waves(self._job.id)
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
            # After a failure of the catalog or a cancellation, the workers finish their tenants.
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
        """Return the next tenant to process; None if the wave has no more tenants or the job is halted."""
        async with self._handing_out:
            await self._check_state()
            if self._halted.is_set():
                return None
            if not self._page:
                self._page.extend(
                    await self._table.results.pending(self._job.id, wave.wave, self._after, _TENANTS_PER_PAGE)
                )
            if not self._page:
                return None
            await self._check_failures(wave)
            if self._halted.is_set():
                return None
            item = self._page.popleft()
            self._after = item.position
            return item

    async def _check_state(self) -> None:
        """Halt the run if the job's state in the catalog is not ``running``; read the state at most once per poll interval."""
        now = self._now()
        if now - self._checked_seconds < self._context.config.catalog_poll_interval_seconds:
            return
        self._checked_seconds = now
        job = await self._table.get(self._job.id)
        if job.state is not JobState.RUNNING:
            self.halt()

    async def _run_tenant(self, item: PendingTenant) -> None:
        started = self._now()
        try:
            outcome = await self._work.run(self._job, item, self._halted)
        except JobHaltedError:
            self.halt()
            return
        seconds = self._now() - started
        # Retry until the outcome is recorded: without a recorded outcome, the work on the tenant would be repeated.
        await with_retries(
            lambda: self._table.results.finish(self._job.id, item, outcome, seconds),
            self._limits,
            wait=asyncio.sleep,
        )
        if outcome.is_failure:
            self._failed[item.wave] += 1
        self._context.report(FleetTenantFinished(item.tenant_id, self._job.kind, outcome.outcome, seconds))

    async def _check_failures(self, wave: FleetWave) -> None:
        """Stop the job if too many tenants have failed since the job's start, or since its last stop if the job was resumed."""
        options, accepted = self._job.options, self._job.failures_accepted
        failed = sum(self._failed.values()) - accepted
        limits = [("failures_max", options.failures_max, self._total)]
        if wave.wave == FIRST_WAVE and options.canary is not None:
            limits.insert(0, ("canary_failures_max", options.canary_failures_max, wave.total))
        for name, failures_max, total in limits:
            if failed > failures_allowed(failures_max, total):
                await self._end(
                    JobEvent.STOP,
                    f"{failed} {'tenant' if failed == 1 else 'tenants'} failed, more than {name} ({failures_max}) allows",
                )
                return

    async def _end(self, event: JobEvent, reason: str | None = None) -> None:
        self.halt()
        try:
            job = await self._table.apply(self._job.id, event, reason=reason)
        except JobError:
            return  # an operator has paused or cancelled the job in the meantime
        self._log.info(FLEET_JOB_ENDED, state=job.state, reason=reason)


async def _end_all(workers: list["asyncio.Task[None]"]) -> None:
    """Wait for the workers to end; if the wait is cancelled, cancel the workers."""
    try:
        await asyncio.wait(workers)
    except asyncio.CancelledError:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
        raise
