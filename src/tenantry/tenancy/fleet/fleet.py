"""The same work over many tenants, as jobs that outlive the process: `TenantRegistry.fleet`.

A job is written down in the catalog before anything of it is done, with the tenants it is for. Whichever process holds its
lock runs it (`tenantry.tenancy.fleet.job_run`); when that one dies, or closes its registry, the next registry on the same
directory, or one that is open already, goes on where it was. Pause, resume and cancel change the catalog, and so reach the
process that runs it, wherever it is.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic import ValidationError

from tenantry.errors import JobError, QueryError, TenantNotFoundError
from tenantry.eventlog import EventLog
from tenantry.ids import parse_tenant_id
from tenantry.lifecycle import TenantEvent, TenantState, states_that_allow
from tenantry.pages import Page
from tenantry.tenancy.fleet.job import (
    LIVE_STATES,
    FleetJob,
    FleetProgress,
    FleetResult,
    JobEvent,
    JobState,
    TenantMigrationStatus,
)
from tenantry.tenancy.fleet.options import CONCURRENCY, JOB_FAILURES_MAX, FleetOptions
from tenantry.tenancy.fleet.runner import FleetRunner
from tenantry.tenancy.fleet.table import FleetTable
from tenantry.tenancy.fleet.work import (
    BUILT_IN,
    FleetFunction,
    FleetTools,
    FleetWork,
    permission_for,
)
from tenantry.texts import check_reason

TENANT_IDS_MAX: Final = 10_000


class Fleet:
    """Starts jobs over many tenants, steers them, and tells how far they are.

    A job does one of these to each of its tenants:

    * ``migrate``: opens it, which migrates it; one that is current is skipped without being opened. One whose migration
      fails is quarantined with the reason, as it is when a call opens it. Whoever comes first, the job or a call, migrates
      it, and the other finds it done.
    * ``check``: looks for damage in its database, beside its calls; one that serves calls and is damaged is quarantined.
      With the argument ``thorough`` indexes are compared with their tables too. Suspended, archived and quarantined tenants
      can be checked as well.
    * ``snapshot``: takes a snapshot of it; also of a tenant that is suspended, archived, quarantined or deleted.
    * the name of a function of your own, see `register`.

    Each tenant gets one outcome, and a tenant with an outcome is never worked on again. One whose work was under way when the
    process died has none, though the work may have been done: it is done again. To migrate and to check again changes
    nothing; a function has to bear it.

    Args:
        tools: What the work needs.
        check_open: Raises unless the registry is open.
        log: Of the registry.
    """

    def __init__(self, tools: FleetTools, *, check_open: Callable[[], None], log: EventLog) -> None:
        self._tools = tools
        self._check_open = check_open
        self._poll_seconds = tools.context.config.catalog_poll_interval_seconds
        self._table = FleetTable(tools.catalog, tools.context.clock)
        self._work = FleetWork(tools, self._table)
        self._runner = FleetRunner(self._table, self._work, tools.backend, tools.context, log)

    def register(self, name: str, function: FleetFunction) -> None:
        """Let jobs of this kind call ``await function(tenant, arguments)`` for each of their tenants.

        It is given the tenant's handle and the job's arguments, and returns None or a dict that is kept, as JSON, with the
        result; what it raises is the tenant's outcome. It has to bear being called again for a tenant: when its process
        died, or its registry closed, in the middle of it, and after an error that may pass (`is_retryable`).

        Register before the registry opens: a job that is found there, and whose function is not, is paused.

        Raises:
            JobError: The name is taken.
        """
        if name in BUILT_IN or self._work.functions.get(name, function) is not function:
            raise JobError(f"the kind {name!r} is taken: choose another name")
        self._work.functions[name] = function

    async def start(
        self,
        kind: str,
        *,
        states: Sequence[TenantState | str] = (TenantState.ACTIVE,),
        tenant_ids: Sequence[str] | None = None,
        id_prefix: str | None = None,
        below: dict[str, int] | None = None,
        canary: int | str | None = None,
        concurrency: int = CONCURRENCY,
        failures_max: float | None = JOB_FAILURES_MAX,
        canary_failures_max: float | None = 0,
        snapshot_before: bool = False,
        return_on_failure: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> FleetJob:
        """Start a job and return it; it goes on by itself, in the order of ids.

        The tenants are chosen now: those that fulfil all of the conditions. One that has left these states when its turn comes
        is skipped, or failed if it was quarantined.

        Args:
            kind: See the class.
            states: Tenants in these states. All kinds but ``check`` and ``snapshot`` are for active tenants only.
            tenant_ids: Only these, 10,000 at most.
            id_prefix: Only those whose ids begin so.
            below: Only those that are below one of these schema versions, as far as the catalog knows: ``{"company": 2}``.
            canary: So many go first, a number or a share of them all (``"5%"``, at least one), spread evenly over the ids;
                the rest begins only after every one of them.
            concurrency: How many are worked on at once; all jobs of a registry together leave half of its
                ``open_tenants_max`` to callers.
            failures_max: When more than so many tenants have failed, a number or a share of all (0.02), the job stops: no
                further tenant is begun, those that were are finished. None for never. `resume` accepts the failures so far,
                and counts from there.
            canary_failures_max: The same for the canary wave, as a share of that: by default one failure stops.
            snapshot_before: Take a snapshot of each tenant before the work on it.
            return_on_failure: Return a tenant to that snapshot if the work fails; takes one before, of course.
            arguments: What the work is given. Kept in the catalog, so: no secrets.

        A caller that is cancelled may have started it.

        Raises:
            JobError: The kind or an argument is none.
            TenantNotFoundError: One of `tenant_ids` does not exist.
            InvalidTenantIdError: One of them is none.
        """
        self._check_open()
        try:
            options = _options(
                states=states,
                id_prefix=id_prefix,
                below=below,
                canary=canary,
                concurrency=concurrency,
                failures_max=failures_max,
                canary_failures_max=canary_failures_max,
                snapshot_before=snapshot_before or return_on_failure,
                return_on_failure=return_on_failure,
                arguments=arguments or {},
            )
            self._work.check_kind(kind)
            _check_states(kind, options.states)
        except JobError as error:
            await self._table.refuse("start", None, error)
            raise
        ids = None if tenant_ids is None else await self._existing(tenant_ids)
        job_id = self._table.new_id()
        async with self._runner.spawning(job_id):
            return await self._table.insert(job_id, kind, options, ids)

    async def get(self, job_id: str) -> FleetJob:
        """Return a job.

        Raises:
            JobNotFoundError: There is none.
        """
        self._check_open()
        return await self._table.get(job_id)

    async def list(
        self, *, state: JobState | None = None, limit: int | None = None, cursor: str | None = None
    ) -> Page[FleetJob]:
        """Return a page of jobs, newest first.

        Args:
            state: Only jobs in this state.
            limit: How many at most; 100 if left out.
            cursor: The `next_cursor` of the page before.

        Raises:
            QueryError: `limit` or `cursor` is not one.
        """
        self._check_open()
        return await self._table.list(state, limit, cursor)

    async def progress(self, job_id: str) -> FleetProgress:
        """Return how far a job is, whichever process runs it.

        Raises:
            JobNotFoundError: There is none.
        """
        self._check_open()
        return await self._table.progress(job_id)

    async def results(
        self,
        job_id: str,
        *,
        outcome: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[FleetResult]:
        """Return a page of what became of a job's tenants, in the order of waves and ids.

        Args:
            job_id: The job.
            outcome: Only tenants with this outcome; ``failed`` for any error's, ``left`` for those without one yet. Those that
                have one if left out.
            limit: How many at most; 100 if left out.
            cursor: The `next_cursor` of the page before.

        Raises:
            JobNotFoundError: There is no such job.
            QueryError: `limit` or `cursor` is not one.
        """
        self._check_open()
        await self._table.get(job_id)
        return await self._table.results(job_id, outcome, limit, cursor)

    async def pause(self, job_id: str, *, reason: str | None = None) -> FleetJob:
        """Begin no further tenant of a job, until it is resumed; those that were begun are finished.

        Another process that runs it notices within ``catalog_poll_interval_seconds``. Can be repeated.

        Raises:
            JobNotFoundError: There is no such job.
            JobError: It has ended.
        """
        check_reason(reason)
        return await self._steer(job_id, JobEvent.PAUSE, reason=reason)

    async def resume(self, job_id: str, *, failures_max: float | None = None) -> FleetJob:
        """Let a paused or stopped job go on. Can be repeated.

        After a stop this accepts the failures so far: it stops again after as many more.

        Args:
            job_id: The job.
            failures_max: How many more may fail from now on, see `start`; as before if left out.

        Raises:
            JobNotFoundError: There is no such job.
            JobError: It has ended, or its function is not registered here.
        """
        self._check_open()
        changes = {} if failures_max is None else {"failures_max": failures_max}
        try:
            job = await self._table.get(job_id)
            _options(**(job.options.model_dump() | changes))
            self._work.check_kind(job.kind, job_id=job_id)
        except JobError as error:
            await self._table.refuse(JobEvent.RESUME, job_id, error)
            raise
        async with self._runner.spawning(job_id):
            return await self._steer(job_id, JobEvent.RESUME, **changes)

    async def cancel(self, job_id: str, *, reason: str | None = None) -> FleetJob:
        """End a job: begin no further tenant of it, ever; those that were begun are finished. Like `pause` otherwise."""
        check_reason(reason)
        return await self._steer(job_id, JobEvent.CANCEL, reason=reason)

    async def wait(self, job_id: str) -> FleetProgress:
        """Wait until a job is paused, stopped or has ended, in whatever process, and return how far it is then.

        If it runs here, nothing of it does any more when this returns. Cancellation stops the waiting only.

        Raises:
            JobNotFoundError: There is no such job.
            RegistryClosedError: The registry closed; the job goes on when one is opened again.
        """
        while True:
            self._check_open()
            task = self._runner.task(job_id)
            job = await self._table.get(job_id)
            if task is not None:
                await asyncio.wait([task])
            elif job.state in LIVE_STATES:
                await asyncio.sleep(self._poll_seconds)
            else:
                return await self._table.progress(job_id)

    async def status(self, tenant_id: str) -> TenantMigrationStatus:
        """Return which schema versions a tenant is at, which migrations it lacks, and what went wrong with it last.

        From the catalog: as of when it was last opened.

        Raises:
            InvalidTenantIdError: The text is no tenant id.
            TenantNotFoundError: There is none.
        """
        self._check_open()
        tenant = await self._tools.catalog.get(parse_tenant_id(tenant_id))
        is_quarantined = tenant.state.allows(TenantEvent.REPAIR)
        pending = (
            migration
            for schema in self._tools.schemas
            for migration in schema.migrations(self._tools.backend.dialect)[
                tenant.schema_versions.get(schema.name, 0) :
            ]
        )
        return TenantMigrationStatus(
            tenant_id=tenant.id,
            state=tenant.state,
            schema_versions=tenant.schema_versions,
            pending=tuple(map(str, pending)),
            last_error=tenant.reason if is_quarantined else tenant.last_error,
        )

    async def adopt(self) -> None:
        """Run the jobs that nobody runs, because their process died or closed; for the registry, again and again."""
        await self._runner.adopt()

    async def forget_expired(self) -> None:
        """Forget the jobs that ended more than ``fleet_retention_seconds`` ago; for the registry, once in a while."""
        context = self._tools.context
        await self._table.forget_expired(context.watch.expired_before(context.config.fleet_retention_seconds))

    async def aclose(self) -> None:
        """End what runs here between two tenants; the jobs stay to be run by whoever opens a registry next. Idempotent.

        A tenant that is not finished in ``shutdown_timeout_seconds`` is left, and done again then.
        """
        await self._runner.aclose()

    async def _existing(self, tenant_ids: Sequence[str]) -> Sequence[Any]:
        if len(tenant_ids) > TENANT_IDS_MAX:
            raise QueryError(
                f"{len(tenant_ids)} tenant_ids are more than {TENANT_IDS_MAX}: use a filter, or several jobs"
            )
        ids = [parse_tenant_id(tenant_id) for tenant_id in tenant_ids]
        found = await self._tools.catalog.find_many(ids)
        for tenant_id in ids:
            if tenant_id not in found:
                raise TenantNotFoundError(f"tenant {tenant_id!r} does not exist", tenant_id=tenant_id)
        return ids

    async def _steer(self, job_id: str, event: JobEvent, **changes: Any) -> FleetJob:
        self._check_open()
        try:
            job = await self._table.apply(job_id, event, **changes)
        except JobError as error:
            await self._table.refuse(event, job_id, error)
            raise
        if job.state not in LIVE_STATES:
            self._runner.halt(job_id)
        return job


def _options(**values: Any) -> FleetOptions:
    try:
        return FleetOptions.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise JobError(f"{'.'.join(map(str, first['loc'][:1]))}: {first['msg']}") from error


def _check_states(kind: str, states: Sequence[TenantState]) -> None:
    allowed = states_that_allow(permission_for(kind))
    for state in states:
        if state not in allowed:
            raise JobError(f"{kind} is not for {state} tenants (possible: {', '.join(allowed)})")
