"""Finds out what became of the transactions of a lost connection.

A connection that is lost during a commit leaves the outcome unknown: the client cannot tell a commit whose answer was lost from a
transaction that was rolled back. Every write transaction of a store therefore leaves a mark in its own schema (`head`). After a loss the
store looks for the mark on a new connection. If the mark is there, the batch was committed, and otherwise the batch can run again.

The look locks the owner's row first, so it waits until a server process that still runs the lost batch has ended. It also raises the
store's mark. The guard of a batch that arrives even later, for example out of the buffer of a stalled pooler, then fails.
"""

from collections.abc import Collection
from itertools import count
from typing import Final, NamedTuple

from tenantry.storage.postgres.connections.errors import SCHEMA_MISSING, code_of, map_error
from tenantry.storage.postgres.connections.pipeline import Pipeline, first_failure
from tenantry.storage.postgres.statements.head import Head, Mark
from tenantry.storage.postgres.statements.values import load_rows

_LOCK_OWNER: Final = b"SELECT tenant_uid, epoch FROM tenantry_owner WHERE id = 1 FOR UPDATE"
_RAISE: Final = b"""
INSERT INTO tenantry_batches (writer, batch, since, kept, at) VALUES ($1, $2, 0, 0, now())
ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, at = excluded.at
RETURNING since, kept
"""
_OTHERS: Final = b"""
SELECT ('x' || substr(md5(coalesce(string_agg(writer || ' ' || batch, ',' ORDER BY writer), '')), 1, 15))::bit(60)::bigint
FROM tenantry_batches WHERE writer <> $1
"""


class Found(NamedTuple):
    """What a look for marks has found.

    Attributes:
        is_owner: Whether the store still owns the tenant. A batch that has not left its mark may run again only if so.
        kept: The numbers of the transactions that were committed, among those that the store asked for.
    """

    is_owner: bool
    kept: Collection[int]


class Marks:
    """The numbers of a store's batches, and the look for their marks."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._numbers = count(1)

    def next(self) -> Mark:
        """Return the mark of a transaction that runs by itself."""
        number = next(self._numbers)
        return Mark(number, number)

    def next_after(self, first: Mark) -> Mark:
        """Return the mark of a transaction that runs together with `first`."""
        return Mark(next(self._numbers), first.since)

    def send_durable(self, pipeline: Pipeline) -> None:
        """Send a transaction whose commit makes all earlier commits durable.

        The transaction has no guard: it must not fail because another owner has taken the tenant over, since the commits before it are
        valid.
        """
        self._head.set(pipeline)
        self._send_raise(pipeline)
        pipeline.sync()

    async def look_for(self, marks: Collection[Mark], pipeline: Pipeline, timeout_seconds: float) -> Found:
        """Return which of the transactions were committed. None of the others can be committed later.

        Raises:
            ConnectionLostError: The connection was lost; look again.
            QueryError: The owner's row is locked, or another temporary failure; look again.
        """
        self._head.set(pipeline)
        pipeline.send(_LOCK_OWNER)
        self._send_raise(pipeline)
        pipeline.sync()
        (results,) = await pipeline.results(timeout_seconds)
        failed = first_failure(results)
        if failed is not None:
            if code_of(failed) in SCHEMA_MISSING:
                return Found(is_owner=False, kept=())
            raise map_error(failed, "cannot look for the last batch")
        _, owner, mark = results
        ((since, kept),) = load_rows(mark)
        return Found(
            is_owner=self._head.is_owner(load_rows(owner)),
            kept={mark.number for mark in marks if mark.since == since and mark.bit & kept},
        )

    def send_others(self, pipeline: Pipeline) -> None:
        """Send the query for a number that changes when another store commits."""
        pipeline.send(_OTHERS, [self._head.writer])

    def _send_raise(self, pipeline: Pipeline) -> None:
        pipeline.send(_RAISE, [self._head.writer, b"%d" % next(self._numbers)])
