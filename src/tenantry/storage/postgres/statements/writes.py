"""Runs write batches on the server.

Theory of operation. A batch is one implicit transaction, without BEGIN and COMMIT: the head (`head`), the statements of all units, and one
Sync, in one trip. Its answer means that the batch is committed.

A failed unit fails the transaction. There are no savepoints: they would slow down every batch, and here only a batch with a failure is
slower. The unit that failed gets its error, and the others run again. After the third failure each unit gets a transaction of its own,
still all in one trip. Those transactions do not wait for the disk, except for a last one, which makes all of them durable. A commit
that fails, because of a deferred constraint, does not name its unit, so each unit gets its own transaction as well.

A batch that was rolled back for a temporary reason (a lock, a deadlock, a primary that has become a replica) runs again. If the connection
is lost, the batch's mark tells whether the batch was committed (`marks`). All this ends at the batch's deadline.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, Protocol

from tenantry.errors import (
    PersistenceConnectionError,
    QueryError,
    TenantryError,
)
from tenantry.storage.postgres.connections.errors import (
    SCHEMA_MISSING,
    code_of,
    map_error,
)
from tenantry.storage.postgres.connections.lost_connection import ConnectionLostError
from tenantry.storage.postgres.connections.pipeline import Pipeline, first_failure
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.statements.batch import (
    BackInLineError,
    Failure,
    Outcomes,
    Piece,
    Transaction,
    pieces_of,
)
from tenantry.storage.postgres.statements.failures import Failures
from tenantry.storage.postgres.statements.head import Head
from tenantry.storage.postgres.statements.keys import KeyedTransaction
from tenantry.storage.postgres.statements.marks import Marks
from tenantry.storage.postgres.statements.unit import Unit, make_unit
from tenantry.storage.protocol import Request, WriteOutcome

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from tenantry.eventlog import EventLog

FAILURES_TOGETHER_MAX: Final = 3
"""The number of failed units after which each unit gets a transaction of its own."""

TRANSACTIONS_PER_TRIP_MAX: Final = 60
"""The most transactions of single units in one trip; a mark has one bit for each."""

BATCH_LOOKED_UP: Final = "tenantry.postgres.batch_looked_up"
BATCH_RUNS_AGAIN: Final = "tenantry.postgres.batch_runs_again"
_PAUSE_SECONDS: Final = 0.01


class Connections(Protocol):
    """The pool of connections."""

    def connection(
        self, tenant_uid: str | None = None, *, timeout_seconds: float
    ) -> AbstractAsyncContextManager[Pipeline]:
        """Return a connection for the block; see `ConnectionPool.connection`."""

    def transaction(
        self, tenant_uid: str | None = None, *, timeout_seconds: float
    ) -> AbstractAsyncContextManager[Pipeline]:
        """Return a connection for a transaction over several calls; see `ConnectionPool.transaction`."""

    def claim(self, tenant_uid: str) -> bool:
        """Claim the tenant's home connection; see `ConnectionPool.claim`."""


