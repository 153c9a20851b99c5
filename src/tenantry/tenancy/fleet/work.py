"""What a fleet job does to one tenant: migrate it, check it, take a snapshot of it, or run a user's function on it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from tenantry.errors import (
    JobError,
    RegistryClosedError,
    TenantOwnedElsewhereError,
    TenantryError,
)
from tenantry.lifecycle import Permission, TenantEvent, check_serves
from tenantry.schema import Schema
from tenantry.storage.protocol import Backend
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.fleet.job import OK, SKIPPED, FleetJob
from tenantry.tenancy.fleet.options import as_json
from tenantry.tenancy.fleet.table import FleetTable, Outcome, PendingTenant
from tenantry.tenancy.handle import LeaseSource, TenantHandle
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.runner import OperationRunner
from tenantry.tenancy.refusals import busy_error
from tenantry.tenancy.tenant_record import TenantRecord

MIGRATE: Final = "migrate"
CHECK: Final = "check"
SNAPSHOT: Final = "snapshot"
BUILT_IN: Final = (MIGRATE, CHECK, SNAPSHOT)
_PERMISSIONS: Final = {MIGRATE: Permission.MIGRATE, CHECK: Permission.CHECK, SNAPSHOT: Permission.COPY}
SNAPSHOT_TRIGGER: Final = "fleet"

RETRY_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""How long to wait before each further attempt on a tenant whose error may pass: it is busy, full, or open elsewhere."""

RETRY_AFTER_SECONDS_MAX: Final = 5.0
ERROR_CHARACTERS_MAX: Final = 2_000
DETAIL_CHARACTERS_MAX: Final = 65_536

FleetFunction: TypeAlias = Callable[[TenantHandle, dict[str, Any]], Awaitable[dict[str, Any] | None]]
"""Works on one tenant, with the job's arguments; what it returns is kept as JSON."""


class TakenSnapshot(Protocol):
    """A snapshot, of which a job needs to know only the name."""

    @property
    def id(self) -> str:
        """What `Snapshotter.restore` is given."""
        ...


class Snapshotter(Protocol):
    """Takes snapshots of a tenant, and returns it to one."""

    async def create(self, tenant_id: str, *, trigger: str) -> TakenSnapshot:
        """Take one of the tenant as it is: a closed tenant is not migrated for it."""
        ...

    async def restore(self, tenant_id: str, snapshot_id: str, *, migrate: bool) -> object:
        """Return the tenant to one."""
        ...


class FleetHost(LeaseSource, Protocol):
    """The registry, as far as jobs need it."""

    def tenant(self, tenant_id: str) -> TenantHandle:
        """Return a handle on the tenant."""
        ...


class HaltedError(Exception):
    """The job is not to go on here: the tenant stays to be done."""


@dataclass(frozen=True, slots=True)
class FleetTools:
    """What the work needs."""

    catalog: Catalog
    pool: ActorPool
    runner: OperationRunner
    context: ActorContext
    host: FleetHost
    schemas: Sequence[Schema]
    backend: Backend
    snapshots: Snapshotter


