"""Runs operations: one at a time for each tenant, recorded before the work, audited, and recovered after a crash.

Theory of operation. An operation that only changes the catalog is one transaction, which includes the audit row. An operation
with several steps first writes an `Intent` to the catalog, and holds the tenant's lock (`Backend.lock`) until the intent is
cleared. If a process finds an intent and the lock is held, the operation is running, and the tenant is busy. If the lock is free,
the operation's process died, and the first process that finds the intent finishes or rolls back the operation. Every step is
idempotent: after a crash the operation begins again at its first step.

    ``no intent``          The operation changes the catalog, or takes the lock and writes the intent.
    ``intent, lock held``  The operation reports each step (`OperationStepped`). The last change clears the intent.
    ``intent, no lock``    The process died, and the operation's finisher finishes or rolls back the operation.

Each operation with several steps is a class in its own module: ``run`` runs the operation, ``finish`` recovers the operation
after a crash, and ``action`` is the operation's name. The runner gets a dict of all finishers, keyed by action.

Each operation runs in a separate task, so cancelling the caller does not stop the operation.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from tenantry.errors import (
    RegistryClosedError,
    TenantBusyError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.ids import TenantId
from tenantry.storage.protocol import Backend, LockTakenError
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.catalog.audit import principal_of
from tenantry.tenancy.catalog.authority import check_authority
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.operations.attempt import Work, audited, reported
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.retries import Retries
from tenantry.tenancy.refusals import busy_error
from tenantry.tenancy.tenant_record import TenantRecord

T = TypeVar("T")

LIFECYCLE_CALLED: Final = "tenantry.lifecycle.called"
LIFECYCLE_FAILED: Final = "tenantry.lifecycle.failed"
RECONCILED: Final = "tenantry.lifecycle.reconciled"


Finisher: TypeAlias = Callable[[Operation, TenantRecord], Awaitable[None]]
"""Finishes or rolls back an operation whose process died, while the runner holds the tenant's lock."""


class FinishableOperation(Protocol):
    """An operation with several steps that can be finished after a crash."""

    @property
    def action(self) -> str:
        """The operation's name."""

    async def finish(self, operation: Operation, tenant: TenantRecord) -> None:
        """Finish or roll back the operation; see `Finisher`."""


def finishers_of(*operations: FinishableOperation) -> dict[str, Finisher]:
    """Return the finishers of the operations, keyed by action."""
    return {operation.action: operation.finish for operation in operations}


