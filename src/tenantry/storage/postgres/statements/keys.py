"""Runs units with idempotency keys: the key and the unit's results are stored in the unit's own transaction.

A unit's results are known only after the unit has run. So the transaction takes two trips: the units with a look for their keys, and
then the rows of the keys with the commit. If a key exists already, the transaction is rolled back, and the units without that key run
again; that is rare, because only a repeated call has a used key.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tenantry.errors import IdempotencyConflictError, QueryError, TenantryError
from tenantry.sql.statements import Result
from tenantry.storage.idempotency import (
    EXPIRED_KEYS_REMOVED_MAX,
    decode_results,
    encode_results,
    time_text,
)
from tenantry.storage.postgres.connections.pipeline import Pipeline
from tenantry.storage.postgres.statements.batch import Failure, Outcomes, Piece, Transaction
from tenantry.storage.postgres.statements.head import Head, Mark
from tenantry.storage.postgres.statements.values import load_rows
from tenantry.storage.protocol import KeyedRequest, WriteOutcome

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

_FIND: Final = b"SELECT payload_hash, results FROM tenantry_idempotency WHERE key = $1 AND created_at > $2"
_REMOVE_EXPIRED: Final = b"""
DELETE FROM tenantry_idempotency
WHERE key IN (SELECT key FROM tenantry_idempotency WHERE created_at <= $1 ORDER BY created_at LIMIT $2)
"""
# The table may still contain the same key, expired but not yet removed.
_KEEP: Final = b"""
INSERT INTO tenantry_idempotency (key, payload_hash, results, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (key) DO UPDATE SET
    payload_hash = excluded.payload_hash, results = excluded.results, created_at = excluded.created_at
"""


class KeyedTransaction:
    """A transaction with at least one unit that has a key.

    Attributes:
        transaction: The transaction's mark and units. A unit whose key another unit of the piece has too runs in a later transaction.
        outcomes: After `decide`, the outcomes of the units that must not run; if there are any, the transaction is rolled back.
    """

    def __init__(self, piece: Piece, mark: Mark, head: Head) -> None:
        self._piece = piece
        self._head = head
        self._keyed: dict[int, KeyedRequest] = {}
        self._encoded: dict[int, bytes] = {}
        self.outcomes: Outcomes = {}
        positions: list[int] = []
        used: set[str] = set()
        for position in piece.todo[:1] if piece.runs_alone else piece.todo:
            request = piece.unit(position).request
            if isinstance(request, KeyedRequest):
                if request.key in used:
                    break  # the units after it may depend on it
                used.add(request.key)
                self._keyed[position] = request
            positions.append(position)
        self.transaction = Transaction(mark, positions, 1 + head.guarded_commands + len(self._keyed))

    def send(self, pipeline: Pipeline) -> None:
        """Send the transaction without its end."""
        pipeline.send(b"BEGIN")
        self._head.begin_write(pipeline, self.transaction.mark)
        for request in self._keyed.values():
            send_find(request, pipeline)
        for position in self.transaction.positions:
            self._piece.unit(position).send(pipeline)
        pipeline.sync()

    def decide(self, results: "Sequence[PGresult]") -> Failure | None:
        """Return the failure for which the transaction is rolled back, or None; and set `outcomes`, and the results in the piece."""
        transaction, piece = self.transaction, self._piece
        failure = piece.failure_of(transaction.positions, results, transaction.offset)
        if failure is not None and failure.position is None:
            return failure
        looks = results[transaction.offset - len(self._keyed) : transaction.offset]
        for (position, request), look in zip(self._keyed.items(), looks, strict=True):
            outcome = found_outcome(request, look)
            if outcome is not None:
                self.outcomes[position] = outcome
        if self.outcomes or failure is not None:
            return None if self.outcomes else failure
        piece.know(transaction, results)
        for position, request in self._keyed.items():
            encoded = encode(request, piece.known[position])
            if isinstance(encoded, bytes):
                self._encoded[position] = encoded
            else:
                self.outcomes[position] = encoded
        return None

    def send_commit(self, pipeline: Pipeline) -> None:
        """Send the rows of the keys, and the commit; the caller ends the trip."""
        for position, request in self._keyed.items():
            send_keep(request, self._encoded[position], pipeline)
        pipeline.send(b"COMMIT")


def send_find(request: KeyedRequest, pipeline: Pipeline) -> None:
    """Send the look for a unit's key: one command."""
    pipeline.send(_FIND, [request.key.encode(), time_text(request.kept_since).encode()])


def found_outcome(request: KeyedRequest, result: "PGresult") -> WriteOutcome | None:
    """Return the stored results of the unit, an error if another unit has the key, or None if the unit must run now."""
    rows = load_rows(result)
    if not rows:
        return None
    try:
        return decode_results(request, *rows[0])
    except IdempotencyConflictError as error:
        return error


def encode(request: KeyedRequest, results: Sequence[Result]) -> bytes | TenantryError:
    """Return the results in their stored form, or the error of results that are too large."""
    try:
        return encode_results(request, results).encode()
    except QueryError as error:
        return error


def send_keep(request: KeyedRequest, encoded: bytes, pipeline: Pipeline) -> None:
    """Send the statements that store a unit's results with its key and remove some expired keys: two commands."""
    pipeline.send(_REMOVE_EXPIRED, [time_text(request.kept_since).encode(), b"%d" % EXPIRED_KEYS_REMOVED_MAX])
    pipeline.send(
        _KEEP,
        [request.key.encode(), request.payload_hash, encoded, time_text(request.now).encode()],
        [0, 1, 0, 0],
    )
