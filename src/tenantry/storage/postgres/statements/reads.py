"""Runs batches of read-only statements on the server: one transaction and one trip.

A failed statement fails the transaction. What came before the failure holds, because nothing was written, and what came after it runs
again. If the connection is lost, the statements run again until the batch's deadline.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tenantry.errors import CallTimeoutError, QueryError
from tenantry.sql.statements import Statement
from tenantry.storage.postgres.connections.errors import (
    READ_ONLY,
    RUN_AGAIN,
    SCHEMA_MISSING,
    code_of,
    forget_stale,
    is_lock_timeout,
    map_error,
)
from tenantry.storage.postgres.connections.lost_connection import ConnectionLostError
from tenantry.storage.postgres.connections.pipeline import OK, Pipeline
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.statements.batch import BackInLineError
from tenantry.storage.postgres.statements.head import Head
from tenantry.storage.postgres.statements.unit import Unit, make_unit
from tenantry.storage.postgres.statements.values import load_rows
from tenantry.storage.postgres.statements.writes import Connections
from tenantry.storage.protocol import ReadOutcome

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

_PAUSE_SECONDS = 0.01
_HAS_OWNER = b"SELECT to_regclass('tenantry_owner') IS NOT NULL"


@dataclass(slots=True)
class _Batch:
    """The statements of a batch that have no outcome yet, by their positions."""

    todo: dict[int, Unit]
    outcomes: dict[int, ReadOutcome]
    deadline_seconds: float
    has_forgotten: bool = False

    def take(self, results: "Sequence[PGresult]") -> "PGresult | None":
        """Set the outcomes up to the first failure, and return the failure."""
        for (position, unit), result in zip([*self.todo.items()], results, strict=True):
            if result.status not in OK:
                return result
            (self.outcomes[position],) = unit.results([result])
            del self.todo[position]
        return None


class Reader:
    """Runs the read batches of one store; several may run at the same time."""

    def __init__(self, owner: Owner, head: Head, connections: Connections, *, timeout_seconds: float) -> None:
        self._owner = owner
        self._head = head
        self._connections = connections
        self._timeout_seconds = timeout_seconds

    async def read(self, statements: Sequence[Statement]) -> list[ReadOutcome]:
        """Run the statements; return one outcome for each.

        Raises:
            TenantOwnedElsewhereError: The schema does not exist any more.
            PersistenceConnectionError: The server cannot be reached.
            CallTimeoutError: The time was over.
        """
        batch = _Batch({}, {}, asyncio.get_running_loop().time() + self._timeout_seconds)
        for position, statement in enumerate(statements):
            try:
                batch.todo[position] = make_unit((statement,))
            except QueryError as error:
                batch.outcomes[position] = error
        while batch.todo:
            try:
                async with self._connections.connection(
                    self._owner.uid, timeout_seconds=self._left_seconds(batch)
                ) as pipeline:
                    while batch.todo:
                        await self._read(batch, pipeline)
            except (ConnectionLostError, BackInLineError):
                await asyncio.sleep(_PAUSE_SECONDS)
        return [batch.outcomes[position] for position in range(len(statements))]

    async def _read(self, batch: _Batch, pipeline: Pipeline) -> None:
        left_seconds = self._left_seconds(batch)
        self._head.begin_read(pipeline)
        for unit in batch.todo.values():
            unit.send(pipeline)
        pipeline.sync()
        ((head, *results),) = await pipeline.results(left_seconds)
        if head.status not in OK:
            raise map_error(head, "cannot begin to read")
        failed = batch.take(results)
        if failed is None:
            return
        position, unit = next(iter(batch.todo.items()))
        code = code_of(failed)
        if is_lock_timeout(failed):
            raise BackInLineError(code)
        if not batch.has_forgotten and forget_stale(code, unit.commands[0].sql, pipeline):
            batch.has_forgotten = True
        elif code not in RUN_AGAIN:
            if code in SCHEMA_MISSING:
                await self._check_owned(pipeline, left_seconds)
            batch.outcomes[position] = self._failed(unit, failed)
            del batch.todo[position]

    def _left_seconds(self, batch: _Batch) -> float:
        left_seconds = batch.deadline_seconds - asyncio.get_running_loop().time()
        if left_seconds <= 0:
            raise CallTimeoutError(
                f"the database did not answer within {self._timeout_seconds:g} s",
                tenant_id=self._owner.tenant_id,
                timeout_seconds=self._timeout_seconds,
                was_started=True,
            )
        return left_seconds

    async def _check_owned(self, pipeline: Pipeline, timeout_seconds: float) -> None:
        """Raise if the schema was removed, which looks like a missing table."""
        self._head.begin_read(pipeline)
        pipeline.send(_HAS_OWNER)
        pipeline.sync()
        (results,) = await pipeline.results(timeout_seconds)
        if results[-1].status in OK and load_rows(results[-1]) == [(0,)]:
            raise self._owner.taken_over(f"the schema {self._owner.schema} was removed or replaced")

    def _failed(self, unit: Unit, result: "PGresult") -> QueryError:
        name, code = unit.request[0].name, code_of(result)
        if code == READ_ONLY:
            return QueryError(
                f"{name} writes, but was passed to read(): nothing was written; use write()", code=code
            )
        return map_error(result, name)  # type: ignore[return-value]
