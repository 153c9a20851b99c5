"""A transaction that spans several calls. It holds a connection and the owner's row until it ends."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final

import anyio

from tenantry.errors import (
    PersistenceConnectionError,
    PersistenceError,
    QueryError,
    TenantryError,
    TransactionClosedError,
)
from tenantry.sql.statements import Statement
from tenantry.storage.postgres.connections.errors import READ_ONLY, code_of, forget_stale, map_error
from tenantry.storage.postgres.connections.lost_connection import ConnectionLostError
from tenantry.storage.postgres.connections.pipeline import OK, Pipeline, first_failure
from tenantry.storage.postgres.statements.head import Mark
from tenantry.storage.postgres.statements.keys import encode, found_outcome, send_find, send_keep
from tenantry.storage.postgres.statements.unit import Unit, make_unit
from tenantry.storage.protocol import KeyedRequest, ReadOutcome, Request, WriteOutcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from psycopg.pq.abc import PGresult

_SAVEPOINT: Final = b"SAVEPOINT tenantry_unit"
_RELEASE: Final = b"RELEASE tenantry_unit"
_ROLLBACK_TO: Final = b"ROLLBACK TO tenantry_unit"
_READ_ONLY_ON: Final = b"SELECT set_config('transaction_read_only', 'on', true)"


class PostgresTransaction:
    """A `StoreTransaction` on one connection.

    Args:
        pipeline: The connection, on which the transaction has begun.
        mark: The mark that the transaction leaves.
        held: The block of the connection.
        release: A function that is called once, when the transaction has ended.
        was_kept: Looks for the mark after the connection was lost during the commit; raises CallTimeoutError if it cannot look.
        timeout_seconds: The time limit of one call.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        mark: Mark,
        held: AsyncExitStack,
        release: Callable[[], None],
        was_kept: "Callable[[Mark], Awaitable[bool]]",
        *,
        timeout_seconds: float,
    ) -> None:
        self._pipeline = pipeline
        self._mark = mark
        self._held: AsyncExitStack | None = held
        self._release = release
        self._was_kept = was_kept
        self._timeout_seconds = timeout_seconds

    async def write(self, request: Request) -> WriteOutcome:
        """Run one unit inside the transaction; see `StoreTransaction.write`.

        Cancellation interrupts the running statement and rolls the transaction back.
        """
        self._check_open()
        try:
            unit = make_unit(request)
        except QueryError as error:
            return error
        if isinstance(request, KeyedRequest):
            return await self._write_keyed(unit, request)
        results = await self._run_unit([_SAVEPOINT], unit, [_RELEASE])
        failed = first_failure(results)
        return unit.results(results[1:-1]) if failed is None else map_error(failed, request[0].name)

    async def read(self, statement: Statement) -> ReadOutcome:
        """Run one read-only statement inside the transaction; see `StoreTransaction.read`. Cancellation acts as for `write`."""
        self._check_open()
        try:
            unit = make_unit((statement,))
        except QueryError as error:
            return error
        results = await self._run_unit([_SAVEPOINT, _READ_ONLY_ON], unit, [_ROLLBACK_TO, _RELEASE])
        failed = first_failure(results)
        if failed is None:
            return unit.results(results[2:3])[0]
        if code_of(failed) == READ_ONLY:
            return QueryError(
                f"{statement.name} writes, but was passed to read(): nothing was written; use write()",
                code=READ_ONLY,
            )
        return map_error(failed, statement.name)

    async def commit(self) -> None:
        """Commit the transaction durably; see `StoreTransaction.commit`."""
        self._check_open()
        try:
            self._pipeline.send(b"COMMIT")
            self._pipeline.sync()
            ((ended,),) = await self._pipeline.results(self._timeout_seconds)
        except ConnectionLostError as lost:
            if not await self._look_up():
                raise PersistenceConnectionError(
                    "the connection to the database was lost during the commit: the transaction was rolled back",
                    code=lost.code,
                ) from lost
        else:
            if ended.status not in OK:
                raise map_error(ended, "commit")
            if ended.command_status != b"COMMIT":
                raise PersistenceError(
                    "commit: an earlier error had ended the transaction: it was rolled back"
                )
        finally:
            await self.rollback()

    async def rollback(self) -> None:
        """Roll the transaction back; see `StoreTransaction.rollback`."""
        if self._held is None:
            return
        with anyio.CancelScope(shield=True):
            try:
                # If the connection is lost, or the rollback fails, the server has rolled back or will.
                with suppress(ConnectionLostError):
                    if not self._pipeline.is_reusable:
                        self._pipeline.send(b"ROLLBACK")
                        self._pipeline.sync()
                        await self._pipeline.results(self._timeout_seconds)
            finally:
                # The shield blocks anyio's cancellation, not asyncio's. The pool closes a connection that is not rolled back.
                await self._end()

    async def _write_keyed(self, unit: Unit, request: KeyedRequest) -> WriteOutcome:
        results = await self._run([_SAVEPOINT], None, [], find=request)
        failed = first_failure(results)
        if failed is not None:
            await self._undo()
            return map_error(failed, request[0].name)
        outcome = found_outcome(request, results[-1])
        if outcome is not None:
            await self._undo()
            return outcome
        results = await self._run([], unit, [])
        failed = first_failure(results)
        if failed is None:
            done = unit.results(results)
            encoded = encode(request, done)
            if isinstance(encoded, TenantryError):
                await self._undo()
                return encoded
            failed = first_failure(await self._run([], None, [_RELEASE], keep=(request, encoded)))
            if failed is None:
                return done
        await self._undo()
        return map_error(failed, request[0].name)

    async def _run_unit(
        self, before: "Sequence[bytes]", unit: Unit, after: "Sequence[bytes]"
    ) -> "list[PGresult]":
        """Run a unit between statements that begin and end its savepoint; a failure rolls the unit back."""
        results = await self._run(before, unit, after)
        failed = first_failure(results)
        if failed is None:
            return results
        await self._undo()
        index = results.index(failed) - len(before)
        if 0 <= index < len(unit.commands) and forget_stale(
            code_of(failed), unit.commands[index].sql, self._pipeline
        ):
            results = await self._run(before, unit, after)
            if first_failure(results) is not None:
                await self._undo()
        return results

    async def _run(
        self,
        before: "Sequence[bytes]",
        unit: Unit | None,
        after: "Sequence[bytes]",
        *,
        find: KeyedRequest | None = None,
        keep: tuple[KeyedRequest, bytes] | None = None,
    ) -> "list[PGresult]":
        """Send statements around a unit in one trip, and return all results.

        Raises:
            TransactionClosedError: The connection was lost, and with it the transaction.
        """
        try:
            for sql in before:
                self._pipeline.send(sql)
            if find is not None:
                send_find(find, self._pipeline)
            if unit is not None:
                unit.send(self._pipeline)
            if keep is not None:
                send_keep(*keep, self._pipeline)
            for sql in after:
                self._pipeline.send(sql)
            self._pipeline.sync()
            (results,) = await self._pipeline.results(self._timeout_seconds)
        except ConnectionLostError as lost:
            await self._end()
            raise TransactionClosedError(
                "the connection to the database was lost during the transaction, which was rolled back: open a new transaction",
                code=lost.code,
            ) from lost
        except asyncio.CancelledError:
            await self.rollback()
            raise
        return results

    async def _look_up(self) -> bool:
        """Return whether the transaction was committed, after the connection was lost.

        The store's other writes wait until the look has ended, because the mark of the next write replaces the mark.
        """
        held, self._held = self._held, None
        try:
            if held is not None:
                await held.aclose()
            return await self._was_kept(self._mark)
        finally:
            self._release()

    async def _undo(self) -> None:
        await self._run([_ROLLBACK_TO, _RELEASE], None, [])

    def _check_open(self) -> None:
        if self._held is None:
            raise TransactionClosedError("the transaction has ended: open a new one")

    async def _end(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            try:
                await held.aclose()
            finally:
                self._release()
