"""What callers hold: a tenant's handle, and the repositories of one open transaction."""

from collections.abc import AsyncIterator, Sequence
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
    """Where a handle gets its actor from: `tenantry.tenancy.tenant_leases.TenantLeases`."""

    def lease_nowait(self, tenant_id: TenantId) -> Lease | None:
        """Return a lease if the tenant is open now."""

    async def lease(self, tenant_id: TenantId) -> Lease:
        """Return a lease, opening the tenant as needed."""

    def release(self, lease: Lease) -> None:
        """Give it back."""

    def actor_statistics(self, tenant_id: TenantId) -> ActorStatistics | None:
        """Return the open tenant's counters."""


class _TenantRepositories(PackRepositories):
    """The repositories of a tenant. Type checkers know those of the built-in pack, which a registry has if it is not told otherwise."""

    if TYPE_CHECKING:
        tasks: SQLTaskRepository
        cost_records: SQLCostRecordRepository
        messages: SQLMessageRepository
        audit_entries: SQLAuditRepository


class TenantTransaction(_TenantRepositories):
    """The repositories and SQL methods inside one open transaction; after its end every call raises `TransactionClosedError`."""


class IdempotentWrite(_TenantRepositories):
    """The repositories and SQL methods of one write that carries a key, see `TenantHandle.idempotent`; reads need no key."""


class TenantSession:
    """Runs statements through the tenant's actor; see `tenantry.sql.statements.Session`."""

    __slots__ = ("_call_timeout_seconds", "_log", "_source", "schemas", "tenant_id")

    def __init__(
        self,
        tenant_id: TenantId,
        source: LeaseSource,
        schemas: Sequence[Schema],
        *,
        call_timeout_seconds: float,
        log: EventLog,
    ) -> None:
        self.tenant_id = tenant_id
        self.schemas = schemas
        self._source = source
        self._call_timeout_seconds = call_timeout_seconds
        self._log = log

    @property
    def log(self) -> EventLog:
        """The event log, bound to the tenant."""
        return self._log

    async def write(self, *statements: Statement) -> list[Result]:
        """Run the statements as one atomic unit; committed and durable when this returns."""
        if not statements:
            return []
        # Like `read`, written out: a function in between, to share the loop, is a twentieth of a call's own work.
        while True:
            lease = self._source.lease_nowait(self.tenant_id) or await self._lease()
            try:
                return await lease.actor.write(statements)
            except ChannelClosedError:
                # It began to close between the lease and the call: wait for the end of that, then open it again.
                continue
            finally:
                self._source.release(lease)

    async def write_once(self, key: str, statements: Request) -> list[Result]:
        """Run the statements as one atomic unit, once for the key; see `TenantHandle.idempotent`."""
        payload_hash = hash_payload(statements)
        while True:
            lease = self._source.lease_nowait(self.tenant_id) or await self._lease()
            try:
                return await lease.actor.write_once(statements, key, payload_hash)
            except ChannelClosedError:
                continue
            finally:
                self._source.release(lease)

    async def read(self, statement: Statement[T]) -> T:
        """Run one reading statement; it sees every write that was answered before."""
        while True:
            lease = self._source.lease_nowait(self.tenant_id) or await self._lease()
            try:
                return await lease.actor.read(statement)
            except ChannelClosedError:
                continue
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
            # A shield keeps out anyio's cancellation and not asyncio's: whatever of the above was cut short, the writer's
            # own task rolls back what is still open, and the tenant cannot close before it has.
            session.abandon()
            lease.entry.transactions.discard(session)
            self._source.release(lease)

    async def _begin(self) -> tuple[Lease, TransactionSession]:
        while True:
            lease = self._source.lease_nowait(self.tenant_id) or await self._lease()
            try:
                return lease, await lease.actor.begin()
            except BaseException as error:
                self._source.release(lease)
                if not isinstance(error, ChannelClosedError):
                    raise

    async def _lease(self) -> Lease:
        timeout = self._call_timeout_seconds
        try:
            with anyio.fail_after(timeout):
                return await self._source.lease(self.tenant_id)
        except TimeoutError as error:
            raise CallTimeoutError(
                f"tenant {self.tenant_id!r} could not be opened within call_timeout_seconds ({timeout:g}): nothing was "
                "begun",
                tenant_id=self.tenant_id,
                timeout_seconds=timeout,
                was_started=False,
            ) from error


class TenantHandle(_TenantRepositories):
    """One tenant, as its callers see it: cheap, holds the id and no connection, and may be kept or made for every call."""

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

        It commits, durably, when the block ends, and rolls back if the block raises or is cancelled. It holds the
        tenant's writer: other writes of this tenant wait, reads see the state before, other tenants notice nothing. At
        ``transaction_timeout_seconds`` it is rolled back, and every later use of `tx` raises `TransactionClosedError`.

        Inside the block the handle itself can still read. A write of it, or another transaction, would wait for the end of
        this one: it is refused with `QueryError`, also in a task that was begun inside the block.

        Raises:
            TransactionClosedError: It was rolled back before it could commit.
            TenantError, PersistenceError: As for any call.
        """
        return self._session.transaction()

    def idempotent(self, key: str) -> IdempotentWrite:
        """Return repositories for one write that takes effect once: ``await tenant.idempotent("order-17").tasks.save(task)``.

        The key and the write's outcome are stored in the tenant's database, in the write's own transaction. The same write
        with the same key, sent again at the same moment, later or after a crash, gives that outcome and writes nothing. So a
        caller that does not know what became of a call (`CallTimeoutError`, a cancellation, a restart) sends it again.

        - A write that fails has no effect and stores no key: sent again, it runs again.
        - All that is written is part of the write, ids and times too: send again the record made for the first try, not a new
          one like it. The repository's SQL is part of it as well, and a new release may change that.
        - Each write needs a call of this and a key of its own; reads work as ever. A transaction takes no keys.
        - A key is kept for ``idempotency_retention_seconds``.

        Args:
            key: 1 to 255 printable ASCII characters.

        Raises:
            QueryError: The text is no key. The write raises it if it is the second one, gives more than 1 MiB back, or has a
                parameter other than None, int, float, str and bytes.
            IdempotencyConflictError: By the write: the key was used for another one.
        """
        return IdempotentWrite(KeyedSession(check_key(key), self._session), self._schemas)

    def statistics(self) -> ActorStatistics | None:
        """Return the tenant's counters since it was opened, or None while it is closed. No I/O."""
        return self._source.actor_statistics(self.id)


HANDLE_ATTRIBUTES: Final = frozenset(
    name for holder in (TenantHandle, TenantTransaction, IdempotentWrite) for name in dir(holder)
)
"""What no repository can be named."""