class OperationRunner:
    """Runs operations.

    Args:
        finishers: The finishers of all operations with several steps, keyed by action.
    """

    def __init__(
        self,
        catalog: Catalog,
        context: ActorContext,
        backend: Backend,
        *,
        finishers: Mapping[str, Finisher],
        check_open: Callable[[], None],
        log: EventLog,
    ) -> None:
        self.catalog = catalog
        self.context = context
        self.check_open = check_open
        self._backend = backend
        self._finishers = dict(finishers)
        self._log = log
        self._locks: WeakValueDictionary[tuple[TenantId, str], asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._preparing: set[asyncio.Task[Any]] = set()
        self._is_stopping = False
        self._own_operations: dict[str, str] = {}
        self._unfinished = Retries(context.clock.monotonic_seconds)

    async def run(
        self,
        tenant_id: TenantId,
        action: str,
        work: Work[T],
        *,
        queue: str = "",
        by: str | None = None,
        if_revision: int | None = None,
        last_outcome: str | None = None,
        **detail: Any,
    ) -> T:
        """Run an operation in a separate task, after the tenant's earlier operations have ended.

        Cancelling the caller does not stop the operation.

        Args:
            tenant_id: The tenant's id.
            action: The operation's name.
            work: The function that does the work.
            queue: The name of a queue; operations of a tenant in the same queue run one at a time.
            by: The principal for the audit; by default the user of the process.
            if_revision: The revision that the tenant must have; None to accept any revision.
            last_outcome: The outcome of the last attempt, if this operation is a retry; a repeated failure is audited only once.
            detail: The operation's arguments, for the audit.

        Raises:
            RegistryClosedError: The registry is not open.
            QueryError: `by` is not a valid name of a principal.
            TenantryError: The operation failed; the failure is audited.
        """
        self.check_open()
        operation = Operation(
            self,
            tenant_id,
            action,
            detail,
            principal=principal_of(by),
            expected_revision=if_revision,
            last_outcome=last_outcome,
        )
        task = asyncio.get_running_loop().create_task(self._run(operation, work, queue))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def wait_ended(self, seconds_max: float) -> None:
        """Wait for the running operations to end; after `seconds_max`, cancel operations that are still preparing."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds_max)
        self._is_stopping = True
        for task in self._preparing:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Allow the registry's shutdown to cancel the block; the block may change only its scratch directory.

        Use this method to unpack, check or copy a database: these steps take long if the database is large.

        Raises:
            RegistryClosedError: The registry was closed during the block.
        """
        task = asyncio.current_task()
        assert task is not None
        closed = RegistryClosedError(
            "the registry was closed while the operation prepared its database: call again"
        )
        if self._is_stopping:
            raise closed
        self._preparing.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise
            task.uncancel()
            raise closed from None
        finally:
            self._preparing.discard(task)

    def is_own(self, tenant: TenantRecord) -> bool:
        """Return whether this registry runs the tenant's current operation."""
        return tenant.uid in self._own_operations

    def unfinished(self) -> dict[str, int]:
        """Return the number of tenants with an operation that could not be finished yet, by action."""
        return dict.fromkeys(self._finishers, 0) | self._unfinished.by_action()

    def leave_unfinished(self, tenant: TenantRecord, action: str, outcome: str) -> None:
        """Record that a failed operation must be finished later; see `reconcile`."""
        self._unfinished.failed(tenant.uid, action, outcome)

    @asynccontextmanager
    async def lock(self, tenant: TenantRecord, action: str) -> AsyncIterator[None]:
        """Exclude other operations on the tenant, in all processes, during the block.

        Raises:
            TenantBusyError: Another operation on the tenant is running.
            PersistenceConnectionError: The lock cannot be taken.
        """
        async with AsyncExitStack() as held:
            try:
                await held.enter_async_context(self._backend.lock(tenant.uid))
            except LockTakenError as error:
                raise busy_error(tenant.id, _action(tenant) if tenant.is_under_way else action) from error
            self._own_operations[tenant.uid] = action
            try:
                yield
            finally:
                del self._own_operations[tenant.uid]

    async def finish_leftover(self, tenant: TenantRecord, *, by: str) -> None:
        """Finish the operation of a process that died.

        Raises:
            TenantBusyError: The process is alive.
            TenantryError: The operation cannot be finished now.
        """
        async with self.lock(tenant, _action(tenant)):
            # Read the tenant again under the lock: another process may have finished the operation or begun another operation.
            found = await self.catalog.find_by_uid(tenant.uid)
            if found is None or not found.is_under_way:
                return
            begun_by = found.intent.arguments.get("begun_by") if found.intent is not None else None
            operation = Operation(
                self,
                found.id,
                _action(found),
                {"is_reconciled": True, "begun_by": begun_by},
                principal=by,
                last_outcome=self._unfinished.last_outcome(found.uid),
            )
            operation.tenant_uid = found.uid
            operation.intent = found.intent
            try:
                with reported(operation, self.context):
                    await audited(operation, partial(self._finish, found.uid), self.catalog, self._log)
            except TenantryError as error:
                self.leave_unfinished(found, operation.action, error.outcome)
                raise
            self._unfinished.succeeded(found.uid)
        self._log.info(RECONCILED, tenant_id=found.id, action=operation.action)

    async def reconcile(self, *, by: str | None = None) -> None:
        """Finish the operations of crashed processes. A failure is logged, and the operation is retried later; see `Retries`.

        Args:
            by: The principal for the audit; by default the user of the process.
        """
        principal = principal_of(by)
        under_way = await self.catalog.under_way()
        self._unfinished.keep_only({tenant.uid for tenant in under_way})
        for tenant in under_way:
            if self.is_own(tenant) or not self._unfinished.is_due(tenant.uid):
                continue
            try:
                async with self._turn(tenant.id):
                    if await self._is_leftover(tenant):
                        await self.finish_leftover(tenant, by=principal)
            except TenantBusyError:
                continue  # The operation's process is alive.
            except TenantryError as error:
                self._log.failure(LIFECYCLE_FAILED, error, tenant_id=tenant.id, action="reconcile")

    async def _is_leftover(self, tenant: TenantRecord) -> bool:
        """Read the tenant again, and return whether another process left the tenant's operation unfinished."""
        found = await self.catalog.find_by_uid(tenant.uid)
        # Skip a renamed tenant: its operations run under the lock of the new id, but only the lock of the old id is held here.
        return found is not None and found.id == tenant.id and found.is_under_way and not self.is_own(found)

    async def _finish(self, uid: str, operation: Operation) -> None:
        # Each attempt reads the record again: a process that has lost its lock without noticing may still change it.
        tenant = await self.catalog.find_by_uid(uid)
        if (
            tenant is None
            or not tenant.is_under_way
            or not (operation.intent is None or operation.owns(tenant))
        ):
            operation.is_audited = True  # that process has finished the operation, and has audited it
            return
        finisher = self._finishers.get(operation.action)
        if finisher is None:
            # Only the newer version of tenantry that began the operation can finish the operation.
            raise busy_error(tenant.id, operation.action)
        await finisher(operation, tenant)

    def _turn(self, tenant_id: TenantId, queue: str = "") -> asyncio.Lock:
        return self._locks.setdefault((tenant_id, queue), asyncio.Lock())

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Retrieve the logged error; otherwise asyncio would log the error again if the caller was cancelled.
            task.exception()

    async def _run(self, operation: Operation, work: Work[T], queue: str) -> T:
        try:
            with reported(operation, self.context):
                async with self._turn(operation.tenant_id, queue):
                    # Check the caller's authority again: earlier operations may have taken hours.
                    await check_authority()
                    result = await audited(operation, work, self.catalog, self._log)
        except TenantryError as error:
            self._log.failure(LIFECYCLE_FAILED, error, tenant_id=operation.tenant_id, action=operation.action)
            raise
        self._log.info(LIFECYCLE_CALLED, tenant_id=operation.tenant_id, action=operation.action)
        return result


def _action(tenant: TenantRecord) -> str:
    """Return the name of the tenant's unfinished operation."""
    return tenant.intent.action if tenant.intent is not None else "create"
