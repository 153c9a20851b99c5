"""The units of a write batch that have no outcome yet, and what is known about the transactions on their way."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tenantry.errors import CallTimeoutError, ResultLostError
from tenantry.sql.statements import Fetch, Result
from tenantry.storage.postgres.connections.errors import map_error
from tenantry.storage.postgres.connections.lost_connection import ConnectionLostError
from tenantry.storage.postgres.connections.pipeline import OK
from tenantry.storage.postgres.statements.head import Mark
from tenantry.storage.postgres.statements.unit import Unit
from tenantry.storage.protocol import KeyedRequest, WriteOutcome

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""The most bytes of SQL and parameters that are sent in one transaction, because libpq keeps them in memory until they are sent."""

Outcomes: TypeAlias = dict[int, WriteOutcome]
"""The outcomes by the positions of the requests in the batch."""


class BackInLineError(Exception):
    """The transaction was rolled back for a temporary reason, and runs again."""


class Failure(NamedTuple):
    """The first failure of a transaction.

    Attributes:
        result: The server's error.
        position: The position of the request that failed; None for the guard and for the commit.
        sql: The statement that failed, or None.
        is_commit: Whether the commit failed.
    """

    result: "PGresult"
    position: int | None
    sql: bytes | None
    is_commit: bool


class Transaction(NamedTuple):
    """A transaction whose commit was sent.

    Attributes:
        mark: The mark that the transaction leaves.
        positions: The positions of its requests.
        offset: The number of commands before those of the requests.
    """

    mark: Mark
    positions: Sequence[int]
    offset: int


