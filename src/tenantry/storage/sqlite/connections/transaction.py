"""A transaction that spans several calls on the writer's connection."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import anyio

from tenantry.errors import TransactionClosedError
from tenantry.sql.statements import Statement
from tenantry.storage.protocol import ReadOutcome, Request, WriteOutcome
from tenantry.storage.sqlite.connections.connection import JobConnection
from tenantry.storage.sqlite.engine.native import READ, WRITE, NativeBatch
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, map_error
from tenantry.storage.sqlite.native_batches import outcome_of_read, outcome_of_unit
from tenantry.storage.sqlite.statements.batch import (
    Guard,
    read_in_transaction,
    roll_back,
    run_unit_of_transaction,
)
from tenantry.storage.sqlite.store_errors import StoreErrors

T = TypeVar("T")

OnCommit = Callable[[sqlite3.Connection], None]
"""A function that runs on the writer's thread after COMMIT."""


class SQLiteTransaction:
    """A `StoreTransaction` that holds the writer from `begin` until the transaction ends."""

    def __init__(
        self,
        connection: JobConnection,
        release: Callable[[], None],
        errors: StoreErrors,
        on_commit: OnCommit,
    ) -> None:
        self._connection = connection
        self._errors = errors
        self._on_commit = on_commit
        self._release: Callable[[], None] | None = release

    @classmethod
    async def begin(
        cls,
        connection: JobConnection,
        guard: Guard,
        release: Callable[[], None],
        *,
        errors: StoreErrors,
        on_commit: OnCommit,
    ) -> "SQLiteTransaction":
        """Begin a transaction.

        Args:
            connection: The writer's connection, reserved for this transaction until `release` is called.
            guard: A function that raises an error if another owner has replaced this one.
            release: A function that is called once, when the transaction has ended.
            errors: The errors of the store.
            on_commit: A function that is called after COMMIT, before `commit` returns. `commit` raises its errors.

        Cancellation leaves no transaction open.
        """
        try:
            await connection.run(partial(_begin, guard))
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await connection.run(roll_back)
            if isinstance(error, DRIVER_ERRORS):
                raise map_error(error, "begin") from error
            raise
        return cls(connection, release, errors, on_commit)

    async def write(self, request: Request) -> WriteOutcome:
        """Run one unit inside the transaction; see `StoreTransaction.write`.

        Cancellation interrupts the running statement and rolls the transaction back.
        """
        native = self._connection.batch(WRITE, [request], is_inside=True)
        finish = partial(outcome_of_unit, request, self._errors)
        job = partial(run_unit_of_transaction, request)
        outcome: WriteOutcome = await self._run(job, partial(self._interruptibly, native, finish))
        return self._errors.with_limit_named(outcome, request[0].name)

    async def read(self, statement: Statement) -> ReadOutcome:
        """Run one read-only statement inside the transaction; see `StoreTransaction.read`. Cancellation acts as for `write`."""
        native = self._connection.batch(READ, [statement], is_inside=True)
        finish = partial(outcome_of_read, statement, self._errors)
        return await self._run(
            partial(read_in_transaction, statement), partial(self._interruptibly, native, finish)
        )

    async def commit(self) -> None:
        """Commit the transaction durably; see `StoreTransaction.commit`."""
        try:
            # COMMIT is never interrupted, because the caller must not get an error for a committed transaction.
            await self._run(partial(_commit, self._on_commit), self._connection.run)
        except DRIVER_ERRORS as error:
            raise map_error(error, "commit") from error
        finally:
            await self.rollback()

    async def rollback(self) -> None:
        """Roll the transaction back; see `StoreTransaction.rollback`."""
        release, self._release = self._release, None
        if release is None:
            return
        try:
            with anyio.CancelScope(shield=True):
                await self._connection.run(roll_back)
        except (*DRIVER_ERRORS, ValueError) as error:
            if self._connection.is_open:
                raise map_error(error, "rollback") from error
        finally:
            release()

    async def _interruptibly(
        self,
        batch: NativeBatch | None,
        finish: Callable[[NativeBatch], T],
        job: Callable[[sqlite3.Connection], T],
    ) -> T:
        """Run the batch, or the job. Cancellation interrupts it and waits for its end, so that the caller can use the writer afterwards."""
        try:
            if batch is None:
                return await self._connection.submit(job)
            return await self._connection.submit_batch(batch, self._connection.with_connection(job), finish)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True), suppress(ValueError):  # closed in the meantime
                await self._connection.run(roll_back)
            raise

    async def _run(
        self,
        job: Callable[[sqlite3.Connection], T],
        run: Callable[[Callable[[sqlite3.Connection], T]], Awaitable[T]],
    ) -> T:
        if self._release is None:
            raise TransactionClosedError("the transaction has ended: open a new one")
        try:
            return await run(partial(_run_inside, job))
        except (sqlite3.ProgrammingError, ValueError) as error:
            raise TransactionClosedError("the database was disconnected during the transaction") from error


def _begin(guard: Guard, connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    guard(connection)


def _run_inside(job: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
    """Run the job only if the transaction is still open, because SQLite may have rolled the transaction back after an error."""
    if not connection.in_transaction:
        raise TransactionClosedError(
            "the transaction was rolled back after an error in SQLite or a cancelled call: open a new transaction"
        )
    return job(connection)


def _commit(on_commit: OnCommit, connection: sqlite3.Connection) -> None:
    connection.execute("COMMIT")
    on_commit(connection)
