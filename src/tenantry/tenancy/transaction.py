"""A transaction over several calls, as its caller sees it: a session with a deadline."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio

from tenantry.clock import Clock
from tenantry.errors import TenantryError, TransactionClosedError
from tenantry.eventlog import EventLog
from tenantry.events import BatchFinished, CallSample, Hook
from tenantry.statements import Result, Statement
from tenantry.storage.protocol import StoreTransaction

TRANSACTION_TIMED_OUT: Final = "tenantry.transaction.timed_out"


class TransactionSession:
    """Runs repository calls inside one open transaction; see `tenantry.statements.Session`.

    It holds its tenant's writer until it ends, at the latest at its deadline; then it is rolled back, and every later use
    raises. It never turns into autocommit. Its statements wait for their turn at the gates like any batch, so an open
    transaction that does nothing costs other tenants nothing.

    Args:
        transaction: The store's open transaction.
        timeout_seconds: From now; what the deadline was, for the error.
        gate: Shared by all tenants' write batches.
        tenant_id: Named in errors and events.
        backend: Named in events.
        clock: Stamps the calls.
        report: Takes the events.
        log: Bound to the tenant.
        holder: The task that opened it: a call of that task outside of the transaction would wait for itself.
        on_error: Called with the errors of its calls, for the actor to judge whether the tenant can go on.
    """

    def __init__(
        self,
        transaction: StoreTransaction,
        *,
        timeout_seconds: float,
        gate: asyncio.Semaphore,
        tenant_id: str,
        backend: str,
        clock: Clock,
        report: Hook,
        log: EventLog,
        holder: "asyncio.Task[Any] | None",
        on_error: Callable[[TenantryError], None],
    ) -> None:
        self._transaction = transaction
        self._timeout_seconds = timeout_seconds
        self._gate = gate
        self._tenant_id = tenant_id
        self._backend = backend
        self._now = clock.monotonic_seconds
        self._report = report
        self._log = log
        self._lock = asyncio.Lock()  # one statement at a time, and none while it ends
        self._settled = asyncio.Event()  # it has ended, or its caller has gone
        self._has_ended = False
        self._is_past_deadline = False
        self._on_error = on_error
        self.holder = holder

    @property
    def log(self) -> EventLog:
        """The tenant's event log."""
        return self._log

    @property
    def has_ended(self) -> bool:
        """Whether it was committed or rolled back."""
        return self._has_ended

    async def write(self, *statements: Statement) -> list[Result]:
        """Run one unit inside the transaction; a failed unit is undone alone and the transaction goes on.

        Raises:
            TransactionClosedError: The transaction has ended.
            PersistenceError: The unit failed.
        """
        operation = statements[0].operation
        results: list[Result] = await self._run(
            "write", operation, lambda: self._transaction.write(statements)
        )
        return results

    async def read(self, statement: Statement) -> Result:
        """Run one reading statement; it sees what the transaction wrote. Raises like `write`."""
        return await self._run("read", statement.operation, lambda: self._transaction.read(statement))

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
                async with self._gate:
                    await self._transaction.commit()
            except TenantryError as error:
                self._on_error(error)
                raise
            finally:
                # A no-op but for a caller that was cancelled at the gate, before the store heard of the commit.
                with anyio.CancelScope(shield=True):
                    await self._roll_back()

    async def rollback(self) -> None:
        """Undo everything; a no-op when it has ended."""
        async with self._lock:
            if not self._has_ended:
                await self._roll_back()

    def abandon(self) -> None:
        """Give it up: its caller was cancelled before it was handed over."""
        self._settled.set()

    async def wait_ended(self) -> None:
        """Wait until it has ended; at its deadline, or when its caller has gone, roll it back."""
        with anyio.move_on_after(self._timeout_seconds) as scope:
            await self._settled.wait()
        if scope.cancelled_caught:
            self._is_past_deadline = True
            self._log.warning(TRANSACTION_TIMED_OUT, timeout_seconds=self._timeout_seconds)
        await self.rollback()

    async def _run(self, channel: str, operation: str, run: Callable[[], Awaitable[Any]]) -> Any:
        submitted_seconds = self._now()
        async with self._lock:
            self._check_open()
            async with self._gate:
                started_seconds = self._now()
                outcome = await run()
        label = outcome.outcome if isinstance(outcome, TenantryError) else "ok"
        sample = CallSample(operation, label, submitted_seconds)
        self._report(
            BatchFinished(self._tenant_id, self._backend, channel, [sample], started_seconds, self._now())
        )
        if isinstance(outcome, TenantryError):
            self._on_error(outcome)
            raise outcome
        return outcome

    def _check_open(self) -> None:
        if self._is_past_deadline:
            raise TransactionClosedError(
                f"the transaction was open for longer than transaction_timeout_seconds ({self._timeout_seconds:g}) and was "
                "rolled back: nothing of it was kept; do slow work outside of it"
            )
        if self._has_ended:
            raise TransactionClosedError("the transaction has ended: open a new one")

    async def _roll_back(self) -> None:
        try:
            await self._transaction.rollback()
        finally:
            self._has_ended = True
            self._settled.set()
