"""Jobs that do the same work on many tenants and survive a restart of the process: `TenantRegistry.fleet`.

A job and its tenants are written to the catalog before the work begins. The process that holds the job's lock runs the job
(`tenantry.tenancy.fleet.job_run`). If the process dies or closes its registry, another registry on the same data directory
continues the job. Pause, resume and cancel change the catalog, which the process that runs the job reads.
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

    The kind of a job is the work on each tenant:

    * ``migrate``: opens the tenant, and thereby applies its migrations. A tenant that has all migrations is skipped. A tenant whose
      migration fails is quarantined with the reason.
    * ``check``: checks the tenant's database for damage, while calls continue. A damaged tenant that serves calls is quarantined.
      With the argument ``thorough``, the check also compares indexes with their tables. Suspended, archived and quarantined tenants
      can be checked too.
    * ``snapshot``: takes a snapshot of the tenant. The tenant may be suspended, archived, quarantined or deleted.
    * ``move``: moves the tenant to the back end that the argument ``to`` names, see `TenantRegistry.move`. A tenant that is there
      already is skipped. The tenant may be suspended or archived.
    * the name of a registered function, see `register`.

    Each tenant gets one outcome, and a tenant with an outcome is not processed again. If the process dies during the work on a
    tenant, the work may be done twice. Migrations and checks are idempotent, and your own functions must also be idempotent.
    """

    def __init__(self, tools: FleetTools, *, check_open: Callable[[], None], log: EventLog) -> None:
        self._tools = tools
        self._check_open = check_open
        self._poll_seconds = tools.context.config.catalog_poll_interval_seconds
        self._table = FleetTable(tools.catalog, tools.context.clock, tools.limits)
        self._work = FleetWork(tools, self._table)
        self._runner = FleetRunner(tools, self._table, self._work, log)

    def register(self, name: str, function: FleetFunction) -> None:
        """Register a kind of job that calls ``await function(tenant, arguments)`` for each tenant.

        The function gets the tenant's handle and the job's arguments. The function returns None, or a dict that is stored as JSON
        with the result. An exception becomes the tenant's outcome. The function is called again for the same tenant after a
        retryable error (`is_retryable`), or if the process died or the registry closed during the call.

        Register the function before the registry opens; otherwise an unfinished job of this kind is paused.

        Raises:
            JobError: Another function or a built-in kind has this name.
        """
        if name in BUILT_IN or self._work.functions.get(name, function) is not function:
            raise JobError(f"another function or a built-in kind has the name {name!r}: choose another name")
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
        """Start a job over the tenants that meet all conditions now, and return the job. Tenants are processed in id order.

        If a tenant's state is no longer one of `states` at its turn, the tenant is skipped, but a quarantined tenant counts as failed.
        If this call is cancelled, the job may have been started.

        Args:
            kind: The kind of work, see `Fleet`.
            states: The states of the tenants. Only jobs of the kinds ``check``, ``snapshot`` and ``move`` work on tenants that are
                not active.
            tenant_ids: The ids of the tenants, at most 10,000; None for all tenants.
            id_prefix: The prefix of the tenants' ids.
            below: Schema versions, such as ``{"company": 2}``; selects tenants with a recorded version below one of these versions.
            canary: The size of a first wave, as a number or a share of all tenants (``"5%"``, at least one tenant), spread evenly
                over the ids. The second wave begins when all tenants of the first wave have an outcome.
            concurrency: The number of tenants processed at the same time. All jobs of a registry together leave half of
                ``open_tenants_max`` to callers.
            failures_max: The number or share (0.02) of tenants that may fail; None for any number. If more tenants fail, the job
                finishes the tenants in progress and stops. After `resume`, failures are counted from zero again.
            canary_failures_max: The number or share of the first wave's tenants that may fail; 0 by default.
            snapshot_before: Whether to take a snapshot of each tenant before the work.
            return_on_failure: Whether to take a snapshot of each tenant, and to restore the tenant if the work fails.
            arguments: The arguments of the work. The catalog stores the arguments: do not pass secrets.
            by: The principal for the audit of the job and its work; by default the user of the process.

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
            await self._work.check_kind(kind, options.arguments)
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
            state: The state of the jobs; None for all states.
            limit: The largest number of items; 100 by default.
            cursor: The `next_cursor` of the previous page.

        Raises:
            QueryError: `limit` or `cursor` is not valid.
        """
        self._check_open()
        return await self._table.list(state, limit, cursor)

    async def progress(self, job_id: str) -> FleetProgress:
        """Return the progress of a job, which may run in another process.

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
            outcome: The outcome of the returned tenants; ``failed`` for any error, ``left`` for tenants without an outcome, None for all.
            limit: The largest number of items; 100 by default.
            cursor: The `next_cursor` of the previous page.

        Raises:
            JobNotFoundError: The job does not exist.
            QueryError: `limit` or `cursor` is not valid.
        """
        self._check_open()
        await self._table.get(job_id)
        return await self._table.results.list(job_id, outcome, limit, cursor)

    async def pause(self, job_id: str, *, reason: str | None = None, by: str | None = None) -> FleetJob:
        """Pause a job: the job finishes the tenants in progress, and starts no others until `resume`. Idempotent.

        Another process that runs the job reads the pause from the catalog within ``catalog_poll_interval_seconds``.

        Raises:
            JobNotFoundError: The job does not exist.
            JobError: The job has ended.
        """
        check_reason(reason)
        return await self._steer(job_id, JobEvent.PAUSE, by, reason=reason)

    async def resume(
        self, job_id: str, *, failures_max: float | None = None, by: str | None = None
    ) -> FleetJob:
        """Continue a paused or stopped job. Idempotent.

        When a stopped job is resumed, its earlier failures no longer count towards `failures_max`.

        Args:
            job_id: The job's id.
            failures_max: The number or share of tenants that may fail from now on, see `start`; unchanged by default.
            by: The principal for the audit; by default the user of the process.

        Raises:
            JobNotFoundError: The job does not exist.
            JobError: The job has ended, or its function is not registered here.
            MissingSchemaError: The job migrates, and this registry lacks schema packs that tenants have.
        """
        self._check_open()
        principal = principal_of(by)
        changes = {} if failures_max is None else {"failures_max": failures_max}
        async with self._audited_refusal(JobEvent.RESUME, job_id, principal):
            job = await self._table.get(job_id)
            _options(**(job.options.model_dump() | changes))
            await self._work.check_kind(job.kind, job.options.arguments, job_id=job_id)
        async with self._runner.spawning(job_id):
            return await self._steer(job_id, JobEvent.RESUME, principal, **changes)

    async def cancel(self, job_id: str, *, reason: str | None = None, by: str | None = None) -> FleetJob:
        """Cancel a job permanently: the job finishes the tenants in progress, and starts no others. Raises as `pause` does."""
        check_reason(reason)
        return await self._steer(job_id, JobEvent.CANCEL, by, reason=reason)

    async def wait(self, job_id: str) -> FleetProgress:
        """Wait until a job is paused, is stopped or has ended, and return its progress. The job may run in another process.

        When this method returns, this process no longer works on the job. Cancelling the caller does not stop the job.

        Raises:
            JobNotFoundError: The job does not exist.
            RegistryClosedError: The registry was closed. The job continues when a registry is opened.
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
        """Return a tenant's schema versions, pending migrations and last error, as recorded at the tenant's last opening.

        Raises:
            InvalidTenantIdError: The string is not a valid tenant id.
            TenantNotFoundError: The tenant does not exist.
            BackendNotConfiguredError: The settings of this process do not name the tenant's back end.
        """
        self._check_open()
        tenant = await self._tools.catalog.get_latest(parse_tenant_id(tenant_id))
        is_quarantined = tenant.state.allows(TenantEvent.REPAIR)
        dialect = self._tools.backends.of(tenant.backend).dialect
        pending = (
            migration
            for schema in self._tools.schemas
            for migration in schema.migrations(dialect)[tenant.schema_versions.get(schema.name, 0) :]
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
        """Run the jobs whose process died or closed its registry. Called periodically."""
        await self._runner.adopt()

    async def delete_expired(self) -> None:
        """Delete the jobs that ended more than ``fleet_retention_seconds`` ago. Called periodically."""
        context = self._tools.context
        await self._table.delete_expired(context.watch.expired_before(context.config.fleet_retention_seconds))

    async def aclose(self) -> None:
        """Finish the tenants in progress, and halt this process's jobs; another registry continues the jobs. Idempotent.

        Work that does not end within ``shutdown_timeout_seconds`` is cancelled; the registry that continues the job repeats the work.
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
        """If the body of the ``async with`` statement refuses the caller's request, record the refusal in the audit."""
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
            raise JobError(f"a {kind!r} job cannot work on {state} tenants (possible: {', '.join(allowed)})")
