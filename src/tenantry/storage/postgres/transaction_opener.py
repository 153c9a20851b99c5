"""Opens the transactions over several calls of one store, and finds out whether a lost commit took effect."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from tenantry.errors import CallTimeoutError, PersistenceError, QueryError
from tenantry.storage.postgres.connections.lost_connection import ConnectionLostError
from tenantry.storage.postgres.connections.pipeline import first_failure
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.statements.attempts import is_temporary, retried
from tenantry.storage.postgres.statements.failures import Failures
from tenantry.storage.postgres.statements.head import Head, Mark
from tenantry.storage.postgres.statements.marks import Marks
from tenantry.storage.postgres.statements.writes import Connections
from tenantry.storage.postgres.transaction import PostgresTransaction

_SET_IDLE_TIMEOUT: Final = b"SELECT set_config('idle_in_transaction_session_timeout', $1, true)"


class TransactionOpener:
    """Opens a store's transactions, one at a time.

    Args:
        owner: The tenant.
        head: The statements at the beginning of a transaction.
        marks: The store's marks.
        connections: The pool.
        writing: The lock of the store's writes, which a transaction holds until it ends.
        timeout_seconds: The time limit of one call.
        idle_seconds: The time after which the server ends an idle transaction.
        failures: Maps the error of a transaction whose guard failed.
    """

    def __init__(
        self,
        owner: Owner,
        head: Head,
        marks: Marks,
        connections: Connections,
        writing: asyncio.Lock,
        *,
        timeout_seconds: float,
        idle_seconds: float,
        failures: Failures,
    ) -> None:
        self._owner = owner
        self._head = head
        self._marks = marks
        self._connections = connections
        self._writing = writing
        self._timeout_seconds = timeout_seconds
        self._idle_seconds = idle_seconds
        self._failures = failures
        self._open: PostgresTransaction | None = None

    async def begin(self, check_connected: Callable[[], None]) -> PostgresTransaction:
        """Open a transaction after the earlier writes; see `Store.begin`. `check_connected` raises if the store was disconnected."""
        await self._writing.acquire()
        try:
            check_connected()
            transaction = await retried(self._begin, self._timeout_seconds)
        except (ConnectionLostError, QueryError) as error:
            self._writing.release()
            if not is_temporary(error):
                raise
            raise CallTimeoutError(
                f"the database did not begin a transaction within {self._timeout_seconds:g} s, which had no effect: {error}",
                tenant_id=self._owner.tenant_id,
                timeout_seconds=self._timeout_seconds,
                was_started=False,
            ) from error
        except BaseException:
            self._writing.release()
            raise
        try:
            check_connected()
        except BaseException:
            await transaction.rollback()
            raise
        self._open = transaction
        return transaction

    async def rollback(self) -> None:
        """Roll the open transaction back, if there is one."""
        if self._open is not None:
            await self._open.rollback()

    async def _begin(self, timeout_seconds: float) -> PostgresTransaction:
        async with AsyncExitStack() as stack:
            pipeline = await stack.enter_async_context(
                self._connections.transaction(self._owner.uid, timeout_seconds=timeout_seconds)
            )
            mark = self._marks.next()
            pipeline.send(b"BEGIN")
            self._head.begin_write(pipeline, mark)
            pipeline.send(_SET_IDLE_TIMEOUT, [b"%d" % round(self._idle_seconds * 1000)])
            pipeline.sync()
            (results,) = await pipeline.results(timeout_seconds)
            failed = first_failure(results)
            if failed is not None:
                error = self._failures.guard_error(failed, pipeline)
                if pipeline.is_open:
                    pipeline.send(b"ROLLBACK")
                    pipeline.sync()
                    await pipeline.results(timeout_seconds)
                raise error
            return PostgresTransaction(
                pipeline,
                mark,
                stack.pop_all(),
                self._end,
                self._was_kept,
                timeout_seconds=self._timeout_seconds,
            )

    def _end(self) -> None:
        self._open = None
        self._writing.release()

    async def _was_kept(self, mark: Mark) -> bool:
        """Return whether a transaction was committed whose connection was lost during the commit.

        Raises:
            CallTimeoutError: The database could not be asked in time.
        """

        async def look(timeout_seconds: float) -> bool:
            async with self._connections.connection(
                self._owner.uid, timeout_seconds=timeout_seconds
            ) as pipeline:
                found = await self._marks.look_for([mark], pipeline, timeout_seconds)
                return mark.number in found.kept

        try:
            return await retried(look, self._timeout_seconds)
        except PersistenceError as error:
            raise CallTimeoutError(
                f"the connection to the database was lost during the commit, and the database did not say within {self._timeout_seconds:g} s "
                f"whether the transaction was committed: read what it has written: {error}",
                tenant_id=self._owner.tenant_id,
                timeout_seconds=self._timeout_seconds,
                was_started=True,
            ) from error
