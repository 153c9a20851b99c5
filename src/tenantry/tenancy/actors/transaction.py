"""A transaction over several calls: a session with a deadline for its caller."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import anyio

from tenantry.clock import Clock
from tenantry.errors import TenantryError, TransactionClosedError
from tenantry.eventlog import EventLog
from tenantry.events import BatchFinished, CallRefused, CallSample, Hook
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import StoreTransaction
from tenantry.tenancy.actors.limiter import FairLimiter
from tenantry.tenancy.refusals import another_loop_error

T = TypeVar("T")

TRANSACTION_TIMED_OUT: Final = "tenantry.transaction.timed_out"

_HAS_ENDED: Final = "the transaction has ended: open a new one"

# The transactions of this task and of its parents: a child task inherits them, also after they have ended.
_enclosing: ContextVar[frozenset["TransactionSession"]] = ContextVar(
    "tenantry_enclosing_transactions", default=frozenset()
)


class TransactionSession:
    """Runs repository calls inside one open transaction; see `tenantry.sql.statements.Session`.

    It holds its tenant's writer until it ends. At its deadline a running statement is interrupted, the transaction is
    rolled back, and every later use raises. It never turns into autocommit. Each of its statements
    needs a permit like any batch, so an open transaction that does nothing costs other tenants nothing.

    Args:
        timeout_seconds: How long it may be open from now.
        limiter: Shared by all tenants' write batches.
        admit: Called with the operation before each of its calls; raises, and reports, if the tenant is at a limit.
        on_error: Called with the errors of its calls; the actor decides whether it must close.
    """

    def __init__(
        self,
        transaction: StoreTransaction,
        *,
        timeout_seconds: float,
        limiter: FairLimiter,
        tenant_id: str,
        backend: str,
        clock: Clock,
        report: Hook,
        log: EventLog,
        admit: Callable[[str], None],
        on_error: Callable[[TenantryError], None],
    ) -> None:
        self._transaction = transaction
        self._timeout_seconds = timeout_seconds
        self._limiter = limiter
        self._tenant_id = tenant_id
        self._backend = backend
        self._now = clock.monotonic_seconds
        self._report = report
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()  # one statement at a time, and none during its end
        self._settled = asyncio.Event()  # it has ended, or its caller has gone
        self._statement: anyio.CancelScope | None = None  # of the statement that waits for a permit or runs
        self._refusal: str | None = None  # why it accepts no more statements
        self._has_ended = False
        self._admit = admit
        self._on_error = on_error

    @property
    def log(self) -> EventLog:
        """The tenant's event log."""
        return self._log

    @property
    def has_ended(self) -> bool:
        """Whether it was committed or rolled back."""
        return self._has_ended

    @property
    def encloses_caller(self) -> bool:
        """Whether the caller runs inside it: if the caller waited for its end, it would wait for itself.

        This includes tasks that were started inside it, because the transaction's own task may wait for them.
        """
        return not self._has_ended and self in _enclosing.get()

    @contextmanager
    def enclosing(self) -> Iterator[None]:
        """Mark that the block, and the tasks that are started in it, run inside it."""
        _enclosing.set(_enclosing.get() | {self})
        try:
            yield
        finally:
            # Not ContextVar.reset(): a block may end in another context than it began in, for example a fixture.
            _enclosing.set(_enclosing.get() - {self})

    async def write(self, *statements: Statement) -> list[Result]:
        """Run one unit inside the transaction; a failed unit is undone alone and the transaction continues.

        Cancellation interrupts a running statement, and rolls the transaction back.

        Raises:
            TransactionClosedError: The transaction has ended, or ended while the unit ran.
            TenantRateLimitedError: The tenant's calls per second are used up; the transaction is unchanged.
            PersistenceError: The unit failed.
        """
        if not statements:
            self._check_open()
            return []
        operation = statements[0].name
        results: list[Result] = await self._run(
            "write", operation, lambda: self._transaction.write(statements)
        )
        return results

    async def read(self, statement: Statement[T]) -> T:
        """Run one reading statement; it sees what the transaction wrote. Raises like `write`."""
        result: T = await self._run("read", statement.name, lambda: self._transaction.read(statement))
        return result

    async def commit(self) -> None:
        """Commit, durably.

        Cancellation while it commits leaves it committed or rolled back, never open.

        Raises:
            TransactionClosedError: It ended before, for example at its deadline; nothing was kept.
            PersistenceError: It could not be committed; nothing was kept.
        """
        async with self._lock:
            self._check_open()
            try:
                async with self._limiter.permit(self._tenant_id):
                    await self._transaction.commit()
            except TenantryError as error:
                self._on_error(error)
                raise
            finally:
                # A no-op, except for a caller that was cancelled while it waited for the permit, before the store began the commit.
                with anyio.CancelScope(shield=True):
                    await self._roll_back()

    async def rollback(self) -> None:
        """Interrupt a running statement and undo everything; a no-op if it has ended."""
        self._refuse(_HAS_ENDED)
        async with self._lock:
            if not self._has_ended:
                await self._roll_back()

    def abandon(self) -> None:
        """Give the transaction up without waiting: `wait_ended` rolls it back. A no-op if it has ended."""
        self._refuse(_HAS_ENDED)
        self._settled.set()

    async def wait_ended(self) -> None:
        """Wait until it has ended; roll it back at its deadline, or when its caller has given it up."""
        with anyio.move_on_after(self._timeout_seconds) as scope:
            await self._settled.wait()
        if scope.cancelled_caught:
            self._refuse(
                f"the transaction was open for longer than transaction_timeout_seconds ({self._timeout_seconds:g}) and was "
                "rolled back: nothing of it was kept; do slow work outside of it"
            )
            self._log.warning(TRANSACTION_TIMED_OUT, timeout_seconds=self._timeout_seconds)
        await self.rollback()

    async def _run(self, channel: str, operation: str, run: Callable[[], Awaitable[Any]]) -> Any:
        if asyncio.get_running_loop() is not self._loop:
            raise another_loop_error(self._tenant_id)
        submitted_seconds = self._now()
        async with self._lock:
            self._check_open()
            self._admit(operation)
            with anyio.CancelScope() as scope:
                self._statement = scope
                try:
                    async with self._limiter.permit(self._tenant_id):
                        started_seconds = self._now()
                        outcome = await run()
                finally:
                    self._statement = None
        if scope.cancelled_caught:
            error = self._closed_error()
            seconds = self._now() - submitted_seconds
            self._report(CallRefused(self._tenant_id, self._backend, operation, error.outcome, seconds))
            raise error
        label = outcome.outcome if isinstance(outcome, TenantryError) else "ok"
        sample = CallSample(operation, label, submitted_seconds)
        self._report(
            BatchFinished(self._tenant_id, self._backend, channel, [sample], started_seconds, self._now())
        )
        if isinstance(outcome, TenantryError):
            self._on_error(outcome)
            raise outcome
        return outcome

    def _refuse(self, why: str) -> None:
        """Accept no more statements, and interrupt the one that waits or runs; a commit that has begun continues."""
        self._refusal = self._refusal or why
        if self._statement is not None:
            self._statement.cancel()

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise self._closed_error()

    def _closed_error(self) -> TransactionClosedError:
        return TransactionClosedError(self._refusal or _HAS_ENDED)

    async def _roll_back(self) -> None:
        try:
            await self._transaction.rollback()
        finally:
            self._has_ended = True
            self._refuse(_HAS_ENDED)
            self._settled.set()
