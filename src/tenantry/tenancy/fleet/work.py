"""The work of a fleet job on one tenant: a migration, a check, a snapshot, a move, or a call of the user's function."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from tenantry.errors import (
    BackendNotConfiguredError,
    JobError,
    RegistryClosedError,
    TenantOwnedElsewhereError,
    TenantryError,
)
from tenantry.lifecycle import Permission, TenantEvent, check_allows
from tenantry.schemas.schema import Schema
from tenantry.storage.backends import Backends
from tenantry.storage.protocol import Backend
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.catalog.recorded_schemas import RecordedSchemas
from tenantry.tenancy.fleet.attempts import with_retries
from tenantry.tenancy.fleet.job import OK, SKIPPED, FleetJob
from tenantry.tenancy.fleet.limits import FLEET_LIMITS, FleetLimits
from tenantry.tenancy.fleet.options import as_json
from tenantry.tenancy.fleet.results import Outcome, PendingTenant
from tenantry.tenancy.fleet.table import FleetTable
from tenantry.tenancy.handle import TenantHandle
from tenantry.tenancy.move.move import Move
from tenantry.tenancy.opening.tenant_leases import TenantLeases
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.runner import OperationRunner
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.refusals import busy_error
from tenantry.tenancy.snapshots.snapshots import Snapshots
from tenantry.tenancy.tenant_record import TenantRecord

MIGRATE: Final = "migrate"
CHECK: Final = "check"
SNAPSHOT: Final = "snapshot"
MOVE: Final = "move"
BUILT_IN: Final = (MIGRATE, CHECK, SNAPSHOT, MOVE)
_PERMISSIONS: Final = {
    MIGRATE: Permission.MIGRATE,
    CHECK: Permission.CHECK,
    SNAPSHOT: Permission.COPY,
    MOVE: Permission.MOVE,
}
SNAPSHOT_TRIGGER: Final = "fleet"

TARGET: Final = "to"
"""The argument of a move: the name of the back end to which the tenants move."""

ERROR_CHARACTERS_MAX: Final = 2_000
DETAIL_CHARACTERS_MAX: Final = 65_536

FleetFunction: TypeAlias = Callable[[TenantHandle, dict[str, Any]], Awaitable[dict[str, Any] | None]]
"""A user's function, which works on one tenant with the job's arguments. The function's result is stored as JSON."""


class JobHaltedError(Exception):
    """The job was halted in this process before the work on a tenant ended; the tenant stays pending."""


@dataclass(frozen=True, slots=True)
class FleetTools:
    """The components that the work uses."""

    operations: OperationTools
    catalog: Catalog
    pool: ActorPool
    runner: OperationRunner
    context: ActorContext
    leases: TenantLeases
    schemas: Sequence[Schema]
    recorded_schemas: RecordedSchemas
    backends: Backends
    snapshots: Snapshots
    move: Move
    limits: FleetLimits = FLEET_LIMITS


