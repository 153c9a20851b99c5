"""The SQLite store, which has one writer connection and read-only readers, and runs each batch as one job on a thread."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio

from tenantry import events
from tenantry.errors import MigrationError, PersistenceConnectionError, SnapshotError, TenantryError
from tenantry.storage.migrations import plan_migrations
from tenantry.storage.protocol import ChangeToken, MigrationReport, ReadOutcome, Request, WriteOutcome
from tenantry.storage.sqlite.connections.connection import JobConnection
from tenantry.storage.sqlite.connections.connections import Connections
from tenantry.storage.sqlite.connections.database_opener import DatabaseOpener
from tenantry.storage.sqlite.connections.log_limit import LogLimit
from tenantry.storage.sqlite.connections.opening import SQLiteOptions, open_reader
from tenantry.storage.sqlite.connections.thread_pool import ThreadPools
from tenantry.storage.sqlite.connections.transaction import SQLiteTransaction
from tenantry.storage.sqlite.database_files.change_token import read_change_token
from tenantry.storage.sqlite.engine.native import READ, NativeBatch
from tenantry.storage.sqlite.errors import DRIVER_ERRORS
from tenantry.storage.sqlite.maintenance import integrity, online_backup
from tenantry.storage.sqlite.migrations import migrator
from tenantry.storage.sqlite.native_batches import batch_of_writes, outcomes_of_reads, outcomes_of_writes
from tenantry.storage.sqlite.statements import batch
from tenantry.storage.sqlite.store_errors import StoreErrors
from tenantry.threads import cancelled_by, run_in_thread

if TYPE_CHECKING:
    from tenantry.clock import Clock
    from tenantry.config import Durability
    from tenantry.eventlog import EventLog
    from tenantry.schemas.migration import Migration
    from tenantry.schemas.schema import Schema
    from tenantry.sql.statements import Statement
    from tenantry.storage.sqlite.database_files.ownership import FileOwnership

T = TypeVar("T")


class SQLiteStore:
    """One tenant's SQLite database.

    Only the writer connection writes and checkpoints, and it closes last. Before version 3.51.3 (except 3.44.6 and 3.50.7), SQLite can
    corrupt a WAL database if two connections write or checkpoint at the same time (https://www.sqlite.org/wal.html, section 11).
    `ownership` is None for a database that has a single user by agreement.
    """

    def __init__(
        self,
        options: SQLiteOptions,
        schemas: Sequence["Schema"],
        *,
        clock: "Clock",
        log: "EventLog",
        thread_pools: ThreadPools,
        ownership: "FileOwnership | None" = None,
    ) -> None:
        self._options = options
        self._schemas = tuple(schemas)
        self._engine = thread_pools.read.engine
        self._clock = clock
        self._log = log
        self._errors = StoreErrors(options, backend=self.backend, log=log)
        self._ownership = ownership
        self._guard: batch.Guard = ownership.guard if ownership is not None else _unguarded
        self._lifecycle = asyncio.Lock()
        # One task may acquire this lock and another task release the lock. With an anyio.Lock, both must be the same task.
        self._writer_lock = asyncio.Lock()
        # A method of the store would keep the closed store in memory until the garbage collector runs.
        self._planner: migrator.Planner = partial(plan_migrations, self._schemas, self.backend)
        self._opener = DatabaseOpener(
            options,
            planner=self._planner,
            known_version=sum(len(schema.migrations(self.backend)) for schema in self._schemas),
            ownership=ownership,
            log=log,
        )
        self._connections = Connections(self._opener, thread_pools)
        self._log_limit = LogLimit(options, self._connections, self._writer_lock, log)
        self._transaction: SQLiteTransaction | None = None
        self._copies: set[asyncio.Future[None]] = set()
        self._is_closing = False  # ends running copies
        self._checks: set[asyncio.Future[None]] = set()
        self._is_read = False
        self._turns = 0  # the jobs that wait for the writer, or run in their turn

    @property
    def backend(self) -> str:
        """The name of the back end."""
        return "sqlite"

    @property
    def is_connected(self) -> bool:
        """Whether the database is open."""
        return self._connections.is_open

    async def connect(self, *, is_for_write: bool = False) -> None:
        """Open the database; see `Store.connect`."""
        async with self._lifecycle:
            if self._connections.is_open:
                self._log.debug(events.BACKEND_ALREADY_CONNECTED, backend=self.backend)
                return
            self._log.debug(events.BACKEND_CONNECTING, backend=self.backend)
            try:
                await self._connections.open(is_for_write=is_for_write)
            except (*DRIVER_ERRORS, OSError, TenantryError) as error:
                self._errors.fail_connection(events.BACKEND_CONNECTION_FAILED, error, "open")
            self._is_read = False
            self._is_closing = False
            self._log.info(events.BACKEND_CONNECTED, backend=self.backend)

    async def disconnect(self) -> None:
        """Close the readers, then the writer; see `Store.disconnect`."""
        async with self._lifecycle:
            if not self._connections.is_open:
                return
            self._log.debug(events.BACKEND_DISCONNECTING, backend=self.backend)
            # Cancellation must not interrupt closing, which takes a limited time on the local disk.
            with anyio.CancelScope(shield=True):
                try:
                    self._is_closing = True
                    await self._log_limit.aclose()
                    if self._copies:
                        await asyncio.wait(self._copies)
                    if self._transaction is not None:
                        await self._transaction.rollback()
                    for check in tuple(self._checks):
                        check.cancel()
                    await self._connections.aclose()
                except (*DRIVER_ERRORS, OSError) as error:
                    self._errors.fail_connection(events.BACKEND_DISCONNECT_ERROR, error, "close")
            self._log.info(events.BACKEND_DISCONNECTED, backend=self.backend)

    async def health_check(self) -> bool:
        """Return whether the database answers a query."""
        connection = self._connections.immutable_reader or self._connections.writer
        if connection is None:
            return False
        try:
            is_healthy = await connection.run(_select_one)
        except (*DRIVER_ERRORS, ValueError, TenantryError):  # ValueError: the connection has been closed
            is_healthy = False
        self._log.debug(events.BACKEND_HEALTH_CHECK, backend=self.backend, is_healthy=is_healthy)
        return is_healthy

    async def migrate(self) -> MigrationReport:
        """Apply the pending migrations; see `Store.migrate`."""
        plan = self._opener.take_plan()
        try:
            self.check_connected()
            if isinstance(plan, MigrationError):
                raise plan
            if plan is not None and not plan.pending:
                return self._reported(plan, ())
            async with self._writer_lock:
                writer = await self._connections.ensure_writer()
                # The migration is a job, so that cancellation interrupts it.
                cancelled = threading.Event()
                job = writer.submit(partial(self._migrate, plan, cancelled))
                job.add_done_callback(lambda job: cancelled.set() if job.cancelled() else None)
                return await job
        except (*DRIVER_ERRORS, OSError, ValueError, TenantryError) as error:
            mapped = self._errors.map(error, f"cannot migrate {self._options}")
            mapped = self._errors.with_limit_named(mapped, str(mapped))
            self._log.failure(events.MIGRATION_FAILED, mapped, backend=self.backend)
            raise mapped from error

    @property
    def write_batches_max(self) -> int:
        """Two with the engine: it needs no lock of the interpreter, so the next batch can run while the first is answered."""
        return 1 if self._engine is None else 2

    @property
    def shared_batch_requests_max(self) -> int:
        """Four times as many with the engine, whose threads need no lock of the interpreter; see `Store.shared_batch_requests_max`.

        In a benchmark, 256 callers flooded one tenant beside 50 quiet tenants. In Python the flood multiplied the quiet tenants' p99
        latency by 3 with batches of 64, by 2 to 3 with batches of 32, and by 1.5 to 1.9 with batches of 16. The small batches cost
        four busy tenants an eighth of their writes. With the engine, batches of 64 cost the quiet tenants nothing.
        """
        return 16 if self._engine is None else 64

    def claim_connection(self) -> bool:
        """Return true: the store shares no connections; see `Store.claim_connection`."""
        return True

    def write(self, requests: Sequence[Request]) -> "asyncio.Future[list[WriteOutcome]]":
        """Run the requests in one transaction; see `Store.write`."""
        self.check_connected()
        self._enforce_log_limit()
        writer = self._connections.writer
        if writer is None or self._writer_lock.locked() or self._turns:
            return self._submit_in_turn(partial(self._submit_write, requests))
        return self._submit_write(requests, writer)

    def read(self, statements: Sequence["Statement"]) -> "asyncio.Future[list[ReadOutcome]]":
        """Run read-only statements on one snapshot; see `Store.read`."""
        self.check_connected()
        connections = self._connections
        if connections.immutable_reader is not None:
            immutable = connections.immutable_reader
            call = self._errors.mapped(partial(connections.read_immutable, statements, immutable.opened))
            return self._submit_read(immutable, call, statements)
        writer = connections.writer
        if writer is None or self._log_limit.holds_reads:
            return asyncio.ensure_future(self._read_later(statements))
        if self._options.is_read_by_writer or self._is_read_by_idle_writer(writer):
            beside_writes = self._errors.mapped(partial(batch.read_batch_beside_writes, statements))
            if self._writer_lock.locked():
                return self._submit_in_turn(partial(self._submit, job=beside_writes))
            return self._submit_read(writer, writer.with_connection(beside_writes), statements)
        job = self._errors.mapped(partial(batch.read_batch, statements))
        reader = connections.reader()
        if reader is None:
            return asyncio.ensure_future(self._submit_to_new_reader(job, statements))
        return self._submit_read(reader, reader.with_connection(job), statements)

    async def apply_limits(self, *, database_bytes_max: int | None, durability: "Durability") -> None:
        """Apply limits to writes; see `Store.apply_limits`."""
        # Inside a transaction SQLite would not change `synchronous`, and would count pages that the transaction may roll back.
        async with self._writer_lock:
            with self._errors.mapping():
                await self._connections.apply_limits(database_bytes_max, durability)
            self._errors.database_bytes_max = database_bytes_max

    async def check_integrity(self, *, is_thorough: bool = False) -> None:
        """Check the whole database for damage; see `Store.check_integrity`.

        The check is one read transaction, during which the write-ahead log cannot be truncated.
        """
        self.check_connected()
        check = self._errors.mapped(
            partial(integrity.check_connection, name=str(self._options), is_thorough=is_thorough)
        )
        if self._options.is_read_by_writer:
            await self._submit_in_turn(partial(self._submit, job=check))
            return
        with self._errors.mapping():
            async with self._connections.long_lived_reader() as reader:
                await self._checked(self._submit(reader, check))

    def change_token(self) -> ChangeToken | None:
        """Return a token of the current content, or None for a database in memory; see `Store.change_token`."""
        path, engine = self._options.path, self._engine
        if path is None:
            return None
        if engine is None:
            return read_change_token(path, is_wal=self._options.is_wal)
        # The event loop reads the token at each lookup in the catalog. For a system call Python would give its lock up, and wait for it.
        return read_change_token(path, is_wal=self._options.is_wal, modified_at=engine.modified_at)

    async def changes_by_others(self) -> int:
        """Return a number that changes when another connection commits; see `Store.changes_by_others`.

        Each connection has a different number, so this method always uses the writer's connection
        (https://www.sqlite.org/pragma.html#pragma_data_version).
        """
        self.check_connected()
        return await self._submit_in_turn(partial(self._submit, job=self._errors.mapped(_data_version)))

    async def begin(self) -> SQLiteTransaction:
        """Open a transaction over several calls; see `Store.begin`."""
        self.check_connected()
        self._enforce_log_limit()
        await self._writer_lock.acquire()
        try:
            with self._errors.mapping():
                writer = await self._connections.ensure_writer()
                transaction = await SQLiteTransaction.begin(
                    writer,
                    self._guard,
                    self._release_writer,
                    errors=self._errors,
                    on_commit=self._connections.make_log_durable,
                )
        except BaseException:
            self._writer_lock.release()
            raise
        self._transaction = transaction
        return transaction

    def _release_writer(self) -> None:
        """Release the writer after a transaction."""
        self._writer_lock.release()
        self._log_limit.measure()

    def _enforce_log_limit(self) -> None:
        # A running copy reads from the log, so the log cannot be truncated.
        if not self._copies:
            self._log_limit.enforce()

    def _write_batch(self, requests: Sequence[Request], connection: sqlite3.Connection) -> list[WriteOutcome]:
        outcomes = batch.write_batch(requests, self._guard, connection)
        self._connections.make_log_durable(connection)
        self._log_limit.measure_again()
        if self._errors.database_bytes_max is None:
            return outcomes
        return [
            self._errors.with_limit_named(outcome, request[0].name)
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    async def copy_to(self, path: Path) -> None:
        """Write a consistent copy into a new file while the writer continues; see `Store.copy_to`."""
        self.check_connected()
        with self._errors.mapping():
            # An open writer has a write-ahead log, which lets the copy read while the writer writes.
            await self._connections.ensure_writer()
        copy = asyncio.ensure_future(run_in_thread(self._copy, path))
        self._copies.add(copy)
        copy.add_done_callback(self._copies.discard)
        with self._errors.mapping():
            await copy

    def _copy(self, path: Path) -> None:
        with closing(open_reader(self._options)) as reader:
            online_backup.copy_database(reader, path, self._check_copied)

    def _check_copied(self, _left: int, _pages: int) -> None:
        if self._is_closing:
            raise SnapshotError(f"{self._options} was closed during a copy: try again", is_retryable=True)

    def _is_read_by_idle_writer(self, writer: JobConnection) -> bool:
        """Return whether the writer is idle and no statement was read before.

        A tenant that is read once does not need a reader, and opening a reader takes longer than the read.
        """
        is_first, self._is_read = not self._is_read, True
        return is_first and self._ownership is not None and not (self._writer_lock.locked() or writer.backlog)

    def check_connected(self) -> None:
        """Raise if the store is not connected.

        Raises:
            PersistenceConnectionError: The store is not connected.
        """
        if not self._connections.is_open:
            self._log.warning(events.BACKEND_NOT_CONNECTED, backend=self.backend)
            raise PersistenceConnectionError(
                "the database was opened by the process from which this process was forked: open a database in each process after the fork"
                if self._connections.is_left_to_parent
                else "the database is not connected: call connect() first",
                is_retryable=False,
            )

    def _submit(
        self, connection: JobConnection, job: Callable[[sqlite3.Connection], T]
    ) -> "asyncio.Future[T]":
        with self._errors.mapping():
            return connection.submit(job)

    def _submit_write(
        self, requests: Sequence[Request], writer: JobConnection
    ) -> "asyncio.Future[list[WriteOutcome]]":
        """Submit a batch of writes to the engine, or to Python if the engine does not take it."""
        job = self._errors.mapped(partial(self._write_batch, requests))
        batch_ = batch_of_writes(writer, requests) if self._connections.may_write_in_engine else None
        if batch_ is None:
            return self._submit(writer, job)
        return writer.submit_batch(batch_, writer.with_connection(job), partial(self._written, requests))

    def _submit_read(
        self,
        connection: JobConnection,
        call: Callable[[], list[ReadOutcome]],
        statements: Sequence["Statement"],
    ) -> "asyncio.Future[list[ReadOutcome]]":
        """Submit a read to the engine, or the call to Python if the engine does not take the read."""
        batch_ = connection.batch(READ, statements)
        if batch_ is None:
            with self._errors.mapping():
                return connection.submit_call(call)
        return connection.submit_batch(batch_, call, partial(outcomes_of_reads, statements))

    def _written(self, requests: Sequence[Request], ended: NativeBatch) -> list[WriteOutcome]:
        """Return the outcomes of a batch of the engine."""
        if ended.refusal() is None:
            self._connections.note_commit_of_engine()
        self._log_limit.measure_again()
        return outcomes_of_writes(requests, ended, self._errors)

    def _submit_in_turn(self, submit: "Callable[[JobConnection], asyncio.Future[T]]") -> "asyncio.Future[T]":
        """Submit a job to the writer after an open transaction has ended; open the writer first if needed."""
        self._turns += 1
        turn = asyncio.ensure_future(self._in_turn(submit))
        turn.add_done_callback(self._end_turn)
        return turn

    async def _in_turn(self, submit: "Callable[[JobConnection], asyncio.Future[T]]") -> T:
        async with self._writer_lock:
            with self._errors.mapping():
                writer = await self._connections.ensure_writer()
            return await submit(writer)

    def _end_turn(self, _: object) -> None:
        self._turns -= 1

    async def _checked(self, job: "asyncio.Future[None]") -> None:
        self._checks.add(job)
        try:
            # The job is not awaited directly, because its cancellation by `disconnect` must not look like the caller's cancellation.
            await asyncio.wait([job])
        finally:
            self._checks.discard(job)
            job.cancel()
        if job.cancelled():
            raise PersistenceConnectionError(
                f"cannot use {self._options}: the database was disconnected during the call; connect, then call again"
            )
        job.result()

    async def _read_later(self, statements: Sequence["Statement"]) -> list[ReadOutcome]:
        """Wait until reads may run again and the writer is open, then read."""
        await self._log_limit.wait_released()
        try:
            with self._errors.mapping():
                await self._connections.ensure_writer()
        except TenantryError:
            # On a full disk the writer cannot be opened. `ensure_writer` then opens the immutable reader again.
            if self._connections.immutable_reader is None:
                raise
        return await self.read(statements)

    async def _submit_to_new_reader(
        self, job: Callable[[sqlite3.Connection], list[ReadOutcome]], statements: Sequence["Statement"]
    ) -> list[ReadOutcome]:
        try:
            reader = await self._connections.new_reader()
        except (*DRIVER_ERRORS, OSError) as error:
            self._errors.fail_connection(events.BACKEND_CONNECTION_FAILED, error, "read")
        await self._log_limit.wait_released()  # new reads may have to wait by now
        return await self._submit_read(reader, reader.with_connection(job), statements)

    def _migrate(
        self, plan: migrator.Plan | None, cancelled: threading.Event, connection: sqlite3.Connection
    ) -> MigrationReport:
        plan = plan or migrator.plan(self._planner, connection)
        if not plan.pending:
            return self._reported(plan, ())
        self._log.info(events.MIGRATION_STARTED, pending=[str(m) for m in plan.pending])
        with cancelled_by(cancelled):
            applied = migrator.apply_migrations(plan, self._planner, self._clock, connection)
        self._connections.make_log_durable(connection)
        self._log.info(events.MIGRATION_COMPLETED, applied=len(applied))
        return self._reported(plan, applied)

    def _reported(self, plan: migrator.Plan, applied: "tuple[Migration, ...]") -> MigrationReport:
        """Return the applied migrations and the database's versions, including migrations that another process applied."""
        if not plan.pending:
            self._log.debug(events.MIGRATION_SKIPPED)
        versions = {row.schema: row.version for row in plan.applied}
        versions.update({migration.schema: migration.version for migration in plan.pending})
        return MigrationReport(applied=applied, versions=versions)


def _data_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def _select_one(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT 1").fetchone() == (1,))


def _unguarded(_: sqlite3.Connection) -> None:
    """Allow every write, because a database without an owner has a single user by agreement."""
