"""A tenant's handle, and the repositories of one open transaction."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import anyio

from tenantry.errors import CallTimeoutError
from tenantry.eventlog import EventLog
from tenantry.ids import TenantId
from tenantry.schemas.pack_repositories import PackRepositories
from tenantry.schemas.schema import Schema
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import Request
from tenantry.tenancy.actors.actor import ActorStatistics
from tenantry.tenancy.actors.channel import ChannelClosedError
from tenantry.tenancy.actors.idempotency import KeyedSession, check_key, hash_payload
from tenantry.tenancy.actors.lease import Lease
from tenantry.tenancy.actors.transaction import TransactionSession

if TYPE_CHECKING:
    from tenantry.company import (
        SQLAuditRepository,
        SQLCostRecordRepository,
        SQLMessageRepository,
        SQLTaskRepository,
    )

T = TypeVar("T")


class LeaseSource(Protocol):
    """Gives a handle leases of the tenant's actor, see `tenantry.tenancy.opening.tenant_leases.TenantLeases`."""

    def lease_nowait(self, tenant_id: TenantId) -> Lease | None:
        """Return a lease if the tenant is open now; otherwise None."""

    async def lease(self, tenant_id: TenantId, *, is_for_write: bool = False) -> Lease:
        """Return a lease; open the tenant if it is closed. `is_for_write` says that the caller's call is a write."""

    def release(self, lease: Lease) -> None:
        """Release the lease."""

    def actor_statistics(self, tenant_id: TenantId) -> ActorStatistics | None:
        """Return the tenant's counters; None while the tenant is closed."""


class _TenantRepositories(PackRepositories):
    """The repositories of a tenant. Type checkers know only the repositories of the built-in pack, which is the default pack."""

    if TYPE_CHECKING:
        tasks: SQLTaskRepository
        cost_records: SQLCostRecordRepository
        messages: SQLMessageRepository
        audit_entries: SQLAuditRepository


class TenantTransaction(_TenantRepositories):
    """The repositories and SQL methods inside a transaction; after the transaction, the methods raise `TransactionClosedError`."""


class IdempotentWrite(_TenantRepositories):
    """The repositories and SQL methods of one write with an idempotency key, see `TenantHandle.idempotent`."""


class TenantSession:
    """Runs statements through the tenant's actor; see `tenantry.sql.statements.Session`."""

    __slots__ = ("_call_timeout_seconds", "_log", "_now", "_source", "schemas", "tenant_id")

    def __init__(
        self,
        tenant_id: TenantId,
        source: LeaseSource,
        schemas: Sequence[Schema],
        *,
        call_timeout_seconds: float,
        monotonic_seconds: Callable[[], float],
        log: EventLog,
    ) -> None:
        self.tenant_id = tenant_id
        self.schemas = schemas
        self._source = source
        self._call_timeout_seconds = call_timeout_seconds
        self._now = monotonic_seconds
        self._log = log

    @property
    def log(self) -> EventLog:
        """The event log, bound to the tenant's id."""
        return self._log

    async def dialect(self) -> str:
        """Return the name of the SQL dialect of the tenant's database; open the tenant if it is closed."""
        lease = self._source.lease_nowait(self.tenant_id) or await self._lease()
        try:
            return lease.actor.dialect
        finally:
            self._source.release(lease)

    async def write(self, *statements: Statement) -> list[Result]:
        """Run the statements as one atomic unit; the unit is durable when this returns."""
        if not statements:
            return []
        # The methods below repeat this loop, because a shared function would make each call 5% slower.
        until = None
        while True:
            lease = self._source.lease_nowait(self.tenant_id) or await self._lease(until, is_for_write=True)
            try:
                return await lease.actor.write(statements)
            except ChannelClosedError as closed:
                # The tenant began to close after the lease was taken. The next lease waits until the tenant has closed, and reopens it.
                until = self._repeat_until(closed, until)
            finally:
                self._source.release(lease)

    async def write_once(self, key: str, statements: Request) -> list[Result]:
        """Run the statements as one atomic unit, only once for each key; see `TenantHandle.idempotent`."""
        payload_hash = hash_payload(statements)
        until = None
        while True:
            lease = self._source.lease_nowait(self.tenant_id) or await self._lease(until, is_for_write=True)
            try:
                return await lease.actor.write_once(statements, key, payload_hash)
            except ChannelClosedError as closed:
                until = self._repeat_until(closed, until)
            finally:
                self._source.release(lease)

    async def read(self, statement: Statement[T]) -> T:
        """Run one read-only statement; the result includes every write that returned before the call."""
        until = None
        while True:
            lease = self._source.lease_nowait(self.tenant_id) or await self._lease(until)
            try:
                return await lease.actor.read(statement)
            except ChannelClosedError as closed:
                until = self._repeat_until(closed, until)
            finally:
                self._source.release(lease)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[TenantTransaction]:
        """See `TenantHandle.transaction`."""
        lease, session = await self._begin()
        lease.entry.transactions.add(session)
        try:
            try:
                with session.enclosing():
                    yield TenantTransaction(session, self.schemas)
                await session.commit()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await session.rollback()
                raise
        finally:
            # The shield blocks anyio's cancellation, not asyncio's. If asyncio cancelled the rollback above, the writer's own
            # task rolls the transaction back, and the tenant cannot close before the rollback.
            session.abandon()
            lease.entry.transactions.discard(session)
            self._source.release(lease)

    async def _begin(self) -> tuple[Lease, TransactionSession]:
        until = None
        while True:
            lease = self._source.lease_nowait(self.tenant_id) or await self._lease(until, is_for_write=True)
            try:
                return lease, await lease.actor.begin()
            except BaseException as error:
                self._source.release(lease)
                if not isinstance(error, ChannelClosedError):
                    raise
                until = self._repeat_until(error, until)

    def _repeat_until(self, closed: ChannelClosedError, until: float | None) -> float | None:
        """Return the deadline of a call that ran nowhere: the deadline of its first attempt, or None before an attempt.

        Raises:
            CallTimeoutError: The deadline has passed.
        """
        until = closed.until_seconds if until is None else until
        if until is not None and self._now() >= until:
            raise self._timed_out("kept open, because other processes took it over again and again,")
        return until

    async def _lease(self, until: float | None = None, *, is_for_write: bool = False) -> Lease:
        timeout = self._call_timeout_seconds
        if until is not None:  # an earlier attempt of the call has used up a part of its time
            timeout = max(0.0, until - self._now())
        try:
            async with asyncio.timeout(timeout):
                return await self._source.lease(self.tenant_id, is_for_write=is_for_write)
        except TimeoutError as error:
            raise self._timed_out("opened") from error

    def _timed_out(self, what: str) -> CallTimeoutError:
        timeout = self._call_timeout_seconds
        return CallTimeoutError(
            f"tenant {self.tenant_id!r} could not be {what} within call_timeout_seconds ({timeout:g}), and the call had no "
            "effect: try again",
            tenant_id=self.tenant_id,
            timeout_seconds=timeout,
            was_started=False,
        )