@dataclass(slots=True)
class Piece:
    """Units that are small enough to be sent together.

    Attributes:
        units: The units by their positions in the batch.
        todo: The positions of the units without an outcome, in order.
        deadline_seconds: The event loop's time until which the piece may run.
        timeout_seconds: The time that the whole batch has.
        tenant_id: The tenant's id, for messages.
        outcomes: The outcomes of the whole batch.
        in_flight: The transactions whose commit was sent, and not answered.
        received: The results that had arrived when the connection was lost, by the numbers of the transactions.
        known: The results of units that were received before the commit was sent.
        failures: The number of units that failed together with others.
        runs_alone: Whether each unit gets a transaction of its own.
        has_forgotten: Whether the prepared statements were already made anew for this piece.
    """

    units: Sequence[Unit | None]
    todo: list[int]
    deadline_seconds: float
    timeout_seconds: float
    tenant_id: str | None
    outcomes: Outcomes
    in_flight: list[Transaction] = field(default_factory=list)
    received: "dict[int, Sequence[PGresult]]" = field(default_factory=dict)
    known: dict[int, list[Result]] = field(default_factory=dict)
    failures: int = 0
    runs_alone: bool = False
    has_forgotten: bool = False

    def unit(self, position: int) -> Unit:
        """Return the unit at a position."""
        unit = self.units[position]
        assert unit is not None
        return unit

    def count_keyless(self) -> int:
        """Return the number of units before the first unit with an idempotency key."""
        for number, position in enumerate(self.todo):
            if isinstance(self.unit(position).request, KeyedRequest):
                return number
        return len(self.todo)

    def left_seconds(self) -> float:
        """Return the time that is left.

        Raises:
            CallTimeoutError: No time is left.
        """
        left = self.deadline_seconds - asyncio.get_running_loop().time()
        if left <= 0:
            raise self.timed_out()
        return left

    def timed_out(self) -> CallTimeoutError:
        """Return the error for a piece whose time is over."""
        is_unknown = bool(self.in_flight)
        effect = "it is not known whether they were committed" if is_unknown else "they had no effect"
        return CallTimeoutError(
            f"the database did not answer within {self.timeout_seconds:g} s: {len(self.todo)} writes ended, and {effect}",
            tenant_id=self.tenant_id,
            timeout_seconds=self.timeout_seconds,
            was_started=is_unknown,
        )

    def answer(self, position: int, outcome: WriteOutcome) -> None:
        """Set the outcome of a unit."""
        self.outcomes[position] = outcome
        self.todo.remove(position)

    def answer_all(self, positions: Sequence[int], results: Sequence["PGresult"], offset: int) -> None:
        """Set the results of the units of a committed transaction."""
        for position, own in self._split(positions, results, offset):
            self.outcomes[position] = self.unit(position).results(own)
        answered = set(positions)
        self.todo = [position for position in self.todo if position not in answered]

    def know(self, transaction: Transaction, results: Sequence["PGresult"]) -> None:
        """Remember the results of a transaction whose commit will be sent."""
        self.known = {
            position: self.unit(position).results(own)
            for position, own in self._split(transaction.positions, results, transaction.offset)
        }

    def failure_of(
        self, positions: Sequence[int], results: Sequence["PGresult"], offset: int
    ) -> Failure | None:
        """Return the first failure of a transaction, or None if it was committed."""
        if results[-1].status in OK:
            return None
        index = next(index for index, result in enumerate(results) if result.status not in OK)
        result = results[index]
        if index < offset:
            return Failure(result, None, None, is_commit=False)
        index -= offset
        for position in positions:
            commands = self.unit(position).commands
            if index < len(commands):
                return Failure(result, position, commands[index].sql, is_commit=False)
            index -= len(commands)
        return Failure(result, None, None, is_commit=True)

    def keep_received(self, lost: ConnectionLostError) -> None:
        """Remember the results that had arrived for the transactions in flight."""
        parts = [*lost.received, lost.unfinished]
        for transaction, results in zip(self.in_flight, parts, strict=False):
            self.received[transaction.mark.number] = results

    def answer_found(self, transaction: Transaction) -> None:
        """Set the outcomes of a transaction that was committed, although its connection was lost."""
        results = self.received.get(transaction.mark.number, ())
        for position, own in self._split(transaction.positions, results, transaction.offset):
            self.answer(position, self._found(position, own))

    def answer_not_found(self, transaction: Transaction) -> None:
        """Set the outcome of a transaction that was rolled back, if the server had said why; otherwise the transaction runs again."""
        results = self.received.get(transaction.mark.number, ())
        if not self.runs_alone or not results:
            return
        (position,) = transaction.positions
        failure = self.failure_of(transaction.positions, results, transaction.offset)
        if failure is not None and failure.position is not None:
            self.answer(position, map_error(failure.result, self.unit(position).request[0].name))

    def _found(self, position: int, results: Sequence["PGresult"]) -> WriteOutcome:
        unit = self.unit(position)
        if position in self.known:
            return self.known[position]
        if len(results) == len(unit.commands):
            return unit.results(results)
        if all(command.statement.fetch is Fetch.NONE for command in unit.commands):
            return [None] * len(unit.commands)
        return ResultLostError(
            f"{unit.request[0].name}: the write was committed, but the connection to the database was lost before the result "
            "arrived: do not repeat the write; read what it has written"
        )

    def _split(
        self, positions: Sequence[int], results: Sequence["PGresult"], offset: int
    ) -> Iterator[tuple[int, list["PGresult"]]]:
        rest = iter(results[offset:])
        for position in positions:
            yield position, list(islice(rest, len(self.unit(position).commands)))


def pieces_of(units: Sequence[Unit | None]) -> Iterator[list[int]]:
    """Yield the positions of the units in pieces of at most `BATCH_BYTES_MAX`; a larger unit is a piece of its own."""
    piece: list[int] = []
    size_bytes = 0
    for position, unit in enumerate(units):
        if unit is None:
            continue
        if piece and size_bytes + unit.size_bytes > BATCH_BYTES_MAX:
            yield piece
            piece, size_bytes = [], 0
        piece.append(position)
        size_bytes += unit.size_bytes
    if piece:
        yield piece
