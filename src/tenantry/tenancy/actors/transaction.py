"""A transaction over several calls, with a deadline."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import anyio

from tenantry.clock import Clock
from tenantry.errors import TenantryError, TransactionClosedError
from tenantry.eventlog import EventLog
from tenantry.events import BatchFinished, CallRefused, CallSample, Hook
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import MarkedRequest, StoreTransaction
from tenantry.tenancy.actors.enclosing import EnclosingTransaction
from tenantry.tenancy.actors.limiter import FairLimiter
from tenantry.tenancy.refusals import another_loop_error

T = TypeVar("T")

TRANSACTION_TIMED_OUT: Final = "tenantry.transaction.timed_out"

_HAS_ENDED: Final = "the transaction has ended: open a new one"


class TransactionSession(EnclosingTransaction):
    """Runs repository calls inside one open transaction; see `tenantry.sql.statements.Session`.

    The transaction occupies its tenant's writer until it ends. At the deadline a running statement is interrupted, the transaction
    is rolled back, and every later call raises an error; no statement runs in autocommit mode. Each statement needs a permit like
    a batch, so an idle transaction does not delay other tenants.

    Args:
        timeout_seconds: The time until the deadline.
        limiter: The limiter that all tenants' write batches share.
        admit: The function that is called before each call, with the operation's name; raises if the tenant is at a limit.
        on_error: The actor's function that is called with each call's error, decides whether the actor must close, and returns
            whether another process has taken the tenant over, which ends the transaction.
    """

    def __init__(
        self,
        transaction: StoreTransaction,
        *,
        timeout_seconds: float,
        limiter: FairLimiter,
        tenant_id: str,
        backend: str,
        dialect: str,
        clock: Clock,
        report: Hook,
        log: EventLog,
        admit: Callable[[str], None],
        on_error: Callable[[TenantryError], bool],
    ) -> None:
        super().__init__(log)
        self._transaction = transaction
        self._timeout_seconds = timeout_seconds
        self._limiter = limiter
        self._tenant_id = tenant_id
        self._backend = backend
        self._dialect = dialect
        self._now = clock.monotonic_seconds
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()  # a running statement, commit or rollback holds this lock
        self._settled = asyncio.Event()  # set when the transaction has ended or was abandoned
        self._statement: anyio.CancelScope | None = None  # the scope of the current statement
        self._refusal: str | None = None  # the reason for refusing further statements
        self._admit = admit
        self._on_error = on_error

    async def dialect(self) -> str:
        """Return the name of the database's SQL dialect."""
        return self._dialect

    async def write(self, *statements: Statement) -> list[Result]:
        """Run one unit inside the transaction; only a failed unit is rolled back, and the transaction continues.

        Cancellation interrupts a running statement, and rolls the transaction back.

        Raises:
            TransactionClosedError: The transaction ended before the unit began or while the unit ran.
            TenantRateLimitedError: The tenant has used up its calls per second; the transaction continues.
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
        """Run one read-only statement; the result includes the transaction's own writes. Raises like `write`."""
        result: T = await self._run("read", statement.name, lambda: self._transaction.read(statement))
        return result

    async def commit(self, mark: MarkedRequest | None = None) -> None:
        """Commit the transaction durably.

        Args:
            mark: The mark of the transaction if another process forwarded it; the mark is committed with the transaction.

        Cancellation during the commit leaves the transaction committed or rolled back, never open.

        Raises:
            TransactionClosedError: The transaction had been rolled back earlier, for example at its deadline.
            PersistenceError: The commit failed; the transaction was rolled back.
        """
        async with self._lock:
            self._check_open()
            try:
                async with self._limiter.permit(self._tenant_id):
                    if mark is not None and isinstance(
                        marked := await self._transaction.write(mark), TenantryError
                    ):
                        raise marked
                    await self._transaction.commit()
            except TenantryError as error:
                if self._on_error(error):
                    raise self._taken_over() from error
                raise
            finally:
                # After a commit the rollback does nothing; if the caller was cancelled while waiting for the permit, it is necessary.
                with anyio.CancelScope(shield=True):
                    await self._roll_back()

    async def rollback(self) -> None:
        """Interrupt a running statement and roll the transaction back; a no-op if the transaction has ended."""
        self._refuse(_HAS_ENDED)
        async with self._lock:
            if not self._has_ended:
                await self._roll_back()

    def abandon(self) -> None:
        """Request a rollback from `wait_ended` without waiting; a no-op if the transaction has ended."""
        self._refuse(_HAS_ENDED)
        self._settled.set()

    async def wait_ended(self) -> None:
        """Wait until the transaction has ended; roll back at the deadline, or if the caller abandons the transaction."""
        with anyio.move_on_after(self._timeout_seconds) as scope:
            await self._settled.wait()
        if scope.cancelled_caught:
            self._refuse(
                f"the transaction was open for longer than transaction_timeout_seconds ({self._timeout_seconds:g}) and was "
                "rolled back, so its writes are lost: do slow work outside of the transaction"
            )
            self._log.warning(TRANSACTION_TIMED_OUT, timeout_seconds=self._timeout_seconds)
        await self.rollback()

    async def _run(self, channel: str, operation: str, run: Callable[[], Awaitable[Any]]) -> Any:
        if asyncio.get_running_loop() is not self._loop:
            raise another_loop_error(self._tenant_id, self._loop)
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
            if self._on_error(outcome):
                raise self._taken_over() from outcome
            raise outcome
        return outcome

    def _taken_over(self) -> TransactionClosedError:
        """Refuse further statements, because the database accepts no more writes of this actor, and return the error."""
        self._refuse(
            "another process has taken the tenant over, so the transaction was rolled back: open a new transaction"
        )
        return self._closed_error()

    def _refuse(self, why: str) -> None:
        """Refuse further statements, and interrupt the current statement; a running commit continues."""
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
