"""Runs operations: one at a time for each tenant, written down before the work, audited, and finished after a crash.

Theory of operation. An operation that is one change of the catalog is that change, with its audit row in the same transaction. An
operation of several steps writes an `Intent` to the catalog first, and holds the tenant's lock (`Backend.lock`) until the intent is
cleared. So a process that finds an intent can tell two cases apart. If the lock is held, the operation is under way, and others are
told that the tenant is busy. If it is not held, the process died, and the first one that finds the intent finishes the operation or
takes it back. Steps can be repeated: after a crash the operation begins again at its first step.

    no intent            a change of the catalog, or: lock, intent
    intent, lock held    the steps, each reported (`OperationStepped`); the last change clears the intent
    intent, no lock      the process died: the operation's finisher does the rest

Each operation of several steps has a file of its own, with a class: ``run`` does it, ``finish`` does the rest after a crash, and
``action`` names it. The runner is made with all finishers, by action.

Each operation runs in a task of its own: when its caller is cancelled, it goes on to its end.
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
"""Finishes an operation whose process died, or takes it back. The tenant's lock is held."""


class FinishableOperation(Protocol):
    """An operation of several steps, which can be finished after a crash."""

    @property
    def action(self) -> str:
        """Its name."""

    async def finish(self, operation: Operation, tenant: TenantRecord) -> None:
        """Finish it, or take it back; see `Finisher`."""


def finishers_of(*operations: FinishableOperation) -> dict[str, Finisher]:
    """Return the finishers of the operations by action."""
    return {operation.action: operation.finish for operation in operations}


class OperationRunner:
    """Runs operations.

    Args:
        finishers: How each operation of several steps is finished after a crash, by action.
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
        """Run an operation in a task of its own, when the tenant's operations before it have ended.

        Cancellation stops the waiting, not the operation.

        Args:
            tenant_id: The tenant.
            action: The operation's name.
            work: Does it.
            queue: Operations with the same queue run one after the other.
            by: Who does it, for the audit; the user that the process runs as if left out.
            if_revision: The tenant's revision that it was decided on; None if any will do.
            last_outcome: That of the last try, if this is another one: the same failure is audited once.
            detail: Its arguments, for the audit.

        Raises:
            RegistryClosedError: The registry is not open.
            QueryError: The name in `by` is not valid.
            TenantryError: Why it failed; that is audited too.
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
        """Wait for the operations that are under way; after so many seconds, end those that only prepare something."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds_max)
        self._is_stopping = True
        for task in self._preparing:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Let the block be ended when the registry closes: it may change nothing outside of its scratch directory.

        For unpacking, checking and copying, which take the longer the larger a database is.

        Raises:
            RegistryClosedError: The registry closes.
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
        """Return whether the operation that is under way is this registry's own."""
        return tenant.uid in self._own_operations

    def unfinished(self) -> dict[str, int]:
        """Return how many tenants have an operation that was begun and cannot be finished for now, by its action."""
        return dict.fromkeys(self._finishers, 0) | self._unfinished.by_action()

    def leave_unfinished(self, tenant: TenantRecord, action: str, outcome: str) -> None:
        """Note that an operation that was begun has failed and is to be finished later; see `reconcile`."""
        self._unfinished.failed(tenant.uid, action, outcome)

    @asynccontextmanager
    async def lock(self, tenant: TenantRecord, action: str) -> AsyncIterator[None]:
        """Keep other operations of the tenant out, of this process and of others, while the block runs.

        Raises:
            TenantBusyError: Another operation of the tenant is under way.
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
            # Read again under the lock: another process may have finished it, and even begun another.
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
            try:
                with reported(operation, self.context):
                    await audited(operation, partial(self._finish, found), self.catalog, self._log)
            except TenantryError as error:
                self.leave_unfinished(found, operation.action, error.outcome)
                raise
            self._unfinished.succeeded(found.uid)
        self._log.info(RECONCILED, tenant_id=found.id, action=operation.action)

    async def reconcile(self, *, by: str | None = None) -> None:
        """Finish what crashed processes began. What cannot be finished is logged and tried again later, see `Retries`.

        Args:
            by: Who finishes it, for the audit; the user that the process runs as if left out.
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
                continue  # Its process is alive.
            except TenantryError as error:
                self._log.failure(LIFECYCLE_FAILED, error, tenant_id=tenant.id, action="reconcile")

    async def _is_leftover(self, tenant: TenantRecord) -> bool:
        """Read the tenant again, so that no lock is taken that an operation of this moment needs."""
        found = await self.catalog.find_by_uid(tenant.uid)
        # After a rename its operations run in another turn, beside this one.
        return found is not None and found.id == tenant.id and found.is_under_way and not self.is_own(found)

    async def _finish(self, tenant: TenantRecord, operation: Operation) -> None:
        finisher = self._finishers.get(operation.action)
        if finisher is None:
            # An operation of a newer tenantry: only that one knows what it did to the database.
            raise busy_error(tenant.id, operation.action)
        await finisher(operation, tenant)

    def _turn(self, tenant_id: TenantId, queue: str = "") -> asyncio.Lock:
        return self._locks.setdefault((tenant_id, queue), asyncio.Lock())

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Retrieved here, because a caller that was cancelled will not, and asyncio would log that. It was logged.
            task.exception()

    async def _run(self, operation: Operation, work: Work[T], queue: str) -> T:
        try:
            with reported(operation, self.context):
                async with self._turn(operation.tenant_id, queue):
                    # Operations before it may have taken hours.
                    await check_authority()
                    result = await audited(operation, work, self.catalog, self._log)
        except TenantryError as error:
            self._log.failure(LIFECYCLE_FAILED, error, tenant_id=operation.tenant_id, action=operation.action)
            raise
        self._log.info(LIFECYCLE_CALLED, tenant_id=operation.tenant_id, action=operation.action)
        return result


def _action(tenant: TenantRecord) -> str:
    """Return which operation of the tenant is under way."""
    return tenant.intent.action if tenant.intent is not None else "create"