class FleetWork:
    """Does the work of jobs on single tenants.

    Args:
        tools: What it needs.
        table: Where jobs are written down.
    """

    def __init__(self, tools: FleetTools, table: FleetTable) -> None:
        self._tools = tools
        self._table = table
        self._built_in = {MIGRATE: self._migrate, CHECK: self._check, SNAPSHOT: self._take_snapshot}
        self.functions: dict[str, FleetFunction] = {}

    def check_kind(self, kind: str, *, job_id: str | None = None) -> None:
        """Raise unless jobs of this kind can be run here.

        Raises:
            JobError: Nobody registered the function.
        """
        if kind not in BUILT_IN and kind not in self.functions:
            raise JobError(
                f"no function {kind!r} is registered here: register it (fleet.register) before the registry opens, and "
                f"resume the job; the kinds that need none are {', '.join(BUILT_IN)}",
                job_id=job_id,
            )

    async def do(self, job: FleetJob, item: PendingTenant, halted: asyncio.Event) -> Outcome:
        """Do the job's work on a tenant, in several attempts if its error may pass, and return how it ended.

        Raises:
            HaltedError: The job is not to go on before it ended.
        """
        for pause_seconds in (*RETRY_SECONDS, None):
            try:
                return await self._do_once(job, item)
            except RegistryClosedError as error:
                raise HaltedError from error
            except Exception as error:  # noqa: BLE001  # a user's function may raise anything; it is that tenant's failure
                ours = error if isinstance(error, TenantryError) else None
                if pause_seconds is None or ours is None or not ours.is_retryable:
                    return await self._failed(job, item, error)
                asked_seconds = min(ours.retry_after_seconds or 0.0, RETRY_AFTER_SECONDS_MAX)
                await _pause(max(pause_seconds, asked_seconds), halted)
        raise AssertionError  # the last attempt returns or raises

    async def _do_once(self, job: FleetJob, item: PendingTenant) -> Outcome:
        tenant = await self._tools.catalog.find_by_uid(item.tenant_uid)
        if tenant is None or tenant.state not in job.options.states:
            return _out_of_reach(tenant, item)
        if job.kind == MIGRATE and await self._is_current(tenant):
            return Outcome(SKIPPED)
        if job.options.snapshot_before and "snapshot_before" not in item.detail:
            item.detail["snapshot_before"] = await self._snapshot(tenant)
            # Before the work: if this process dies in the middle of it, this is still the way back.
            await self._table.note(job.id, item)
        work = self._built_in.get(job.kind) or partial(self._run_function, self.functions[job.kind])
        return await work(tenant, item, job.options.arguments)

    async def _failed(self, job: FleetJob, item: PendingTenant, error: Exception) -> Outcome:
        if job.options.return_on_failure and "snapshot_before" in item.detail:
            await self._return(item)
        if isinstance(error, TenantryError):
            return Outcome(error.outcome, str(error)[:ERROR_CHARACTERS_MAX])
        return Outcome(TenantryError.outcome, f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX])

    async def _return(self, item: PendingTenant) -> None:
        """Return the tenant to what it was before the work."""
        try:
            tenant = await self._tools.catalog.find_by_uid(item.tenant_uid)
            if tenant is not None:
                # As it was: a migration that failed would fail again.
                await self._tools.snapshots.restore(tenant.id, item.detail["snapshot_before"], migrate=False)
        except TenantryError as error:
            item.detail["return_error"] = str(error)[:ERROR_CHARACTERS_MAX]
        else:
            item.detail["is_returned"] = tenant is not None

    async def _migrate(self, tenant: TenantRecord, item: PendingTenant, _: dict[str, Any]) -> Outcome:
        try:
            lease = await self._tools.host.lease(tenant.id)
        except TenantOwnedElsewhereError:
            # Whoever has it open migrated it, to what that process knows, and noted it in the catalog.
            latest = await self._tools.catalog.find_by_uid(tenant.uid)
            if latest is None or not self._are_current(latest.schema_versions):
                raise
            return Outcome(SKIPPED)
        item.detail["schema_versions"] = lease.actor.schema_versions
        self._tools.host.release(lease)
        return Outcome(OK)

    async def _is_current(self, tenant: TenantRecord) -> bool:
        """Return whether the database has all migrations, without opening the tenant.

        The catalog only knows what it was at when it was last opened: somebody may have put an older file in its place. So
        the file has the last word; one that cannot be asked in passing is opened.
        """
        if not self._are_current(tenant.schema_versions):
            return False
        actor = self._tools.pool.actor(tenant.id)
        if actor is not None:
            return self._are_current(actor.schema_versions)
        versions = await self._tools.backend.closed_versions(tenant.place)
        return versions is not None and self._are_current(versions)

    def _are_current(self, versions: dict[str, int]) -> bool:
        return all(
            versions.get(schema.name) == len(schema.migrations(self._tools.backend.dialect))
            for schema in self._tools.schemas
        )

    async def _check(self, tenant: TenantRecord, _: PendingTenant, arguments: dict[str, Any]) -> Outcome:
        is_thorough = bool(arguments.get("thorough"))
        if not tenant.state.allows(Permission.SERVE):
            check = partial(self._check_closed, is_thorough=is_thorough)
            await self._tools.runner.run(tenant.id, CHECK, check)
            return Outcome(OK)
        lease = await self._tools.host.lease(tenant.id)
        try:
            await lease.actor.check_integrity(is_thorough=is_thorough)
        finally:
            self._tools.host.release(lease)
        return Outcome(OK)

    async def _check_closed(self, operation: Operation, *, is_thorough: bool) -> None:
        """Check the file of a tenant that serves nobody; no lifecycle operation begins meanwhile."""
        tenant = await operation.get()
        if tenant.state.allows(Permission.SERVE) or not tenant.state.allows(Permission.CHECK):
            raise busy_error(tenant.id, "resume", RETRY_SECONDS[0])  # its state changed meanwhile: look again
        async with self._tools.backend.exclusive(tenant.place, is_waited_for=False) as closed:
            await closed.check(is_thorough=is_thorough)

    async def _take_snapshot(self, tenant: TenantRecord, item: PendingTenant, _: dict[str, Any]) -> Outcome:
        item.detail["snapshot_id"] = await self._snapshot(tenant)
        return Outcome(OK)

    async def _snapshot(self, tenant: TenantRecord) -> str:
        return (await self._tools.snapshots.create(tenant.id, trigger=SNAPSHOT_TRIGGER)).id

    async def _run_function(
        self, function: FleetFunction, tenant: TenantRecord, item: PendingTenant, arguments: dict[str, Any]
    ) -> Outcome:
        result: object = await _called(function(self._tools.host.tenant(tenant.id), arguments))
        if result is not None:
            if not isinstance(result, dict) or len(as_json(result)) > DETAIL_CHARACTERS_MAX:
                raise ValueError(
                    f"a fleet function returns None or a dict of at most {DETAIL_CHARACTERS_MAX} characters as JSON"
                )
            item.detail["result"] = result
        return Outcome(OK)


def permission_for(kind: str) -> Permission:
    """Return what a tenant's state has to allow so that a job of this kind can work on it."""
    return _PERMISSIONS.get(kind, Permission.SERVE)


def _out_of_reach(tenant: TenantRecord | None, item: PendingTenant) -> Outcome:
    """Return the outcome of a tenant that the job is not for any more: somebody decided so; but for one that was quarantined.

    Raises:
        TenantQuarantinedError: It was, since the job was made.
    """
    if tenant is not None and tenant.state.allows(TenantEvent.REPAIR):
        check_serves(tenant.state, tenant_id=tenant.id, reason=tenant.reason)
    item.detail["skipped"] = "gone" if tenant is None else tenant.state
    return Outcome(SKIPPED)


async def _called(work: Awaitable[object]) -> object:
    """Await a user's function; that something it waited for was cancelled does not cancel the job.

    Raises:
        RuntimeError: It was.
    """
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("something that the function waited for was cancelled") from error


async def _pause(seconds: float, halted: asyncio.Event) -> None:
    """Wait, unless the job is not to go on.

    Raises:
        HaltedError: It is not.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await halted.wait()
            raise HaltedError
