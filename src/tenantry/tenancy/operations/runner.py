"""How lifecycle operations run: one at a time for each tenant, written down before the work, audited, and finished after a crash.

Theory of operation. A call that is one change of the catalog is that change, with its audit row in the same transaction. A
call of several steps writes an `Intent` to the catalog first and holds the operation's lock (`LockFile`) until the intent
is gone. So whoever meets an intent can tell: the lock is held, somebody is at it, and everybody else is told that the
tenant is busy; or it is not, because its process died, and whoever meets it first finishes the call or takes it back.
Steps can be repeated: after a crash the call begins again at its first.

    no intent            a change of the catalog, or: lock, intent
    intent, lock held    the steps, each reported (`OperationStepped`); the last change clears the intent
    intent, no lock      the process died: the call's finisher does the rest

Each call runs in a task of its own: a caller that is cancelled does not leave it half done.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from tenantry.errors import (
    PersistenceConnectionError,
    RegistryClosedError,
    TenantBusyError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.events import OperationEnded
from tenantry.files.lock_file import LockFile, LockHeldError, lock_error
from tenantry.ids import TenantId
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.catalog.authority import check_authority
from tenantry.tenancy.catalog.catalog import Catalog, StaleTenantError
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.retries import Retries
from tenantry.tenancy.refusals import busy_error
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.threads import run_in_thread

T = TypeVar("T")

LIFECYCLE_CALLED: Final = "tenantry.lifecycle.called"
LIFECYCLE_FAILED: Final = "tenantry.lifecycle.failed"
AUDIT_FAILED: Final = "tenantry.lifecycle.audit_failed"
RECONCILED: Final = "tenantry.lifecycle.reconciled"


Work: TypeAlias = Callable[[Operation], Awaitable[T]]
Finisher: TypeAlias = Callable[[Operation, TenantRecord], Awaitable[None]]
"""Finishes a call whose process died, or takes it back. It holds the operation's lock."""


