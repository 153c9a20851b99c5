"""The PostgreSQL store: one schema of a database, on the connections of a pool that all tenants share."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from tenantry import events
from tenantry.errors import (
    PersistenceConnectionError,
    SnapshotError,
    TenantryError,
    UnsupportedByBackend,
)
from tenantry.storage.migrations import AppliedMigration, plan_migrations
from tenantry.storage.postgres import integrity
from tenantry.storage.postgres.connections.errors import SCHEMA_MISSING, code_of, map_error
from tenantry.storage.postgres.connections.pipeline import Pipeline, first_failure
from tenantry.storage.postgres.migrations import migrator
from tenantry.storage.postgres.owner import Owner, create_schema, read_epoch
from tenantry.storage.postgres.statements.attempts import retried
from tenantry.storage.postgres.statements.failures import Failures
from tenantry.storage.postgres.statements.head import Head
from tenantry.storage.postgres.statements.marks import Marks
from tenantry.storage.postgres.statements.reads import Reader
from tenantry.storage.postgres.statements.translation import DIALECT
from tenantry.storage.postgres.statements.values import load_rows
from tenantry.storage.postgres.statements.writes import Connections, Writer
from tenantry.storage.postgres.tenant_schemas.roles import give_to_role
from tenantry.storage.postgres.transaction import PostgresTransaction
from tenantry.storage.postgres.transaction_opener import TransactionOpener
from tenantry.storage.protocol import (
    Capability,
    ChangeToken,
    MigrationReport,
    ReadOutcome,
    Request,
    WriteOutcome,
)

if TYPE_CHECKING:
    from tenantry.clock import Clock
    from tenantry.config import Durability
    from tenantry.eventlog import EventLog
    from tenantry.schemas.migration import Migration
    from tenantry.schemas.schema import Schema
    from tenantry.sql.statements import Statement

CHECK_STEP_SECONDS_MAX: Final = 3600.0
"""The longest time that the check of one table or index takes."""

HEALTH_CHECK_SECONDS_MAX: Final = 5.0
"""The longest time that `PostgresStore.health_check` takes."""

_IDLE_MARGIN_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class PostgresStoreOptions:
    """The options of a store.

    Attributes:
        owner: The tenant and its schema.
        is_new: Whether to create a missing schema; if false, a missing schema is an error.
        durability: The durability of a commit.
        role: The role of the tenant's statements; None for the connection's own role.
        is_sharded: Whether Citus keeps the schema on one of several nodes.
        settings: The settings that each transaction makes; `session_settings` behind a pooler, and otherwise none.
        call_timeout_seconds: The time in which a batch ends, including all repetitions after lost connections.
        transaction_timeout_seconds: The time after which the server ends a transaction over several calls that is idle.
    """

    owner: Owner
    is_new: bool = False
    durability: "Durability" = "full"
    role: str | None = None
    is_sharded: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    call_timeout_seconds: float = 30.0
    transaction_timeout_seconds: float = 30.0


class PostgresStore:
    """One tenant's schema.

    Several stores, in several processes, may be connected to the same schema and write: the owner's row puts their batches in one order.
    An open store holds no connection. Each batch takes one from the pool.

    Args:
        options: The options.
        schemas: The schema packs.
        connections: The pool of connections.
        copy: Copies the schema into a new SQLite file; see `copy_to`.
        clock: The source of the time in the migrations' rows.
        log: The event log, bound to the tenant.
    """

    def __init__(
        self,
        options: PostgresStoreOptions,
        schemas: Sequence["Schema"],
        *,
        connections: Connections,
        copy: Callable[[Path], Awaitable[None]],
        clock: "Clock",
        log: "EventLog",
    ) -> None:
        self._options = options
        self._owner = options.owner
        self._schemas = tuple(schemas)
        self._connections = connections
        self._copy = copy
        self._clock = clock
        self._log = log
        self._timeout_seconds = timeout_seconds = options.call_timeout_seconds
        self._head = Head(
            self._owner,
            uuid.uuid4().hex,
            settings=options.settings,
            role=options.role,
            is_sharded=options.is_sharded,
        )
        self._head.is_durable = options.durability == "full"
        self._marks = Marks(self._head)
        failures = Failures(self._owner)
        self._writer = Writer(
            self._owner,
            self._head,
            self._marks,
            connections,
            failures,
            timeout_seconds=timeout_seconds,
            log=log,
        )
        self._reader = Reader(self._owner, self._head, connections, timeout_seconds=timeout_seconds)
        self._is_connected = False
        self._lifecycle = asyncio.Lock()
        # One task may acquire this lock and another task release the lock. With an anyio.Lock, both must be the same task.
        self._writing = asyncio.Lock()
        self._transactions = TransactionOpener(
            self._owner,
            self._head,
            self._marks,
            connections,
            self._writing,
            timeout_seconds=timeout_seconds,
            idle_seconds=options.transaction_timeout_seconds + _IDLE_MARGIN_SECONDS,
            failures=failures,
        )
        self._copies: set[asyncio.Future[None]] = set()

    @property
    def backend(self) -> str:
        """The name of the dialect."""
        return DIALECT

    @property
    def is_connected(self) -> bool:
        """Whether the store is connected."""
        return self._is_connected

    async def connect(self, *, is_for_write: bool = False) -> None:  # noqa: ARG002  # the same connections read and write
        """Read the epoch of the schema's owner, and create the schema if it is new; see `Store.connect`."""
        async with self._lifecycle:
            if self._is_connected:
                self._log.debug(events.BACKEND_ALREADY_CONNECTED, backend=DIALECT)
                return
            self._log.debug(events.BACKEND_CONNECTING, backend=DIALECT)
            try:
                self._head.epoch = await retried(self._read_epoch, self._timeout_seconds)
            except TenantryError as error:
                self._log.failure(events.BACKEND_CONNECTION_FAILED, error, backend=DIALECT)
                raise
            self._is_connected = True
            self._log.info(events.BACKEND_CONNECTED, backend=DIALECT)

    async def disconnect(self) -> None:
        """Roll back an open transaction, and wait for the running batch; see `Store.disconnect`."""
        async with self._lifecycle:
            if not self._is_connected:
                return
            self._log.debug(events.BACKEND_DISCONNECTING, backend=DIALECT)
            self._is_connected = False
            for copy in tuple(self._copies):
                copy.cancel()
            # The wait is limited, because a batch has a deadline.
            with anyio.CancelScope(shield=True):
                await self._transactions.rollback()
                async with self._writing:
                    pass
            self._log.info(events.BACKEND_DISCONNECTED, backend=DIALECT)

    async def health_check(self) -> bool:
        """Return whether the server answers a query."""
        if not self._is_connected:
            return False
        try:
            await self._ask(
                lambda pipeline: pipeline.send(b"SELECT 1"),
                timeout_seconds=min(self._timeout_seconds, HEALTH_CHECK_SECONDS_MAX),
            )
            is_healthy = True
        except TenantryError:
            is_healthy = False
        self._log.debug(events.BACKEND_HEALTH_CHECK, backend=DIALECT, is_healthy=is_healthy)
        return is_healthy

    async def migrate(self) -> MigrationReport:
        """Apply the pending migrations; see `Store.migrate`.

        A lost connection has rolled back the running step, or has lost only the answer, so the next attempt plans again.
        """
        self.check_connected()
        try:
            return await retried(self._migrate, self._timeout_seconds)
        except TenantryError as error:
            self._log.failure(events.MIGRATION_FAILED, error, backend=DIALECT)
            raise

    @property
    def write_batches_max(self) -> int:
        """One: the next batch waits for the answer of the server; see `Store.write_batches_max`."""
        return 1

    @property
    def shared_batch_requests_max(self) -> int:
        """See `Store.shared_batch_requests_max`."""
        return 16

    def claim_connection(self) -> bool:
        """See `Store.claim_connection`. The server's process of this connection has the tenant's tables and plans in memory."""
        return self._connections.claim(self._owner.uid)

    def write(self, requests: Sequence[Request]) -> "asyncio.Future[list[WriteOutcome]]":
        """Run the requests in one transaction; see `Store.write`."""
        self.check_connected()
        return asyncio.ensure_future(self._write(requests))

    def read(self, statements: Sequence["Statement"]) -> "asyncio.Future[list[ReadOutcome]]":
        """Run read-only statements in one transaction; see `Store.read`."""
        self.check_connected()
        return asyncio.ensure_future(self._reader.read(statements))

    async def apply_limits(self, *, database_bytes_max: int | None, durability: "Durability") -> None:
        """Apply the durability to later writes; see `Store.apply_limits`.

        Raises:
            UnsupportedByBackend: PostgreSQL cannot limit the size of a tenant's database.
        """
        if database_bytes_max is not None:
            raise UnsupportedByBackend(
                "PostgreSQL cannot limit the size of a tenant's database: set database_bytes_max to null, or move the tenant to "
                "SQLite; nothing was changed",
                capability=Capability.BYTE_LIMIT,
                backend=DIALECT,
            )
        async with self._writing:
            self._head.is_durable = durability == "full"

    async def check_integrity(self, *, is_thorough: bool = False) -> None:
        """Read the whole schema; see `Store.check_integrity`. The check holds a connection of the pool until it ends.

        If the connection is lost, the check begins again, unless it has run for longer than a call may take.
        """
        self.check_connected()

        async def check(timeout_seconds: float) -> None:
            async with self._connections.connection(
                self._owner.uid, timeout_seconds=timeout_seconds
            ) as pipeline:
                await integrity.check(
                    self._owner,
                    self._head,
                    pipeline,
                    is_thorough=is_thorough,
                    step_seconds_max=CHECK_STEP_SECONDS_MAX,
                )

        await retried(check, self._timeout_seconds)

    def change_token(self) -> ChangeToken | None:
        """Return None, because the store cannot know of a commit without asking the server; see `Store.change_token`."""
        return None

    async def changes_by_others(self) -> int:
        """Return a number that changes when another store commits, from the marks; see `Store.changes_by_others`."""
        self.check_connected()
        ((number,),) = await self._ask(self._marks.send_others)
        return int(number)

    async def begin(self) -> PostgresTransaction:
        """Open a transaction over several calls; see `Store.begin`."""
        self.check_connected()
        return await self._transactions.begin(self.check_connected)

    async def copy_to(self, path: Path) -> None:
        """Write a consistent copy into a new SQLite file while writes continue; see `Store.copy_to`."""
        self.check_connected()
        copy = asyncio.ensure_future(self._copy(path))
        self._copies.add(copy)
        copy.add_done_callback(self._copies.discard)
        try:
            await copy
        except asyncio.CancelledError:
            if self._is_connected:
                raise
            raise SnapshotError(
                f"the schema {self._owner.schema} was closed during a copy: try again", is_retryable=True
            ) from None

    def check_connected(self) -> None:
        """Raise if the store is not connected.

        Raises:
            PersistenceConnectionError: The store is not connected.
        """
        if not self._is_connected:
            self._log.warning(events.BACKEND_NOT_CONNECTED, backend=DIALECT)
            raise PersistenceConnectionError(
                "the database is not connected: call connect() first", is_retryable=False
            )

    async def _migrate(self, timeout_seconds: float) -> MigrationReport:
        schema = migrator.MigratedSchema(
            self._owner.schema,
            self._owner.uid,
            self._head.epoch,
            self._owner.tenant_id,
            self._options.role,
        )
        async with (
            self._writing,
            self._connections.connection(self._owner.uid, timeout_seconds=timeout_seconds) as pipeline,
            pipeline.outside() as connection,
        ):
            return await migrator.migrate(connection, schema, self._pending, clock=self._clock, log=self._log)

    async def _write(self, requests: Sequence[Request]) -> list[WriteOutcome]:
        async with self._writing:
            self.check_connected()
            return await self._writer.write(requests)

    async def _read_epoch(self, timeout_seconds: float) -> int:
        async with self._connections.connection(self._owner.uid, timeout_seconds=timeout_seconds) as pipeline:
            if self._options.is_new:
                await create_schema(self._owner, pipeline, timeout_seconds)
            epoch = await read_epoch(self._owner, pipeline, timeout_seconds)
            if self._options.role is not None:
                await give_to_role(self._owner, self._options.role, pipeline, timeout_seconds)
            return epoch

    async def _ask(
        self, send: Callable[[Pipeline], None], *, timeout_seconds: float | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the rows of one query."""

        async def ask(timeout_seconds: float) -> list[tuple[Any, ...]]:
            async with self._connections.connection(
                self._owner.uid, timeout_seconds=timeout_seconds
            ) as pipeline:
                self._head.begin_read(pipeline)
                send(pipeline)
                pipeline.sync()
                (results,) = await pipeline.results(timeout_seconds)
                failed = first_failure(results)
                if failed is None:
                    return load_rows(results[-1])
                if code_of(failed) in SCHEMA_MISSING:
                    raise self._owner.taken_over(f"the schema {self._owner.schema} was removed or replaced")
                raise map_error(failed, f"cannot read the schema {self._owner.schema}")

        return await retried(ask, timeout_seconds or self._timeout_seconds)

    def _pending(self, applied: Sequence[AppliedMigration]) -> tuple["Migration", ...]:
        return plan_migrations(self._schemas, DIALECT, applied, len(applied))
