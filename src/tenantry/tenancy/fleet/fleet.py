"""Jobs that do the same work on many tenants and outlive the process: `TenantRegistry.fleet`.

A job and its tenants are written to the catalog before the work begins. The process that holds the job's lock runs it
(`tenantry.tenancy.fleet.job_run`). If that process dies or closes its registry, another registry on the same directory continues
the job, at once or when it is opened. Pause, resume and cancel change the catalog, which the process that runs the job reads.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from pydantic import ValidationError

from tenantry.errors import JobError, MissingSchemaError, QueryError
from tenantry.eventlog import EventLog
from tenantry.ids import parse_tenant_id
from tenantry.lifecycle import TenantEvent, TenantState, no_such_tenant, states_that_allow
from tenantry.pages import Page
from tenantry.tenancy.catalog.audit import principal_of
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
    """Starts, pauses, resumes and cancels jobs over many tenants, and reports their progress.

    The kind of a job is the work that it does on each of its tenants:

    * ``migrate``: opens the tenant, which migrates it. A tenant that has all migrations is skipped and not opened. A tenant whose
      migration fails is quarantined with the reason, as when a call opens it.
    * ``check``: checks the tenant's database for damage, while its calls continue. A tenant that serves calls and is damaged is
      quarantined. With the argument ``thorough``, indexes are compared with their tables too. Suspended, archived and quarantined
      tenants can be checked as well.
    * ``snapshot``: takes a snapshot of the tenant; also if it is suspended, archived, quarantined or deleted.
    * the name of a function of your own, see `register`.

    Each tenant gets one outcome, and a tenant with an outcome is not worked on again. If the process dies during the work on a
    tenant, the tenant has no outcome, and the work is done again, though it may have been done. Migrating or checking again changes
    nothing; a function must be repeatable.
    """

    def __init__(self, tools: FleetTools, *, check_open: Callable[[], None], log: EventLog) -> None:
        self._tools = tools
        self._check_open = check_open
        self._poll_seconds = tools.context.config.catalog_poll_interval_seconds
        self._table = FleetTable(tools.catalog, tools.context.clock, tools.limits)
        self._work = FleetWork(tools, self._table)
        self._runner = FleetRunner(tools, self._table, self._work, log)

    def register(self, name: str, function: FleetFunction) -> None:
        """Let jobs of this kind call ``await function(tenant, arguments)`` for each of their tenants.

        The function gets the tenant's handle and the job's arguments. It returns None, or a dict that is stored as JSON with the
        result. An error that it raises is the tenant's outcome. It may be called again for a tenant: if the process died or the
        registry closed during the first call, and after an error that may pass (`is_retryable`).

        Register the function before the registry opens: a job whose function is missing then is paused.

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
        by: str | None = None,
    ) -> FleetJob:
        """Start a job over the tenants that meet all of the conditions now, and return it. It works in the order of ids.

        A tenant that has left these states before its turn is skipped; if it was quarantined, it has failed. A cancelled call may
        have started the job.

        Args:
            kind: See the class.
            states: Tenants in these states. All kinds but ``check`` and ``snapshot`` are for active tenants only.
            tenant_ids: Only these tenants, 10,000 at most.
            id_prefix: Only tenants whose ids begin with this.
            below: Only tenants below one of these schema versions, as far as the catalog knows: ``{"company": 2}``.
            canary: The size of a first wave, a number or a share of all tenants (``"5%"``, at least one), spread evenly over the
                ids. The other tenants are begun when all of its tenants have an outcome.
            concurrency: How many tenants are worked on at once. All jobs of a registry together leave half of its
                ``open_tenants_max`` to callers.
            failures_max: How many tenants may fail, a number or a share of all (0.02). When more have failed, the job stops: no
                further tenant is begun, and those that were begun are finished. None for any number. `resume` accepts the failures
                so far and counts from zero.
            canary_failures_max: The same for the first wave; by default one failure stops the job.
            snapshot_before: Whether to take a snapshot of each tenant before the work on it.
            return_on_failure: Whether to restore a tenant from a snapshot taken before the work if the work fails.
            arguments: What the work is given. They are stored in the catalog: do not give secrets.
            by: Who starts it, for the audit, also of the work itself; the user that the process runs as if left out.

        Raises:
            JobError: The kind or an option is not valid.
            MissingSchemaError: The job migrates, and this registry lacks schema packs that tenants have.
            TenantNotFoundError: One of `tenant_ids` does not exist.
            InvalidTenantIdError: One of `tenant_ids` is not a valid id.
        """
        self._check_open()
        principal = principal_of(by)
        async with self._audited_refusal("start", None, principal):
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
            await self._work.check_kind(kind)
            _check_states(kind, options.states)
        ids = None if tenant_ids is None else await self._existing(tenant_ids)
        job_id = self._table.new_id()
        async with self._runner.spawning(job_id):
            return await self._table.insert(job_id, kind, options, ids, by=principal)

    async def get(self, job_id: str) -> FleetJob:
        """Return a job.

        Raises:
            JobNotFoundError: The job does not exist.
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
            QueryError: `limit` or `cursor` is not valid.
        """
        self._check_open()
        return await self._table.list(state, limit, cursor)

    async def progress(self, job_id: str) -> FleetProgress:
        """Return the progress of a job, in whatever process it runs.

        Raises:
            JobNotFoundError: The job does not exist.
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
        """Return a page of the outcomes of a job's tenants, in the order of waves and ids.

        Args:
            job_id: The job.
            outcome: Only tenants with this outcome; ``failed`` for any error's, ``left`` for tenants without one yet. All tenants
                with an outcome if left out.
            limit: How many at most; 100 if left out.
            cursor: The `next_cursor` of the page before.

        Raises:
            JobNotFoundError: The job does not exist.
            QueryError: `limit` or `cursor` is not valid.
        """
        self._check_open()
        await self._table.get(job_id)
        return await self._table.results.list(job_id, outcome, limit, cursor)

    async def pause(self, job_id: str, *, reason: str | None = None, by: str | None = None) -> FleetJob:
        """Begin no further tenant of a job until it is resumed. Those that were begun are finished. Repeatable.

        Another process that runs the job reads this from the catalog within ``catalog_poll_interval_seconds``.

        Raises:
            JobNotFoundError: The job does not exist.
            JobError: It has ended.
        """
        check_reason(reason)
        return await self._steer(job_id, JobEvent.PAUSE, by, reason=reason)

    async def resume(
        self, job_id: str, *, failures_max: float | None = None, by: str | None = None
    ) -> FleetJob:
        """Let a paused or stopped job continue. Repeatable.

        After a stop this accepts the failures so far: the job stops again after as many more.

        Args:
            job_id: The job.
            failures_max: How many more tenants may fail, see `start`; as before if left out.
            by: Who resumes it, for the audit; the user that the process runs as if left out.

        Raises:
            JobNotFoundError: The job does not exist.
            JobError: It has ended, or its function is not registered here.
            MissingSchemaError: It migrates, and this registry lacks schema packs that tenants have.
        """
        self._check_open()
        principal = principal_of(by)
        changes = {} if failures_max is None else {"failures_max": failures_max}
        async with self._audited_refusal(JobEvent.RESUME, job_id, principal):
            job = await self._table.get(job_id)
            _options(**(job.options.model_dump() | changes))
            await self._work.check_kind(job.kind, job_id=job_id)
        async with self._runner.spawning(job_id):
            return await self._steer(job_id, JobEvent.RESUME, principal, **changes)

    async def cancel(self, job_id: str, *, reason: str | None = None, by: str | None = None) -> FleetJob:
        """End a job for good: begin no further tenant. Those that were begun are finished. Otherwise like `pause`."""
        check_reason(reason)
        return await self._steer(job_id, JobEvent.CANCEL, by, reason=reason)

    async def wait(self, job_id: str) -> FleetProgress:
        """Wait until a job is paused, stopped or has ended, in whatever process it runs, and return its progress.

        When this returns, no work of the job runs in this process. Cancellation stops the waiting, not the job.

        Raises:
            JobNotFoundError: The job does not exist.
            RegistryClosedError: The registry closed. The job continues when a registry is opened.
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
        """Return a tenant's schema versions, the migrations that it lacks, and its last error.

        They are those of the tenant's last opening, from the catalog.

        Raises:
            InvalidTenantIdError: The text is not a valid tenant id.
            TenantNotFoundError: The tenant does not exist.
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
            unknown_schemas=await self._tools.recorded_schemas.missing(),
            last_error=tenant.reason if is_quarantined else tenant.last_error,
        )

    async def adopt(self) -> None:
        """Run the jobs that no process runs, because their process died or closed its registry. Called periodically."""
        await self._runner.adopt()

    async def delete_expired(self) -> None:
        """Delete the jobs that ended more than ``fleet_retention_seconds`` ago. Called periodically."""
        context = self._tools.context
        await self._table.delete_expired(context.watch.expired_before(context.config.fleet_retention_seconds))

    async def aclose(self) -> None:
        """Halt the jobs of this process between two tenants; the next registry that is opened continues them. Idempotent.

        Work on a tenant that does not end in ``shutdown_timeout_seconds`` is cancelled, and done again by that registry.
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
                raise no_such_tenant(tenant_id)
        return ids

    async def _steer(self, job_id: str, event: JobEvent, by: str | None, **changes: Any) -> FleetJob:
        self._check_open()
        principal = principal_of(by)
        async with self._audited_refusal(event, job_id, principal):
            job = await self._table.apply(job_id, event, by=principal, **changes)
        if job.state not in LIVE_STATES:
            self._runner.halt(job_id)
        return job

    @asynccontextmanager
    async def _audited_refusal(self, action: str, job_id: str | None, by: str) -> AsyncIterator[None]:
        """Record in the audit that the block refused a call."""
        try:
            yield
        except (JobError, MissingSchemaError) as error:
            await self._table.refuse(action, job_id, error, by)
            raise


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
