"""One open tenant: its store, the channel to its writer, and the channel to its readers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import anyio

from tenantry.clock import Clock
from tenantry.config import RegistryConfig
from tenantry.errors import (
    DatabaseCorruptError,
    QueryError,
    TenantOwnedElsewhereError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.events import Event, Hook, StoreConnected, StoreMigrated
from tenantry.lifecycle import Permission, check_allows
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import KeyedRequest, Request, Store
from tenantry.tenancy.actors.admission import Admission, Buckets, Load
from tenantry.tenancy.actors.call_batch import Call, Item, Outcome, Reply, Runner
from tenantry.tenancy.actors.channel import Channel, ChannelLimits, ChannelStatistics
from tenantry.tenancy.actors.limiter import FairLimiter, Limiters
from tenantry.tenancy.actors.transaction import TransactionSession
from tenantry.tenancy.clock_watch import ClockWatch
from tenantry.tenancy.tenant_record import TenantRecord

T = TypeVar("T")

ACTOR_ABANDONED: Final = "tenantry.actor.abandoned"
ACTOR_RECOVERED: Final = "tenantry.actor.recovered"
_ROLLBACK_TIMEOUT_SECONDS: Final = 5.0
_SECOND_BATCH_REQUESTS_MIN: Final = 24
"""The number of waiting writes from which a second batch begins. With 24, 64 callers of a prototype saved 1.2 times as fast."""

_INTERRUPTED_SECONDS_MAX: Final = 0.5
"""The longest wait for an interrupted statement to end."""
# The tasks that close abandoned actors' stores, kept here because the event loop has only weak references to tasks.
_LEFTOVERS: Final[set[asyncio.Task[None]]] = set()
# After these errors the actor must close: the file is damaged, or no longer owned by this process.
_FATAL: Final = (DatabaseCorruptError, TenantOwnedElsewhereError)


@dataclass(frozen=True, slots=True)
class ActorContext:
    """The objects that all actors of a registry share.

    Attributes:
        config: The settings.
        limiters: The limiters of the tenants on files.
        clock: The clock.
        report: The event hook.
        watch: Holds expiry back while the system's clock may be wrong.
        server_limiters: The limiters of the tenants on each database server, by the name of the back end.
        buckets: The tenants' token buckets.
    """

    config: RegistryConfig
    limiters: Limiters
    clock: Clock
    report: Hook
    watch: ClockWatch
    server_limiters: Mapping[str, Limiters] = field(default_factory=dict)
    buckets: Buckets = field(default_factory=Buckets)

    def limiters_of(self, backend: str) -> Limiters:
        """Return the limiters of the tenants of a back end."""
        return self.server_limiters.get(backend, self.limiters)


@dataclass(frozen=True, slots=True)
class ActorStatistics:
    """The counters of an open tenant since it was opened."""

    write: ChannelStatistics
    read: ChannelStatistics


class SubmittedCall(NamedTuple):
    """A call in a channel whose caller does not await it. Its error may be a `ChannelClosedError`, and then the call ran nowhere."""

    channel: Channel[Any, Any]
    call: Call[Any]

    def take_back(self) -> None:
        """Give the call up, after its reply was cancelled; see `Channel.take_back`."""
        self.channel.take_back(self.call)


class _Failures:
    """Called with the error of each call: reports the first error after which the actor must close.

    The channels have this object and not the actor, so that a closed actor leaves the memory without the garbage collector.

    Args:
        on_failure: See `TenantActor`.
        is_repeated: Whether a call that another owner has refused is to be repeated.
    """

    __slots__ = ("_has_failed", "_is_repeated", "_on_failure")

    def __init__(self, on_failure: Callable[[TenantryError], None], *, is_repeated: bool) -> None:
        self._on_failure = on_failure
        self._is_repeated = is_repeated
        self._has_failed = False

    def __call__(self, error: TenantryError) -> bool:
        """Return whether the call ran nowhere and is to be repeated.

        A store that another owner has fenced off refuses a whole batch, so its calls had no effect. Each caller gets a new lease,
        and so the tenant's record is read again, which may name another place, or a state that refuses the call.
        """
        if isinstance(error, _FATAL) and not self._has_failed:
            self._has_failed = True
            self._on_failure(error)
        return self._is_repeated and isinstance(error, TenantOwnedElsewhereError)


class TenantActor:
    """An open tenant. The pool owns the actor, and callers with a lease use it.

    Args:
        on_failure: The function that is called once, when the actor must close because of an error.
        entry: The tenant's catalog record; the store already applies the record's limits. None for the catalog's own actor.
    """

    def __init__(
        self,
        tenant_id: str,
        store: Store,
        context: ActorContext,
        *,
        log: EventLog,
        on_failure: Callable[[TenantryError], None],
        entry: TenantRecord | None = None,
    ) -> None:
        self._tenant_id = tenant_id
        self._store = store
        # The catalog's back end has the name of its dialect.
        self._backend = store.backend if entry is None else entry.backend
        self._context = context
        self._log = log
        self._failures = _Failures(on_failure, is_repeated=entry is not None)
        # See `count_forwarded`.
        self._forwarded = self._own_calls = self._forwarded_in_a_row = 0
        self._works = 0  # the copies and checks that run
        self._schema_versions: dict[str, int] = {}
        self._transaction: TransactionSession | None = None
        self._limiters = context.limiters_of(self._backend)
        self._writes: Channel[Request, list[Result]] = self._channel(
            "write", store.write, self._limiters.write, workers=store.write_batches_max
        )
        self._reads: Channel[Statement, Result] = self._channel(
            "read", store.read, self._limiters.read, workers=context.config.readers_per_tenant
        )
        self._entry = entry
        self._is_read_only = False
        # The limits that the store applied last; None if applying them failed.
        self._store_limits = None if entry is None else entry.limits
        if entry is not None:
            self._limit_calls(entry)
            self._is_read_only = _is_read_only(entry)

    @property
    def backend(self) -> str:
        """The name of the tenant's back end, for metrics."""
        return self._backend

    @property
    def schema_versions(self) -> dict[str, int]:
        """The version of each schema pack; empty until the actor is open."""
        return self._schema_versions

    @property
    def is_idle(self) -> bool:
        """Whether no call waits or runs, and no transaction is open."""
        return self._writes.is_idle and self._reads.is_idle

    @property
    def is_copied_or_checked(self) -> bool:
        """Whether a copy or a check of the database runs, which ends with an error if the actor closes."""
        return self._works > 0

    @property
    def dialect(self) -> str:
        """The name of the SQL dialect of the tenant's database."""
        return self._store.backend

    @property
    def uid(self) -> str | None:
        """The tenant's permanent key; after a rename, another tenant may get this tenant's old id."""
        return self._entry.uid if self._entry is not None else None

    def is_open_at(self, entry: TenantRecord) -> bool:
        """Return whether the actor has the database open that this record names; a move to another back end changes it."""
        return self._entry is not None and self._entry.is_at_place_of(entry)

    def has_applied(self, entry: TenantRecord) -> bool:
        """Return whether the limits and the state of this record are in effect."""
        known = self._entry
        return (
            known is not None and known.limits == entry.limits and self._is_read_only == _is_read_only(entry)
        )

    async def open(self, *, is_for_write: bool = False) -> None:
        """Connect and migrate the store; close the store if an error occurs.

        Args:
            is_for_write: Whether the first call is a write; see `Store.connect`.

        Raises:
            PersistenceError: The store cannot be connected or migrated.
            TenantOwnedElsewhereError: Another process has the tenant open.
        """
        named = (self._tenant_id, self._backend)
        await self._measured(
            self._store.connect(is_for_write=is_for_write),
            lambda outcome, _, seconds: StoreConnected(*named, outcome, seconds),
        )
        try:
            report = await self._measured(
                self._store.migrate(),
                lambda outcome, report, seconds: StoreMigrated(
                    *named, outcome, len(report.applied) if report else 0, seconds
                ),
            )
        except BaseException:
            await self._store.disconnect()
            raise
        self._schema_versions = report.versions

    def write(self, request: Request) -> Awaitable[list[Result]]:
        """Return an awaitable that runs one unit through the writer.

        Raises:
            QueryError: The caller runs inside the tenant's open transaction.
            TenantStateError: The tenant's state allows reads only.
            ChannelClosedError: The actor is closing, or another process has taken the tenant over, and the unit ran nowhere; the
                caller must acquire a new lease.
            TenantError, PersistenceError: The errors of `Channel.call`.
        """
        self._check_is_outside("write")
        self._check_is_writable()
        return self._writes.call(request[0].name, request)

    def write_once(self, statements: Request, key: str, payload_hash: bytes) -> Awaitable[list[Result]]:
        """Return an awaitable that runs one unit at most once for each key, see `KeyedRequest`. Raises like `write`."""
        return self.write(self._keyed(statements, key, payload_hash))

    def _keyed(self, statements: Request, key: str, payload_hash: bytes) -> KeyedRequest:
        now = self._context.clock.now()
        kept_since = self._context.watch.expired_before(self._context.config.idempotency_retention_seconds)
        return KeyedRequest(statements, key=key, payload_hash=payload_hash, now=now, kept_since=kept_since)

    def submit_write(
        self, request: Request, reply: Reply, waited_seconds: float, *, is_followed: bool = False
    ) -> SubmittedCall:
        """Submit a unit that another process forwarded, without waiting; see `Channel.submit`. Raises like `write`."""
        self._check_is_writable()
        call = self._writes.submit(
            request[0].name, request, reply, waited_seconds=waited_seconds, is_followed=is_followed
        )
        self._forwarded += 1
        return SubmittedCall(self._writes, call)

    def submit_write_once(
        self,
        statements: Request,
        key: str,
        payload_hash: bytes,
        reply: Reply,
        waited_seconds: float,
        *,
        is_followed: bool = False,
    ) -> SubmittedCall:
        """Submit a unit with an idempotency key that another process forwarded; see `submit_write`."""
        keyed = self._keyed(statements, key, payload_hash)
        return self.submit_write(keyed, reply, waited_seconds, is_followed=is_followed)

    def submit_read(
        self, statement: Statement, reply: Reply, waited_seconds: float, *, is_followed: bool = False
    ) -> SubmittedCall:
        """Submit a read that another process forwarded; see `submit_write`."""
        call = self._reads.submit(
            statement.name, statement, reply, waited_seconds=waited_seconds, is_followed=is_followed
        )
        self._forwarded += 1
        return SubmittedCall(self._reads, call)

    def count_forwarded(self) -> int:
        """Count a call of another process that was answered; return how many there were since the last call of this process."""
        own = self._writes.calls + self._reads.calls - self._forwarded
        if own > self._own_calls:
            self._own_calls, self._forwarded_in_a_row = own, 0
        self._forwarded_in_a_row += 1
        return self._forwarded_in_a_row

    def read(self, statement: Statement[T]) -> Awaitable[T]:
        """Return an awaitable that runs one read-only statement through the readers. Raises like `write`."""
        return self._reads.call(statement.name, statement)

    async def copy_to(self, path: Path) -> None:
        """Write a consistent copy of the tenant's database into a new file; see `Store.copy_to`."""
        with self._working():
            await self._store.copy_to(path)

    async def begin(self, *, is_forwarded: bool = False) -> TransactionSession:
        """Open a transaction after the earlier writes; the caller ends the transaction. Raises like `write`.

        Args:
            is_forwarded: Whether another process forwarded the call.
        """
        self._check_is_outside("transaction")
        self._check_is_writable()
        self._forwarded += is_forwarded
        return await self._writes.call_alone("transaction", self._hold, on_lost=TransactionSession.abandon)

    async def apply_record(self, entry: TenantRecord) -> None:
        """Apply the limits and the state of the tenant's record; calls that were already accepted still finish.

        Call limits apply immediately. Changed database limits apply as soon as no transaction is open.

        Args:
            entry: The tenant's record from the catalog. Records may arrive in any order; an outdated record has no effect.

        Raises:
            PersistenceError: The database limits could not be applied; call this method again.
        """
        known = self._entry
        if known is None or known.uid != entry.uid or known.revision > entry.revision:
            return
        self._entry = entry
        self._limit_calls(entry)
        self._is_read_only = _is_read_only(entry)
        limits = entry.limits
        if limits == self._store_limits:
            return
        self._store_limits = limits
        try:
            await self._store.apply_limits(
                database_bytes_max=limits.database_bytes_max,
                durability=limits.durability or self._context.config.durability,
            )
        except BaseException:
            self._store_limits = None
            raise

    async def check_integrity(self, *, is_thorough: bool = False) -> None:
        """Check the tenant's database for damage while calls continue; a tenant with a damaged database is quarantined.

        Raises:
            DatabaseCorruptError: The database is damaged.
            PersistenceConnectionError: The database was closed during the check.
        """
        try:
            with self._working():
                await self._store.check_integrity(is_thorough=is_thorough)
        except TenantryError as error:
            self._failures(error)
            raise

    async def aclose(self, timeout_seconds: float) -> None:
        """Finish the accepted calls, then close the store; idempotent.

        Args:
            timeout_seconds: The time after which a running batch is interrupted. If the batch then still runs, because the disk
                hangs, the batch's thread keeps the tenant's lock until the batch ends. So no other process can open the file
                while the effect of the batch is unknown.

        Raises:
            PersistenceConnectionError: The store could not be closed; call this method again.
        """
        now = self._context.clock.monotonic_seconds
        until = now() + timeout_seconds
        is_drained = await self._writes.aclose(timeout_seconds)
        if not is_drained and self._transaction is not None:
            # The open transaction is idle, so the store can be closed after a rollback.
            with anyio.move_on_after(_ROLLBACK_TIMEOUT_SECONDS):
                await self._transaction.rollback()
                is_drained = True
        is_drained = await self._reads.aclose(max(0.0, until - now())) and is_drained
        if is_drained:
            await self._store.disconnect()
            return
        leftover = asyncio.get_running_loop().create_task(self._disconnect_late())
        _LEFTOVERS.add(leftover)
        leftover.add_done_callback(_LEFTOVERS.discard)
        await asyncio.wait([leftover], timeout=_INTERRUPTED_SECONDS_MAX)
        if not leftover.done():
            self._log.error(ACTOR_ABANDONED, timeout_seconds=timeout_seconds)

    def statistics(self) -> ActorStatistics:
        """Return the counters."""
        return ActorStatistics(write=self._writes.statistics(), read=self._reads.statistics())

    async def _disconnect_late(self) -> None:
        """Close the store after the running batch has ended, so that the tenant can be opened again."""
        try:
            await self._store.disconnect()
        except TenantryError as error:
            self._log.failure(ACTOR_ABANDONED, error)
        else:
            self._log.info(ACTOR_RECOVERED)

    def _check_is_writable(self) -> None:
        if self._is_read_only and self._entry is not None:
            entry = self._entry
            check_allows(entry.state, Permission.WRITE, tenant_id=entry.id, reason=entry.reason)

    def _limit_calls(self, entry: TenantRecord) -> None:
        limits, now = entry.limits, self._context.clock.monotonic_seconds
        bucket = self._context.buckets.of(entry.uid, limits, now())
        # A tenant without limits has no `Admission`, which saves time in each call.
        admission = None
        if bucket is not None or limits.calls_in_flight_max is not None:
            admission = Admission(self._tenant_id, limits, bucket, load=self._load, monotonic_seconds=now)
        self._writes.admission = self._reads.admission = admission

    def _load(self) -> Load:
        writes, reads = self._writes.load(), self._reads.load()
        # The channel still counts a transaction that has ended, until the writer's task runs again.
        has_ended = self._transaction is not None and self._transaction.has_ended
        return Load(writes.calls + reads.calls - has_ended, writes.seconds + reads.seconds)

    def _channel(
        self, name: str, run: Runner[Item, Outcome], limiter: FairLimiter, *, workers: int
    ) -> Channel[Item, Outcome]:
        config = self._context.config
        return Channel(
            name,
            tenant_id=self._tenant_id,
            backend=self._backend,
            run=run,
            limits=ChannelLimits(
                requests_max=config.mailbox_requests_max,
                batch_requests_max=config.batch_requests_max,
                shared_batch_requests_max=self._store.shared_batch_requests_max,
                call_timeout_seconds=config.call_timeout_seconds,
                workers=workers,
                second_batch_requests_min=_SECOND_BATCH_REQUESTS_MIN if name == "write" else 1,
                is_interrupted_early=name == "read",
            ),
            limiter=limiter,
            is_ready=self._store.claim_connection,
            clock=self._context.clock,
            report=self._context.report,
            on_error=self._failures,
        )

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._works += 1
        try:
            yield
        finally:
            self._works -= 1

    def _check_is_outside(self, what: str) -> None:
        """Refuse a call inside an open transaction, because the call would wait for that transaction to end."""
        if self._transaction is not None and self._transaction.encloses_caller:
            raise QueryError(
                f"this call is made inside an open transaction of tenant {self._tenant_id!r}, and a {what} outside the "
                "transaction would wait until the transaction ends: use the transaction's repositories (tx.…), or call after that"
            )

    async def _hold(self, begun: asyncio.Future[TransactionSession]) -> None:
        """Begin a transaction, pass the session to the caller, and occupy the writer until the transaction ends."""
        async with self._limiters.write.permit(self._tenant_id):
            transaction = await self._store.begin()
        session = TransactionSession(
            transaction,
            timeout_seconds=self._context.config.transaction_timeout_seconds,
            limiter=self._limiters.write,
            tenant_id=self._tenant_id,
            backend=self._backend,
            dialect=self.dialect,
            clock=self._context.clock,
            report=self._context.report,
            log=self._log,
            admit=self._writes.admit_inside,
            on_error=self._failures,
        )
        # The caller may have been cancelled while the store began the transaction.
        if begun.done():
            session.abandon()
        else:
            begun.set_result(session)
        self._transaction = session
        try:
            await session.wait_ended()
        finally:
            self._transaction = None

    async def _measured(self, work: Awaitable[T], event: Callable[[str, T | None, float], Event]) -> T:
        now = self._context.clock.monotonic_seconds
        started = now()
        outcome: str = "error"
        result: T | None = None
        try:
            result = await work
            outcome = "ok"
        except TenantryError as error:
            outcome = error.outcome
            raise
        finally:
            self._context.report(event(outcome, result, now() - started))
        return result


def _is_read_only(entry: TenantRecord) -> bool:
    """Return whether the tenant's state permits reads but not writes."""
    return entry.state.allows(Permission.READ) and not entry.state.allows(Permission.WRITE)