class Writer:
    """Runs the write batches of one store, one at a time."""

    def __init__(
        self,
        owner: Owner,
        head: Head,
        marks: Marks,
        connections: Connections,
        failures: Failures,
        *,
        timeout_seconds: float,
        log: "EventLog",
    ) -> None:
        self._failures = failures
        self._log = log
        self._owner = owner
        self._head = head
        self._marks = marks
        self._connections = connections
        self._timeout_seconds = timeout_seconds

    async def write(self, requests: Sequence[Request]) -> list[WriteOutcome]:
        """Run the requests; return one outcome for each.

        Raises:
            TenantOwnedElsewhereError: Another owner has taken the tenant over, and nothing was committed.
            PersistenceConnectionError: The server cannot be reached, and nothing was committed.
            CallTimeoutError: The time was over.
        """
        outcomes: Outcomes = {}
        units: list[Unit | None] = []
        for position, request in enumerate(requests):
            try:
                units.append(make_unit(request))
            except QueryError as error:
                units.append(None)
                outcomes[position] = error
        deadline_seconds = asyncio.get_running_loop().time() + self._timeout_seconds
        has_committed = False
        for positions in pieces_of(units):
            piece = Piece(
                units, [*positions], deadline_seconds, self._timeout_seconds, self._owner.tenant_id, outcomes
            )
            try:
                await self._run(piece)
            except TenantryError as error:
                if not has_committed and len(piece.todo) == len(positions):
                    raise
                for position in piece.todo:
                    outcomes[position] = error.for_another_caller()
            has_committed = True
        return [outcomes[position] for position in range(len(requests))]

    async def _run(self, piece: Piece) -> None:
        while piece.todo:
            try:
                async with self._connections.connection(
                    self._owner.uid, timeout_seconds=piece.left_seconds()
                ) as pipeline:
                    if piece.in_flight:
                        await self._look(piece, pipeline)
                    while piece.todo:
                        await self._attempt(piece, pipeline)
            except (ConnectionLostError, BackInLineError) as error:
                self._log.debug(BATCH_RUNS_AGAIN, reason=str(error), requests=len(piece.todo))
                await asyncio.sleep(_PAUSE_SECONDS)
            except PersistenceConnectionError as error:
                if piece.in_flight:
                    raise piece.timed_out() from error
                raise

    async def _attempt(self, piece: Piece, pipeline: Pipeline) -> None:
        if piece.failures >= FAILURES_TOGETHER_MAX:
            piece.runs_alone = True
        keyless = piece.count_keyless()
        if keyless == 0 or (keyless < len(piece.todo) and not piece.runs_alone):
            await self._run_with_keys(piece, pipeline)
        elif piece.runs_alone:
            await self._run_alone(piece, piece.todo[: min(keyless, TRANSACTIONS_PER_TRIP_MAX)], pipeline)
        else:
            await self._run_together(piece, pipeline)

    async def _run_together(self, piece: Piece, pipeline: Pipeline) -> None:
        # A copy: an answer removes its position from `todo`.
        transaction = Transaction(self._marks.next(), tuple(piece.todo), self._head.guarded_commands)
        self._head.begin_write(pipeline, transaction.mark)
        for position in piece.todo:
            piece.unit(position).send(pipeline)
        (results,) = await self._end(piece, [transaction], pipeline)
        failure = piece.failure_of(piece.todo, results, transaction.offset)
        if failure is None:
            piece.answer_all(piece.todo, results, transaction.offset)
        else:
            self._failures.take(piece, failure, pipeline)

    async def _run_alone(self, piece: Piece, positions: Sequence[int], pipeline: Pipeline) -> None:
        transactions: list[Transaction] = []
        for position in positions:
            mark = self._marks.next_after(transactions[0].mark) if transactions else self._marks.next()
            self._head.begin_write(pipeline, mark, is_durable=False)
            piece.unit(position).send(pipeline)
            pipeline.sync()
            transactions.append(Transaction(mark, [position], self._head.guarded_commands))
        self._marks.send_durable(pipeline)
        *parts, durable = await self._end(piece, transactions, pipeline, is_synced=True)
        not_durable = first_failure(durable)
        for position, results in zip(positions, parts, strict=True):
            failure = piece.failure_of([position], results, self._head.guarded_commands)
            if failure is not None:
                self._failures.take_own(piece, position, failure, pipeline)
            elif not_durable is not None and code_of(not_durable) not in SCHEMA_MISSING:
                # If the schema was replaced, the replacement's durable commit came later.
                piece.answer(position, map_error(not_durable, piece.unit(position).request[0].name))
            else:
                piece.answer_all([position], results, self._head.guarded_commands)

    async def _run_with_keys(self, piece: Piece, pipeline: Pipeline) -> None:
        keyed = KeyedTransaction(piece, self._marks.next(), self._head)
        keyed.send(pipeline)
        (results,) = await pipeline.results(piece.left_seconds())
        failure = keyed.decide(results)
        if failure is None and not keyed.outcomes:
            keyed.send_commit(pipeline)
            (ended,) = await self._end(piece, [keyed.transaction], pipeline)
            failed = first_failure(ended)
            if failed is None:
                for position in keyed.transaction.positions:
                    piece.answer(position, piece.known[position])
                return
            failure = Failure(failed, None, None, is_commit=True)
        pipeline.send(b"ROLLBACK")
        pipeline.sync()
        await pipeline.results(piece.left_seconds())
        for position, outcome in keyed.outcomes.items():
            piece.answer(position, outcome)
        if failure is not None and piece.runs_alone:
            self._failures.take_own(piece, keyed.transaction.positions[0], failure, pipeline)
        elif failure is not None:
            self._failures.take(piece, failure, pipeline)

    async def _end(
        self,
        piece: Piece,
        transactions: list[Transaction],
        pipeline: Pipeline,
        *,
        is_synced: bool = False,
    ) -> "list[list[PGresult]]":
        """Send the commit, and wait for the results. If the connection is lost, the transactions stay in flight."""
        left_seconds = piece.left_seconds()
        piece.in_flight = transactions
        if not is_synced:
            pipeline.sync()
        try:
            parts = await pipeline.results(left_seconds)
        except ConnectionLostError as lost:
            piece.keep_received(lost)
            raise
        piece.in_flight = []
        return parts

    async def _look(self, piece: Piece, pipeline: Pipeline) -> None:
        """Find out what became of the transactions in flight."""
        marks = [transaction.mark for transaction in piece.in_flight]
        try:
            found = await self._marks.look_for(marks, pipeline, piece.left_seconds())
        except QueryError as error:
            if error.is_transient:
                raise BackInLineError(str(error)) from error
            raise piece.timed_out() from error
        transactions, piece.in_flight = piece.in_flight, []
        self._log.warning(BATCH_LOOKED_UP, transactions=len(transactions), kept=len(found.kept))
        for transaction in transactions:
            if transaction.mark.number in found.kept:
                piece.answer_found(transaction)
            else:
                piece.answer_not_found(transaction)
        piece.received.clear()
        if piece.todo and not found.is_owner:
            raise self._failures.taken_over()