class FleetWork:
    """Does the work of fleet jobs on single tenants."""

    def __init__(self, tools: FleetTools, table: FleetTable) -> None:
        self._tools = tools
        self._table = table
        self._built_in = {
            MIGRATE: self._migrate,
            CHECK: self._check,
            SNAPSHOT: self._take_snapshot,
            MOVE: self._move,
        }
        self.functions: dict[str, FleetFunction] = {}

    async def check_kind(self, kind: str, arguments: Mapping[str, Any], *, job_id: str | None = None) -> None:
        """Raise an error unless this registry can run jobs of this kind with these arguments.

        Raises:
            JobError: No function with this name is registered, or the arguments of a move do not name a back end of this registry.
            MissingSchemaError: The job migrates, and this registry lacks schema packs that tenants have.
        """
        if kind == MIGRATE:
            await self._tools.recorded_schemas.check()
        if kind == MOVE:
            self._check_target(arguments, job_id)
        if kind not in BUILT_IN and kind not in self.functions:
            then = ", and resume the job" if job_id is not None else ""
            raise JobError(
                f"no function {kind!r} is registered here: register the function (fleet.register) before the registry opens{then}; "
                f"built-in kinds are {', '.join(BUILT_IN)}",
                job_id=job_id,
            )

    def _check_target(self, arguments: Mapping[str, Any], job_id: str | None) -> None:
        to = arguments.get(TARGET)
        if not isinstance(to, str) or set(arguments) != {TARGET}:
            raise JobError(
                f"a {MOVE!r} job has one argument, the name of the back end to which the tenants move: {{'{TARGET}': 'east'}}",
                job_id=job_id,
            )
        try:
            self._tools.backends.of(to)
        except BackendNotConfiguredError as error:
            raise JobError(str(error), job_id=job_id) from error

    async def run(self, job: FleetJob, item: PendingTenant, halted: asyncio.Event) -> Outcome:
        """Do the job's work on a tenant, retry the work after retryable errors, and return the outcome.

        Raises:
            JobHaltedError: The job was halted between two attempts, or the registry was closed.
        """
        try:
            return await with_retries(
                partial(self._attempt, job, item),
                self._tools.limits,
                wait=partial(_wait_unless_halted, halted),
            )
        except JobHaltedError:
            raise
        except RegistryClosedError as error:
            raise JobHaltedError from error
        except Exception as error:  # noqa: BLE001  # any exception of a user's function counts as the tenant's failure
            return await self._failed(job, item, error)

    async def _attempt(self, job: FleetJob, item: PendingTenant) -> Outcome:
        tenant = await self._tools.catalog.find_by_uid(item.tenant_uid)
        if tenant is None or tenant.state not in job.options.states:
            return _skipped_by_state(tenant, item)
        if job.kind == MIGRATE and await self._is_current(tenant):
            return Outcome(SKIPPED)
        if job.kind == MOVE and tenant.backend == job.options.arguments[TARGET]:
            return Outcome(SKIPPED)
        if job.options.snapshot_before and "snapshot_before" not in item.detail:
            item.detail["snapshot_before"] = await self._snapshot(tenant, job)
            # Record the snapshot before the work, in case this process dies during the work.
            await self._table.results.note(job.id, item)
        work = self._built_in.get(job.kind) or partial(self._run_function, self.functions[job.kind])
        return await work(tenant, item, job)

    async def _failed(self, job: FleetJob, item: PendingTenant, error: Exception) -> Outcome:
        if job.options.return_on_failure and "snapshot_before" in item.detail:
            await self._restore(job, item)
        if isinstance(error, TenantryError):
            return Outcome(error.outcome, str(error)[:ERROR_CHARACTERS_MAX])
        return Outcome(TenantryError.outcome, f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX])

    async def _restore(self, job: FleetJob, item: PendingTenant) -> None:
        """Restore the tenant from the snapshot that was taken before the work."""
        try:
            tenant = await self._tools.catalog.find_by_uid(item.tenant_uid)
            if tenant is not None:
                # Do not migrate the restored database: if a migration has failed, the migration would fail again.
                await self._tools.snapshots.restore(
                    tenant.id, item.detail["snapshot_before"], migrate=False, by=job.created_by
                )
        except TenantryError as error:
            item.detail["return_error"] = str(error)[:ERROR_CHARACTERS_MAX]
        else:
            item.detail["is_returned"] = tenant is not None

    async def _migrate(self, tenant: TenantRecord, item: PendingTenant, _: FleetJob) -> Outcome:
        try:
            lease = await self._tools.leases.lease_here(tenant.id)
        except TenantOwnedElsewhereError:
            # The process that has the tenant open has migrated the tenant, and has recorded the versions in the catalog.
            latest = await self._tools.catalog.find_by_uid(tenant.uid)
            if latest is not None and self._are_current(latest.schema_versions, self._backend_of(latest)):
                return Outcome(SKIPPED)
            # That process has fewer migrations than this one.
            lease = await self._tools.operations.take_over(tenant, MIGRATE)
        item.detail["schema_versions"] = lease.actor.schema_versions
        self._tools.leases.release(lease)
        return Outcome(OK)

    async def _is_current(self, tenant: TenantRecord) -> bool:
        """Return whether the database has all migrations, without opening the tenant.

        The catalog has the versions of the tenant's last opening, but an operator may have replaced the file. The versions are
        therefore also read from the file. If the file cannot be read without a lock, return False: the job then opens the tenant.
        """
        backend = self._backend_of(tenant)
        if not self._are_current(tenant.schema_versions, backend):
            return False
        actor = self._tools.pool.actor(tenant.id)
        if actor is not None:
            return self._are_current(actor.schema_versions, backend)
        versions = await backend.closed_versions(tenant.place)
        return versions is not None and self._are_current(versions, backend)

    def _are_current(self, versions: dict[str, int], backend: Backend) -> bool:
        return all(
            versions.get(schema.name) == len(schema.migrations(backend.dialect))
            for schema in self._tools.schemas
        )

    def _backend_of(self, tenant: TenantRecord) -> Backend:
        return self._tools.backends.of(tenant.backend)

    async def _check(self, tenant: TenantRecord, _: PendingTenant, job: FleetJob) -> Outcome:
        is_thorough = bool(job.options.arguments.get("thorough"))
        if not tenant.state.allows(Permission.READ):
            check = partial(self._check_closed, is_thorough=is_thorough)
            await self._tools.runner.run(tenant.id, CHECK, check, by=job.created_by)
            return Outcome(OK)
        await self._tools.operations.owners.do(
            tenant,
            lambda: self._check_open(tenant, is_thorough=is_thorough),
            lambda owned: owned.check_integrity(is_thorough=is_thorough),
        )
        return Outcome(OK)

    async def _check_open(self, tenant: TenantRecord, *, is_thorough: bool) -> None:
        lease = await self._tools.leases.lease_here(tenant.id)
        try:
            await lease.actor.check_integrity(is_thorough=is_thorough)
        finally:
            self._tools.leases.release(lease)

    async def _check_closed(self, operation: Operation, *, is_thorough: bool) -> None:
        """Check the database of a tenant that serves no calls, while other operations on the tenant wait."""
        tenant = await operation.get()
        if tenant.state.allows(Permission.READ) or not tenant.state.allows(Permission.CHECK):
            # The tenant's state was changed after the job read it.
            raise busy_error(tenant.id, "resume", self._tools.limits.retry_seconds[0])
        async with self._tools.operations.owners.exclusive(
            self._backend_of(tenant), tenant.place, CHECK, is_waited_for=False
        ) as closed:
            await closed.check(is_thorough=is_thorough)

    async def _take_snapshot(self, tenant: TenantRecord, item: PendingTenant, job: FleetJob) -> Outcome:
        item.detail["snapshot_id"] = await self._snapshot(tenant, job)
        return Outcome(OK)

    async def _move(self, tenant: TenantRecord, item: PendingTenant, job: FleetJob) -> Outcome:
        to = job.options.arguments[TARGET]
        item.detail["from"] = tenant.backend
        await self._tools.runner.run(
            tenant.id, MOVE, partial(self._tools.move.run, to=to), by=job.created_by, to=to
        )
        return Outcome(OK)

    async def _snapshot(self, tenant: TenantRecord, job: FleetJob) -> str:
        taken = await self._tools.snapshots.create(tenant.id, trigger=SNAPSHOT_TRIGGER, by=job.created_by)
        return taken.id

    async def _run_function(
        self, function: FleetFunction, tenant: TenantRecord, item: PendingTenant, job: FleetJob
    ) -> Outcome:
        result: object = await _awaited(function(self._tools.leases.tenant(tenant.id), job.options.arguments))
        if result is not None:
            if not isinstance(result, dict) or len(as_json(result)) > DETAIL_CHARACTERS_MAX:
                raise ValueError(
                    f"a fleet function must return None or a dict of at most {DETAIL_CHARACTERS_MAX} characters as JSON"
                )
            item.detail["result"] = result
        return Outcome(OK)