class OperationRunner:
    """Runs lifecycle operations.

    Args:
        catalog: Where intents and the audit are.
        context: Settings, clock and event hook.
        log: Of the registry.
    """

    def __init__(self, catalog: Catalog, context: ActorContext, log: EventLog) -> None:
        self.catalog = catalog
        self.context = context
        self._log = log
        self._locks: WeakValueDictionary[tuple[TenantId, str], asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._preparing: set[asyncio.Task[Any]] = set()
        self._is_stopping = False
        self._own_operations: dict[str, str] = {}
        self._unfinished = Retries(context.clock.monotonic_seconds)
        self.finishers: dict[str, Finisher] = {}
        """By action: how to finish a call after a crash."""
        self.check_open: Callable[[], None] = _do_nothing
        """Raises unless calls may begin: the registry's."""

    async def run(
        self,
        tenant_id: TenantId,
        action: str,
        work: Work[T],
        *,
        queue: str = "",
        last_outcome: str | None = None,
        **detail: Any,
    ) -> T:
        """Run a call in a task of its own, once the tenant's others have ended.

        Args:
            tenant_id: The tenant.
            action: The call's name.
            work: Does it.
            queue: Which others: those with the same queue.
            last_outcome: That of the last try, if this is another one: the same failure is audited once.
            detail: For the audit.

        Raises:
            TenantryError: Why it failed; that is audited too.
        """
        self.check_open()
        operation = Operation(self, tenant_id, action, detail, last_outcome=last_outcome)
        task = asyncio.get_running_loop().create_task(self._run(operation, work, queue))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def wait_ended(self, seconds_max: float) -> None:
        """Wait for the calls that are under way; those that only prepare something after so many seconds are ended then."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds_max)
        self._is_stopping = True
        for task in self._preparing:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Let the block be ended when the registry closes: it changes nothing that outlives its scratch directory.

        Unpacking, checking and copying last as long as a database is large.

        Raises:
            RegistryClosedError: The registry closes.
        """
        task = asyncio.current_task()
        assert task is not None
        closed = RegistryClosedError(
            "the registry was closed while the call prepared its database: call again"
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
        """Return whether the call that is under way is this registry's own."""
        return tenant.uid in self._own_operations

    def unfinished(self) -> dict[str, int]:
        """Return how many tenants have a call that was begun and cannot be finished for now, by its action."""
        return dict.fromkeys(self.finishers, 0) | self._unfinished.by_action()

    def leave_unfinished(self, tenant: TenantRecord, action: str, outcome: str) -> None:
        """Note that a call that was begun has failed and is to be finished later; see `reconcile`."""
        self._unfinished.failed(tenant.uid, action, outcome)

    @asynccontextmanager
    async def lock(self, tenant: TenantRecord, action: str) -> AsyncIterator[None]:
        """Hold the lock that says that somebody is at a call of the tenant.

        Raises:
            TenantBusyError: Somebody else is.
            PersistenceConnectionError: The lock file cannot be opened.
        """
        lock = LockFile(self._operations_directory() / tenant.uid)
        try:
            await self._take(lock, tenant, action)
            self._own_operations[tenant.uid] = action
            try:
                yield
            finally:
                del self._own_operations[tenant.uid]
        finally:
            # Also when cancelled: the thread that was to take it has taken it by then.
            lock.remove()

    async def finish_leftover(self, tenant: TenantRecord) -> None:
        """Finish what a process that died had begun.

        Raises:
            TenantBusyError: It has not died.
            TenantryError: It cannot be finished now.
        """
        async with self.lock(tenant, _action(tenant)):
            # Once more, under the lock: somebody else may have finished it, and even begun another.
            found = await self.catalog.find_by_uid(tenant.uid)
            if found is None or not found.is_under_way:
                return
            begun_by = found.intent.arguments.get("begun_by") if found.intent is not None else None
            detail = {"is_reconciled": True, "begun_by": begun_by}
            last_outcome = self._unfinished.last_outcome(found.uid)
            operation = Operation(self, found.id, _action(found), detail, last_outcome=last_outcome)
            operation.tenant_uid = found.uid
            try:
                with self._reported(operation):
                    await self._audited(operation, partial(self._finish, found))
            except TenantryError as error:
                self.leave_unfinished(found, operation.action, error.outcome)
                raise
            self._unfinished.succeeded(found.uid)
        self._log.info(RECONCILED, tenant_id=found.id, action=operation.action)

    async def reconcile(self) -> None:
        """Finish what crashed processes began; what cannot be finished is logged and tried again later, see `Retries`."""
        under_way = await self.catalog.under_way()
        self._unfinished.keep_only({tenant.uid for tenant in under_way})
        for tenant in under_way:
            if self.is_own(tenant) or not self._unfinished.is_due(tenant.uid):
                continue
            try:
                async with self._turn(tenant.id):
                    if await self._is_leftover(tenant):
                        await self.finish_leftover(tenant)
            except TenantBusyError:
                continue  # Its process lives and is at it.
            except TenantryError as error:
                self._log.failure(LIFECYCLE_FAILED, error, tenant_id=tenant.id, action="reconcile")

    async def _is_leftover(self, tenant: TenantRecord) -> bool:
        """Return whether it still looks like one, so that no lock is held against a call that has begun meanwhile."""
        found = await self.catalog.find_by_uid(tenant.uid)
        # Renamed, it has calls that do not wait for this one.
        return found is not None and found.id == tenant.id and found.is_under_way and not self.is_own(found)

    async def _finish(self, tenant: TenantRecord, operation: Operation) -> None:
        finisher = self.finishers.get(operation.action)
        if finisher is None:
            # A newer tenantry's call. What it did to the files only that one knows.
            raise busy_error(tenant.id, operation.action)
        await finisher(operation, tenant)

    async def _take(self, lock: LockFile, tenant: TenantRecord, action: str) -> None:
        try:
            await run_in_thread(lock.acquire)
        except LockHeldError as error:
            under_way = _action(tenant) if tenant.is_under_way else action
            raise busy_error(tenant.id, under_way) from error
        except OSError as error:
            raise lock_error(lock.path, error) from error

    def _operations_directory(self) -> Path:
        return self.context.config.data_dir / "operations"

    def _turn(self, tenant_id: TenantId, queue: str = "") -> asyncio.Lock:
        return self._locks.setdefault((tenant_id, queue), asyncio.Lock())

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Looked at, because a caller that has left will not: asyncio would complain of it. It was logged.
            task.exception()

    async def _run(self, operation: Operation, work: Work[T], queue: str) -> T:
        try:
            with self._reported(operation):
                async with self._turn(operation.tenant_id, queue):
                    # Others may have taken hours.
                    await check_authority()
                    result = await self._audited(operation, work)
        except TenantryError as error:
            self._log.failure(LIFECYCLE_FAILED, error, tenant_id=operation.tenant_id, action=operation.action)
            raise
        self._log.info(LIFECYCLE_CALLED, tenant_id=operation.tenant_id, action=operation.action)
        return result

    @contextmanager
    def _reported(self, operation: Operation) -> Iterator[None]:
        """Report the end of a call as an event, which metrics count."""
        now = self.context.clock.monotonic_seconds
        started = now()
        outcome = "error"
        try:
            yield
            outcome = "ok"
        except TenantryError as error:
            outcome = error.outcome
            raise
        finally:
            self.context.report(
                OperationEnded(operation.tenant_id, operation.action, outcome, now() - started)
            )

    async def _audited(self, operation: Operation, work: Work[T]) -> T:
        try:
            while True:
                try:
                    result = await work(operation)
                    break
                except StaleTenantError:
                    continue  # Somebody changed the tenant between our look and our change: look again.
                except OSError as error:
                    raise PersistenceConnectionError(
                        f"{operation.action} of tenant {operation.tenant_id!r}: {error}"
                    ) from error
        except TenantryError as error:
            if error.outcome == operation.last_outcome:
                raise
            operation.detail["error"] = str(error)
            try:
                await self.catalog.write(operation.audited(error.outcome))
            except TenantryError as failure:  # on a full disk, say: the caller is to hear of the first error
                self._log.failure(
                    AUDIT_FAILED, failure, tenant_id=operation.tenant_id, action=operation.action
                )
            raise
        if not operation.is_audited:
            await self.catalog.write(operation.audited(operation.outcome))
        return result


def _action(tenant: TenantRecord) -> str:
    """Return which call of the tenant is under way."""
    return tenant.intent.action if tenant.intent is not None else "create"


def _do_nothing() -> None:
    """Let calls begin."""