class TenantHandle(_TenantRepositories):
    """The repositories and SQL methods of a tenant. A handle holds no connection: keep the handle, or make one for every call."""

    _session: TenantSession

    def __init__(self, session: TenantSession, source: LeaseSource) -> None:
        super().__init__(session, session.schemas)
        self._source = source

    def __repr__(self) -> str:
        return f"<TenantHandle {self.id}>"

    @property
    def id(self) -> TenantId:
        """The tenant's id."""
        return self._session.tenant_id

    def transaction(self) -> AbstractAsyncContextManager[TenantTransaction]:
        """Open a transaction over several calls: ``async with tenant.transaction() as tx: await tx.tasks.save(task)``.

        The transaction commits durably when the block ends, and rolls back if the block raises or is cancelled. During the block
        other writes of this tenant wait, reads see the state before the transaction, and other tenants are not affected. After
        ``transaction_timeout_seconds`` the transaction is rolled back, and every later use of `tx` raises `TransactionClosedError`.

        Inside the block, the tenant's handle can still read. Its writes and further transactions raise `QueryError`, even in tasks that
        were started inside the block, because a write would wait for this transaction.

        Raises:
            TransactionClosedError: The transaction was rolled back before it could commit.
            TenantError, PersistenceError: The errors of any call.
        """
        return self._session.transaction()

    def idempotent(self, key: str) -> IdempotentWrite:
        """Return repositories for one idempotent write: ``await tenant.idempotent("order-17").tasks.save(task)``.

        The key and the write's result are stored in the tenant's database, in the transaction of the write. If the same write is
        repeated with the same key, even concurrently or after a crash, the repetition returns the stored result and writes nothing.
        A caller can therefore retry a write that may have taken effect (after `CallTimeoutError`, a cancellation or a restart).

        - A write that fails has no effect and stores no key, so a retry runs the write again.
        - A retry must have the same SQL and the same parameters, including ids and times. So send the same record again, not a new
          record with the same content. A new release of tenantry may change a repository's SQL.
        - Each write needs a new call of this method and a new key. Reads need no key, and a transaction accepts no key.
        - A key is kept for ``idempotency_retention_seconds``.

        Args:
            key: 1 to 255 printable ASCII characters.

        Raises:
            QueryError: The text is not a valid key. The write raises this error if the returned object has already made a write,
                if the results exceed 1 MiB, or if a parameter is not None, int, float, str or bytes.
            IdempotencyConflictError: The write raises this error if the key was used for a different write.
        """
        return IdempotentWrite(KeyedSession(check_key(key), self._session), self._schemas)

    def statistics(self) -> ActorStatistics | None:
        """Return the counters since the tenant was opened, without I/O; None while the tenant is closed."""
        return self._source.actor_statistics(self.id)


HANDLE_ATTRIBUTES: Final = frozenset(
    name for holder in (TenantHandle, TenantTransaction, IdempotentWrite) for name in dir(holder)
)
"""The names that a repository cannot have."""
