"""Which fleet jobs this process runs: those whose lock it could take."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from tenantry.errors import JobError
from tenantry.eventlog import EventLog
from tenantry.files.lock_file import LockFile, LockHeldError, lock_error
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.catalog.audit import acting_as
from tenantry.tenancy.fleet.job import LIVE_STATES, JobEvent
from tenantry.tenancy.fleet.job_run import FleetRun
from tenantry.tenancy.fleet.table import FleetTable
from tenantry.tenancy.fleet.work import FleetWork
from tenantry.texts import as_reason
from tenantry.threads import run_in_thread

FLEET_JOB_BEGUN: Final = "tenantry.fleet.begun"
FLEET_JOB_PAUSED: Final = "tenantry.fleet.paused"
FLEET_JOB_FAILED: Final = "tenantry.fleet.failed"
PLACES_SHARE: Final = 0.5
"""The part of ``open_tenants_max`` that jobs work on at once, all together: the rest is left to callers."""

FAILED_RETRY_SECONDS: Final = 5.0
"""When a job that the catalog's failure ended is run again."""


class FleetRunner:
    """Keeps one task for each job that this process runs, or tries to.

    Args:
        table: Where jobs are written down.
        work: Does their work on single tenants.
        context: Settings, clock and event hook.
        log: Of the registry.
    """

    def __init__(self, table: FleetTable, work: FleetWork, context: ActorContext, log: EventLog) -> None:
        self._table = table
        self._work = work
        self._context = context
        self._log = log
        self._places = asyncio.Semaphore(max(1, int(context.config.open_tenants_max * PLACES_SHARE)))
        self._runs: dict[str, FleetRun] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # the last of each job
        self._alive: set[asyncio.Task[None]] = set()
        self._not_before: dict[str, float] = {}
        self._is_closed = False

    def task(self, job_id: str) -> "asyncio.Task[None] | None":
        """Return the task that runs the job here, or tries to."""
        return self._tasks.get(job_id)

    @asynccontextmanager
    async def spawning(self, job_id: str) -> AsyncIterator[None]:
        """Hold the job's lock over the block that makes it one to be run, and run it then.

        So whoever starts or resumes a job runs it: another process, which sees it in the catalog at once, may not have the
        function that it needs.

        Raises:
            PersistenceConnectionError: The lock file cannot be opened.
        """
        lock = await self._lock(job_id)
        try:
            yield
        except BaseException:
            lock.remove()
            raise
        self._spawn(job_id, lock)

    def halt(self, job_id: str) -> None:
        """Begin no further tenant of the job, if it runs here."""
        if job_id in self._runs:
            self._runs[job_id].halt()

    async def adopt(self) -> None:
        """Run the jobs that nobody runs."""
        now = self._context.clock.monotonic_seconds()
        for job_id in await self._table.live():
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

    def _spawn(self, job_id: str, lock: LockFile | None = None) -> None:
        if self._is_closed:
            if lock is not None:
                lock.remove()
            return
        # After the one before it, if that is just about to end: it may not have seen that the job was resumed.
        work = self._run(job_id, self._tasks.get(job_id), lock)
        # A context of its own: the limits of the call that started the job do not apply to the job, which may run for hours.
        task = asyncio.get_running_loop().create_task(
            work, name=f"tenantry fleet {job_id}", context=contextvars.Context()
        )
        self._tasks[job_id] = task
        self._alive.add(task)
        task.add_done_callback(partial(self._ended, job_id))

    async def _lock(self, job_id: str) -> LockFile:
        """Return the job's lock, held if nobody else has it."""
        lock = LockFile(self._context.config.data_dir / "operations" / f"fleet-{job_id}")
        try:
            await run_in_thread(lock.acquire)
        except LockHeldError:
            pass
        except OSError as error:
            raise lock_error(lock.path, error) from error
        except BaseException:
            lock.remove()
            raise
        return lock

    def _ended(self, job_id: str, task: "asyncio.Task[None]") -> None:
        self._alive.discard(task)
        if self._tasks.get(job_id) is task:
            del self._tasks[job_id]

    async def _run(self, job_id: str, before: "asyncio.Task[None] | None", lock: LockFile | None) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            if lock is None or not lock.is_held:
                lock = await self._lock(job_id)
            if lock.is_held:
                await self._run_locked(job_id)
        except Exception as error:  # noqa: BLE001  # whatever it is, the job stays to be run and is tried again
            self._not_before[job_id] = self._context.clock.monotonic_seconds() + FAILED_RETRY_SECONDS
            self._log.error(
                FLEET_JOB_FAILED, job_id=job_id, error=str(error), error_type=type(error).__name__
            )
        finally:
            if lock is not None:
                lock.remove()

    async def _run_locked(self, job_id: str) -> None:
        job = await self._table.get(job_id)
        if job.state not in LIVE_STATES or self._is_closed:
            return
        try:
            self._work.check_kind(job.kind, job_id=job_id)
        except JobError as error:
            await self._table.apply(job_id, JobEvent.PAUSE, reason=as_reason(str(error)), is_audited=False)
            self._log.warning(FLEET_JOB_PAUSED, job_id=job_id, reason=str(error))
            return
        begun = await self._table.begin(job_id)
        if begun is None or self._is_closed:
            return
        self._log.info(FLEET_JOB_BEGUN, job_id=job_id, kind=begun.kind)
        run = self._runs[job_id] = FleetRun(
            begun,
            self._table,
            self._work,
            places=self._places,
            context=self._context,
            log=self._log.bind(job_id=job_id),
        )
        try:
            with acting_as(begun.created_by):
                await run.run()
        finally:
            del self._runs[job_id]
