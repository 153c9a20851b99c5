"""The SQLite store: one writer connection, read-only readers beside it, one job on a thread for each batch."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

import anyio

from tenantry import events
from tenantry.errors import MigrationError, PersistenceConnectionError, TenantryError
from tenantry.storage.migrations import AppliedMigration, plan_migrations
from tenantry.storage.protocol import MigrationReport, ReadOutcome, Request, WriteOutcome
from tenantry.storage.sqlite import batch, migrator
from tenantry.storage.sqlite.connection import JobConnection
from tenantry.storage.sqlite.crew import Crews
from tenantry.storage.sqlite.errors import map_connection_error, map_error
from tenantry.storage.sqlite.opening import SQLiteOptions, open_reader, open_writer
from tenantry.storage.sqlite.transaction import SQLiteTransaction

if TYPE_CHECKING:
    from tenantry.clock import Clock
    from tenantry.eventlog import EventLog
    from tenantry.schema import Migration, Schema
    from tenantry.statements import Statement
    from tenantry.storage.sqlite.ownership import FileOwnership

T = TypeVar("T")


class SQLiteStore:
    """One tenant's SQLite database.

    Only the writer connection writes and checkpoints, and it closes last: before 3.51.3 (but for 3.44.6 and 3.50.7)
    SQLite can corrupt a WAL database when two connections write or checkpoint at the wrong moment
    (https://www.sqlite.org/wal.html, section 11).

    Args:
        options: The path and how to open it.
        schemas: The packs to migrate to.
        clock: For the times in ``schema_migrations``.
        log: Bound to the tenant where there is one.
        crews: The threads that the database's work is done on.
        ownership: The file's lock and epoch, None for a database that has one user by agreement.
    """

    def __init__(
        self,
        options: SQLiteOptions,
        schemas: Sequence["Schema"],
        *,
        clock: "Clock",
        log: "EventLog",
        crews: Crews,
        ownership: "FileOwnership | None" = None,
    ) -> None:
        self._options = options
        self._schemas = tuple(schemas)
        self._clock = clock
        self._log = log
        self._crews = crews
        self._ownership = ownership
        self._guard: batch.Guard = ownership.guard if ownership is not None else _unguarded
        self._lifecycle = asyncio.Lock()
        # Held over a whole transaction, and given back by whoever ends it: an anyio.Lock belongs to one task.
        self._writer_lock = asyncio.Lock()
        self._writer: JobConnection | None = None
        self._plan: migrator.Plan | MigrationError | None = None
        self._transaction: SQLiteTransaction | None = None
        self._is_read = False
        self._readers: list[JobConnection] = []

    @property
    def backend(self) -> str:
        """The back end's name."""
        return "sqlite"

    @property
    def is_connected(self) -> bool:
        """Whether the writer is open."""
        return self._writer is not None

    async def connect(self) -> None:
        """Open the writer; see `Store.connect`."""
        async with self._lifecycle:
            if self._writer is not None:
                self._log.debug(events.BACKEND_ALREADY_CONNECTED, backend=self.backend)
                return
            self._log.debug(events.BACKEND_CONNECTING, backend=self.backend)
            try:
                self._writer = await JobConnection.open(self._open, self._crews.write)
            except (sqlite3.Error, OSError, TenantryError) as error:
                self._fail_connection(events.BACKEND_CONNECTION_FAILED, error, "open")
            except BaseException:
                # Cancelled. The connection was closed again, but the lock is not the connection's.
                if self._ownership is not None:
                    self._ownership.release(is_clean=False)
                raise
            self._is_read = False
            self._log.info(events.BACKEND_CONNECTED, backend=self.backend)

    async def disconnect(self) -> None:
        """Close the readers, then the writer; see `Store.disconnect`."""
        async with self._lifecycle:
            if self._writer is None:
                return
            self._log.debug(events.BACKEND_DISCONNECTING, backend=self.backend)
            # Closing must not be left half done by a cancelled caller: it is bounded work on the local disk.
            with anyio.CancelScope(shield=True):
                try:
                    if self._transaction is not None:
                        await self._transaction.rollback()
                    while self._readers:
                        await self._readers[-1].aclose()
                        self._readers.pop()
                    await self._writer.aclose()
                except (sqlite3.Error, OSError) as error:
                    self._fail_connection(events.BACKEND_DISCONNECT_ERROR, error, "close")
                self._writer = None
                if self._ownership is not None:
                    self._ownership.release()
            self._log.info(events.BACKEND_DISCONNECTED, backend=self.backend)

    async def health_check(self) -> bool:
        """Return whether the writer answers a query."""
        if self._writer is None:
            return False
        try:
            is_healthy = await self._writer.run(_select_one)
        except (sqlite3.Error, ValueError):  # aiosqlite says ValueError when it was closed meanwhile
            is_healthy = False
        self._log.debug(events.BACKEND_HEALTH_CHECK, backend=self.backend, is_healthy=is_healthy)
        return is_healthy

    async def migrate(self) -> MigrationReport:
        """Apply the pending migrations; see `Store.migrate`."""
        plan, self._plan = self._plan, None
        try:
            writer = self._connected()
            if isinstance(plan, MigrationError):
                raise plan
            if plan is not None and not plan.pending:
                return self._reported(plan, ())
            async with self._writer_lock:
                return await writer.run(partial(self._migrate, plan))
        except (sqlite3.Error, ValueError, TenantryError) as error:
            mapped = self._map(error, f"cannot migrate {self._options}")
            self._log.failure(events.MIGRATION_FAILED, mapped, backend=self.backend)
            raise mapped from error

    def write(self, requests: Sequence[Request]) -> "asyncio.Future[list[WriteOutcome]]":
        """Run the requests in one transaction; see `Store.write`."""
        job = self._mapped(partial(batch.write_batch, requests, self._guard))
        if self._writer_lock.locked():
            return asyncio.ensure_future(self._submit_in_turn(job))
        return self._submit(self._connected(), job)

    def read(self, statements: Sequence["Statement"]) -> "asyncio.Future[list[ReadOutcome]]":
        """Run reading statements on one snapshot; see `Store.read`."""
        writer = self._connected()
        if self._options.is_read_by_writer or self._is_read_by_idle_writer(writer):
            beside_writes = self._mapped(partial(batch.read_batch_beside_writes, statements))
            if self._writer_lock.locked():
                return asyncio.ensure_future(self._submit_in_turn(beside_writes))
            return self._submit(writer, beside_writes)
        job = self._mapped(partial(batch.read_batch, statements))
        reader = self._reader()
        if reader is None:
            return asyncio.ensure_future(self._submit_to_new_reader(job))
        return self._submit(reader, job)

    async def begin(self) -> SQLiteTransaction:
        """Open a transaction over several calls; see `Store.begin`."""
        await self._writer_lock.acquire()
        try:
            transaction = await SQLiteTransaction.begin(
                self._connected(), self._guard, self._writer_lock.release
            )
        except BaseException as error:
            self._writer_lock.release()
            if isinstance(error, (sqlite3.Error, ValueError)):
                raise self._map(error, f"cannot use {self._options}") from error
            raise
        self._transaction = transaction
        return transaction

    def _is_read_by_idle_writer(self, writer: JobConnection) -> bool:
        """Whether this is the first read, and the writer has nothing to do.

        A reader's connection and thread cost more than the read: a tenant that is opened for one look does without.
        """
        is_first, self._is_read = not self._is_read, True
        return is_first and self._ownership is not None and not (self._writer_lock.locked() or writer.backlog)

    def _known_version(self) -> int:
        return sum(len(schema.migrations(self.backend)) for schema in self._schemas)

    def check_connected(self) -> None:
        """Raise if the store is not connected.

        Raises:
            PersistenceConnectionError: It is not.
        """
        self._connected()

    def _connected(self) -> JobConnection:
        if self._writer is None:
            self._log.warning(events.BACKEND_NOT_CONNECTED, backend=self.backend)
            raise PersistenceConnectionError(
                "the database is not connected: call connect() first", is_retryable=False
            )
        return self._writer

    def _submit(
        self, connection: JobConnection, job: Callable[[sqlite3.Connection], T]
    ) -> "asyncio.Future[T]":
        try:
            return connection.submit(job)
        except ValueError as error:
            raise self._map(error, f"cannot use {self._options}") from error

    async def _submit_in_turn(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run a job on the writer's connection once the transaction that holds it has ended."""
        async with self._writer_lock:
            return await self._submit(self._connected(), job)

    async def _submit_to_new_reader(self, job: Callable[[sqlite3.Connection], T]) -> T:
        async with self._lifecycle:
            # Others may have opened readers while this one waited.
            reader = self._reader() or await self._open_reader()
        return await self._submit(reader, job)

    def _reader(self) -> JobConnection | None:
        """Return the reader with the least to do; None if a new one should be opened, because all have something to do."""
        reader = min(self._readers, key=lambda reader: reader.backlog, default=None)
        if reader is not None and reader.backlog and len(self._readers) < self._options.readers_max:
            return None
        return reader

    async def _open_reader(self) -> JobConnection:
        self._connected()
        try:
            reader = await JobConnection.open(partial(open_reader, self._options), self._crews.read)
        except (sqlite3.Error, OSError) as error:
            self._fail_connection(events.BACKEND_CONNECTION_FAILED, error, "read")
        self._readers.append(reader)
        return reader

    def _open(self) -> sqlite3.Connection:
        """Open the writer's connection; plan its migrations in the same job, if nobody else can change the file."""
        connection = open_writer(self._options, self._ownership, self._known_version(), self._log)
        if self._ownership is None:
            return connection
        try:
            self._plan = self._planned(connection)
        except MigrationError as error:
            self._plan = error  # for migrate() to raise
        except BaseException:
            connection.close()
            self._ownership.release(is_clean=False)
            raise
        return connection

    def _planned(self, connection: sqlite3.Connection) -> migrator.Plan:
        """Plan, then claim: a database that is refused is not touched."""
        plan = migrator.plan(self._pending, connection)
        if self._ownership is not None:
            self._ownership.claim(connection)
        return plan

    def _pending(self, applied: list[AppliedMigration], file_version: int) -> "tuple[Migration, ...]":
        return plan_migrations(self._schemas, self.backend, applied, file_version)

    def _migrate(self, plan: migrator.Plan | None, connection: sqlite3.Connection) -> MigrationReport:
        plan = plan or self._planned(connection)
        if not plan.pending:
            return self._reported(plan, ())
        self._log.info(events.MIGRATION_STARTED, pending=[str(m) for m in plan.pending])
        applied = migrator.apply_migrations(plan, self._pending, self._clock, connection)
        self._log.info(events.MIGRATION_COMPLETED, applied=len(applied))
        return self._reported(plan, applied)

    def _reported(self, plan: migrator.Plan, applied: "tuple[Migration, ...]") -> MigrationReport:
        """Return where the database is now; what this store did not apply itself, another process did meanwhile."""
        if not plan.pending:
            self._log.debug(events.MIGRATION_SKIPPED)
        versions = {row.schema: row.version for row in plan.applied}
        versions.update({migration.schema: migration.version for migration in plan.pending})
        return MigrationReport(applied=applied, versions=versions)

    def _mapped(self, job: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
        def run(connection: sqlite3.Connection) -> T:
            try:
                return job(connection)
            except (sqlite3.Error, ValueError) as error:
                raise self._map(error, f"cannot use {self._options}") from error

        return run

    def _map(self, error: Exception, doing: str) -> TenantryError:
        # What aiosqlite and sqlite3 say when a job comes too late for a connection that was closed meanwhile.
        if isinstance(error, (ValueError, sqlite3.ProgrammingError)):
            return PersistenceConnectionError(f"{doing}: the database was disconnected meanwhile")
        return map_error(error, doing)

    def _fail_connection(self, event: str, error: Exception, doing: str) -> NoReturn:
        mapped = map_connection_error(error, f"cannot {doing} {self._options}")
        self._log.failure(event, mapped, backend=self.backend)
        raise mapped from error


def _select_one(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT 1").fetchone() == (1,))


def _unguarded(_: sqlite3.Connection) -> None:
    """Let everyone write: a database without an owner has one user by agreement."""