def permission_for(kind: str) -> Permission:
    """Return the permission that a tenant's state must give, so that a job of this kind can work on the tenant."""
    return _PERMISSIONS.get(kind, Permission.WRITE)


def _skipped_by_state(tenant: TenantRecord | None, item: PendingTenant) -> Outcome:
    """Return the outcome ``skipped`` for a tenant whose state was changed since the job's start to one that the job does not select.

    Raises:
        TenantQuarantinedError: The tenant was quarantined. The job counts a quarantined tenant as failed.
    """
    if tenant is not None and tenant.state.allows(TenantEvent.REPAIR):
        check_allows(tenant.state, Permission.READ, tenant_id=tenant.id, reason=tenant.reason)
    item.detail["skipped"] = "gone" if tenant is None else tenant.state
    return Outcome(SKIPPED)


async def _awaited(work: Awaitable[object]) -> object:
    """Await a user's function; a cancellation inside the function does not cancel the job.

    Raises:
        RuntimeError: A task or a future that the function awaited was cancelled.
    """
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("a task or a future that the function awaited was cancelled") from error


async def _wait_unless_halted(halted: asyncio.Event, seconds: float) -> None:
    """Wait for a number of seconds; raise `JobHaltedError` if the job is halted."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await halted.wait()
            raise JobHaltedError
