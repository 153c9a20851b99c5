"""Runs the fleet jobs whose locks this process can acquire."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from tenantry.errors import JobError, MissingSchemaError
from tenantry.eventlog import EventLog
from tenantry.storage.protocol import LockTakenError
from tenantry.tenancy.fleet.job import LIVE_STATES, JobEvent
from tenantry.tenancy.fleet.job_run import JobRun
from tenantry.tenancy.fleet.table import FleetTable
from tenantry.tenancy.fleet.work import FleetTools, FleetWork
from tenantry.texts import as_reason

FLEET_JOB_BEGUN: Final = "tenantry.fleet.begun"
FLEET_JOB_PAUSED: Final = "tenantry.fleet.paused"
FLEET_JOB_FAILED: Final = "tenantry.fleet.failed"
PLACES_SHARE: Final = 0.5
"""The share of ``open_tenants_max`` that all jobs together use. Callers use the rest."""


class FleetRunner:
    """Runs one task for each job that this process runs or tries to lock."""

    def __init__(self, tools: FleetTools, table: FleetTable, work: FleetWork, log: EventLog) -> None:
        self._tools = tools
        self._table = table
        self._work = work
        self._context = tools.context
        self._log = log
        self._places = asyncio.Semaphore(max(1, int(self._context.config.open_tenants_max * PLACES_SHARE)))
        self._runs: dict[str, JobRun] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # the newest task of each job
        self._alive: set[asyncio.Task[None]] = set()
        self._not_before: dict[str, float] = {}
        self._is_closed = False

    def task(self, job_id: str) -> "asyncio.Task[None] | None":
        """Return this process's task that runs the job or tries to acquire the job's lock; None if there is no such task."""
        return self._tasks.get(job_id)

    @asynccontextmanager
    async def spawning(self, job_id: str) -> AsyncIterator[None]:
        """Hold the job's lock during the block, which starts or resumes the job in the catalog, and then run the job.

        The lock ensures that this process runs the job. Without the lock, another process could find the job in the catalog and
        run the job, but that process may lack the function that the job needs.

        Raises:
            PersistenceConnectionError: The lock file cannot be opened.
        """
        async with AsyncExitStack() as lock:
            has_lock = await self._take_lock(job_id, lock)
            yield
            if not self._is_closed:
                self._spawn(job_id, lock.pop_all() if has_lock else None)

    def halt(self, job_id: str) -> None:
        """Halt the job after the tenants in progress, if the job runs in this process."""
        if job_id in self._runs:
            self._runs[job_id].halt()

    async def adopt(self) -> None:
        """Start to run the live jobs that no process runs."""
        now = self._context.clock.monotonic_seconds()
        for job_id in await self._table.live():
            if self._is_closed:
                return
            if job_id not in self._tasks and self._not_before.get(job_id, now) <= now:
                self._spawn(job_id)

    async def aclose(self) -> None:
        """See `Fleet.aclose`."""
        self._is_closed = True
        for run in self._runs.values():
            run.halt()
        if not self._alive:
            return
        _, late = await asyncio.wait(self._alive, timeout=self._context.config.shutdown_timeout_seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def _spawn(self, job_id: str, lock: AsyncExitStack | None = None) -> None:
        """Run the job in a task, which acquires the job's lock if `lock` is None and releases the lock at the end."""
        # The new task first waits for the job's previous task, because the previous task may miss that the job was resumed, and end.
        work = self._run(job_id, self._tasks.get(job_id), lock)
        # Use a new context: the deadline of the call that starts the job must not apply to the job, which may run for hours.
        task = asyncio.get_running_loop().create_task(
            work, name=f"tenantry fleet {job_id}", context=contextvars.Context()
        )
        self._tasks[job_id] = task
        self._alive.add(task)
        task.add_done_callback(partial(self._ended, job_id))

    async def _take_lock(self, job_id: str, lock: AsyncExitStack) -> bool:
        """Acquire the job's lock and push it onto the stack; return False if another process holds the lock."""
        try:
            await lock.enter_async_context(self._tools.backends.catalog.lock(f"fleet-{job_id}"))
        except LockTakenError:
            return False
        return True

    def _ended(self, job_id: str, task: "asyncio.Task[None]") -> None:
        self._alive.discard(task)
        if self._tasks.get(job_id) is task:
            del self._tasks[job_id]

    async def _run(
        self, job_id: str, before: "asyncio.Task[None] | None", given: AsyncExitStack | None
    ) -> None:
        async with given or AsyncExitStack() as lock:
            try:
                if before is not None:
                    await asyncio.wait([before])
                if given is not None or await self._take_lock(job_id, lock):
                    await self._run_locked(job_id)
            except Exception as error:  # noqa: BLE001  # after any error the job runs again later
                now = self._context.clock.monotonic_seconds()
                self._not_before[job_id] = now + self._tools.limits.failed_retry_seconds
                self._log.error(
                    FLEET_JOB_FAILED, job_id=job_id, error=str(error), error_type=type(error).__name__
                )

    async def _run_locked(self, job_id: str) -> None:
        job = await self._table.get(job_id)
        if job.state not in LIVE_STATES or self._is_closed:
            return
        try:
            await self._work.check_kind(job.kind, job.options.arguments, job_id=job_id)
        except (JobError, MissingSchemaError) as error:
            await self._table.apply(job_id, JobEvent.PAUSE, reason=as_reason(str(error)))
            self._log.warning(FLEET_JOB_PAUSED, job_id=job_id, reason=str(error))
            return
        begun = await self._table.begin(job_id)
        if begun is None or self._is_closed:
            return
        self._log.info(FLEET_JOB_BEGUN, job_id=job_id, kind=begun.kind)
        run = self._runs[job_id] = JobRun(
            begun,
            self._tools,
            self._table,
            self._work,
            places=self._places,
            log=self._log.bind(job_id=job_id),
        )
        try:
            await run.run()
        finally:
            del self._runs[job_id]
