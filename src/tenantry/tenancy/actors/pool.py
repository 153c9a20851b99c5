"""The bounded pool of open tenants: opens and evicts tenants, and queues the callers that wait for a place.

Theory of operation. Each tenant that holds a place has an entry, which is opening, open, draining or closing. The pool makes its
decisions synchronously on these entries. Afterwards tasks of the pool do the I/O, so that the cancellation of a caller never leaves
a tenant half open.

    no entry, a place is free    the tenant takes the place and opens; all callers that request the tenant share the opening
    no entry, no place is free   the first idle tenant (see `tenantry.tenancy.actors.segmented_lru`) closes, and its place goes to
                                 the first tenant in the queue
    no entry, no tenant is idle  callers wait in the order of their tenants' first requests; after a while the tenant that has been
                                 open the longest is drained
    draining                     callers with a lease continue, and new callers wait; the tenant closes after its last lease
    closing                      callers wait until the tenant has closed, so that a file never has two writers
    held                         the tenant is closed and without a place; callers wait until the operation that owns its files ends

A tenant is idle while no caller holds its lease. A call holds a lease until the call is answered; a transaction, until it ends.

Under constant load, no open tenant would become idle, and the waiting tenants would never open. After `PREEMPT_AFTER_SHARE` of its
wait timeout, a caller therefore preempts an open tenant: the pool drains that tenant. Tenants are drained in the order in which they
were opened, so each gets its share of the time. No accepted call fails. The pool drains or closes one tenant for each tenant
with a preempting caller. If more tenants drain than are needed, the tenants that began to drain last accept callers again.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol
from weakref import WeakSet

from tenantry.clock import Clock
from tenantry.errors import (
    PoolExhaustedError,
    RegistryClosedError,
    TenantOwnedElsewhereError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.events import Hook, PoolWaited, TenantClosed, TenantOpened
from tenantry.forks import left_in_children
from tenantry.ids import TenantId
from tenantry.tenancy.actors.actor import TenantActor
from tenantry.tenancy.actors.lease import (
    HAS_ACTOR,
    EntryState,
    ExclusiveHold,
    Lease,
    PoolEntry,
    Waiter,
    Waiters,
)
from tenantry.tenancy.actors.segmented_lru import SegmentedLRU
from tenantry.tenancy.actors.wait_queue import WaitQueue
from tenantry.tenancy.refusals import another_loop_error, busy_error, unexpected_error


class Opener(Protocol):
    """Opens a tenant and returns its actor; see `TenantOpener.open`."""

    def __call__(self, tenant_id: TenantId, *, is_for_write: bool) -> Awaitable[TenantActor]:
        """Open the tenant, for a write or a read that waits."""


TENANT_OPENED: Final = "tenantry.tenant.opened"
TENANT_OPEN_FAILED: Final = "tenantry.tenant.open_failed"
TENANT_OWNED_ELSEWHERE: Final = "tenantry.tenant.owned_elsewhere"
TENANT_CLOSED: Final = "tenantry.tenant.closed"
TENANT_CLOSE_FAILED: Final = "tenantry.tenant.close_failed"

CLOSE_REASONS: Final = ("capacity", "idle", "state", "failed", "handed_over", "shutdown")

PREEMPT_AFTER_SHARE: Final = 0.25
"""The share of ``pool_wait_timeout_seconds`` after which a waiting caller preempts an open tenant."""

_RETRY_AFTER_SECONDS_MIN: Final = 0.01
_SMOOTHING: Final = 0.2


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """The pool's occupancy, and its counters since it was opened.

    Attributes:
        open_tenants: The number of tenants that hold a place: opening, open, draining or closing.
        open_tenants_max: The number of places.
        open_tenants_peak: The highest value of `open_tenants` since the pool was opened.
        idle_tenants: The number of open tenants that could be evicted now.
        waiters: The number of callers that wait for a place.
        evictions: The number of tenants that were closed to free a place or because of their idle timeout.
        closed_by_reason: The number of closed tenants by reason; the keys are `CLOSE_REASONS`.
        opened: The number of successful openings.
        exhausted: The number of callers that were refused a place.
    """

    open_tenants: int
    open_tenants_max: int
    open_tenants_peak: int
    idle_tenants: int
    waiters: int
    evictions: int
    closed_by_reason: dict[str, int]
    opened: int
    exhausted: int


class _Plan(NamedTuple):
    """The I/O that a decision requires."""

    to_open: list[PoolEntry]
    to_close: list[tuple[PoolEntry, str]]


class ActorPool:
    """Keeps at most `open_tenants_max` tenants open.

    Args:
        waiters_max: The largest number of callers that wait for a place.
        wait_timeout_seconds: The longest wait of a caller for a place.
        close_timeout_seconds: The time that the accepted calls of a closing tenant have to finish.
    """

    def __init__(
        self,
        opener: Opener,
        *,
        open_tenants_max: int,
        waiters_max: int,
        wait_timeout_seconds: float,
        close_timeout_seconds: float,
        clock: Clock,
        report: Hook,
        log: EventLog,
    ) -> None:
        self._opener = opener
        self._open_tenants_max = open_tenants_max
        self._waiters_max = waiters_max
        self._wait_timeout_seconds = wait_timeout_seconds
        self._close_timeout_seconds = close_timeout_seconds
        self._now = clock.monotonic_seconds
        self._report = report
        self._log = log
        self._entries: dict[TenantId, PoolEntry] = {}
        self._idle: SegmentedLRU[PoolEntry] = SegmentedLRU(open_tenants_max)
        self._draining: dict[TenantId, PoolEntry] = {}  # in the order in which draining began
        self._holds: dict[TenantId, ExclusiveHold] = {}
        self._queue = WaitQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._openings: set[asyncio.Task[None]] = set()
        self._waiting = 0  # callers without a place
        self._closing = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # the event loop of the first call
        self._is_closed = False
        self._peak = self._opened = self._exhausted = 0
        self._closed_by_reason = dict.fromkeys(CLOSE_REASONS, 0)
        self._seconds_per_place = 0.0
        self._last_place_seconds = self._now()
        _all_pools.add(self)

    def __repr__(self) -> str:
        states = [entry.state for entry in self._entries.values()]
        return (
            f"<ActorPool: {len(states)} of {self._open_tenants_max} places taken ({len(self._idle)} idle, "
            f"{states.count(EntryState.OPENING)} opening, {states.count(EntryState.CLOSING)} closing), "
            f"{self._waiting} callers waiting{', closed' if self._is_closed else ''}>"
        )

    def statistics(self) -> PoolStatistics:
        """Return the occupancy and the counters."""
        return PoolStatistics(
            open_tenants=len(self._entries),
            open_tenants_max=self._open_tenants_max,
            open_tenants_peak=self._peak,
            idle_tenants=len(self._idle),
            waiters=self._waiting,
            evictions=self._closed_by_reason["capacity"] + self._closed_by_reason["idle"],
            closed_by_reason=dict(self._closed_by_reason),
            opened=self._opened,
            exhausted=self._exhausted,
        )

    @property
    def is_full(self) -> bool:
        """Whether every place is taken."""
        return len(self._entries) >= self._open_tenants_max

    def has(self, tenant_id: TenantId) -> bool:
        """Return whether the tenant holds a place."""
        return tenant_id in self._entries

    def tenants(self) -> Iterator[tuple[TenantId, TenantActor | None]]:
        """Yield each tenant that holds a place, with its actor; the actor is None if the tenant is not open."""
        for tenant_id, entry in list(self._entries.items()):
            yield tenant_id, entry.actor if entry.state in HAS_ACTOR else None

    def actor(self, tenant_id: TenantId) -> TenantActor | None:
        """Return the tenant's actor if the tenant is open, without a lease; only for statistics and limits."""
        entry = self._entries.get(tenant_id)
        return entry.actor if entry is not None and entry.state in HAS_ACTOR else None

    def lease_nowait(self, tenant_id: TenantId) -> Lease | None:
        """Return a lease if the tenant is open now; the caller must release the lease.

        Raises:
            TenantError: The caller runs on another event loop than earlier callers.
        """
        entry = self._entries.get(tenant_id)
        if entry is None:
            return None
        if asyncio.get_running_loop() is not self._loop:
            raise another_loop_error(tenant_id, self._loop)
        if entry.state is not EntryState.OPEN and not (
            entry.state is EntryState.DRAINING and any(one.encloses_caller for one in entry.transactions)
        ):
            return None
        if not entry.lease_count:
            self._idle.use(entry)
        return Lease(entry)

    async def lease_if_open(self, tenant_id: TenantId) -> Lease | None:
        """Return a lease, after waiting for an opening; None when the tenant is closed. This does not open the tenant.

        A draining tenant either closes or accepts callers again; a closing tenant is waited for, and so is the end of a hold.
        """
        while True:
            entry = self._entries.get(tenant_id)
            if entry is None:
                if (hold := self._holds.get(tenant_id)) is None:
                    return None
                await hold.released.wait()
            elif entry.state is EntryState.OPENING:
                await entry.opened.wait()
            elif entry.state is EntryState.CLOSING:
                await entry.closed.wait()
            elif (lease := self.lease_nowait(tenant_id)) is not None:
                return lease
            else:
                entry.drained = entry.drained or asyncio.Event()
                await entry.drained.wait()

    async def opened(self, tenant_id: TenantId) -> TenantActor | None:
        """Return the tenant's actor, or None if the tenant is not open; if the tenant is being opened, wait first."""
        entry = self._entries.get(tenant_id)
        if entry is not None and entry.state is EntryState.OPENING:
            await entry.opened.wait()
        return self.actor(tenant_id)

    async def lease(self, tenant_id: TenantId, *, is_for_write: bool = False) -> Lease:
        """Return a lease; open the tenant or wait for a place if necessary. The caller must release the lease.

        A cancelled caller leaves the queue, but an opening that the caller has started continues.

        Args:
            tenant_id: The tenant's id.
            is_for_write: Whether the caller's call is a write; see `Store.connect`.

        Raises:
            PoolExhaustedError: Too many callers wait, or no place became free in time.
            RegistryClosedError: The pool was closed.
            TenantError: The caller runs on another event loop than earlier callers.
            TenantryError: The tenant could not be opened.
        """
        lease = self.lease_nowait(tenant_id)
        if lease is not None:
            return lease
        started_seconds = self._now()
        waiter = self._enqueue(tenant_id, is_for_write=is_for_write)
        loop = asyncio.get_running_loop()
        # One timer after the other, because most callers wait for a moment only.
        waiter.timer = loop.call_later(
            self._wait_timeout_seconds * PREEMPT_AFTER_SHARE, self._preempt, tenant_id, waiter
        )
        outcome = "ok"
        is_reported = True
        try:
            return await waiter.future
        except asyncio.CancelledError:
            outcome = "cancelled"
            if waiter.future.done() and not waiter.future.cancelled() and not waiter.future.exception():
                self.release(waiter.future.result())
            raise
        except TenantryError as error:
            outcome = error.outcome
            # If the owner takes calls, the caller forwards its calls to the owner, and reports a failure to do so itself.
            is_reported = not isinstance(error, TenantOwnedElsewhereError) or error.socket_name is None
            raise
        finally:
            waiter.timer.cancel()
            self._dequeue(tenant_id, waiter)
            if is_reported:
                self._report(PoolWaited(tenant_id, outcome, self._now() - started_seconds))

    def release(self, lease: Lease) -> None:
        """Release a lease. After the last lease is released, a draining tenant closes, and another tenant becomes idle."""
        entry = lease.entry
        entry.lease_count -= 1
        if entry.lease_count:
            return
        if entry.state is EntryState.DRAINING:
            self._act(_Plan([], [self._begin_closing(entry, "capacity")]))
        elif entry.state is EntryState.OPEN:
            entry.idle_since_seconds = self._now()
            self._idle.add(entry)
            if self._queue:
                self._act(self._plan())

    def evict_idle(self, idle_timeout_seconds: float) -> None:
        """Close the tenants that have been idle for at least `idle_timeout_seconds`."""
        until = self._now() - idle_timeout_seconds
        idle = [entry for entry in self._idle if entry.idle_since_seconds <= until]
        self._act(_Plan([], [self._begin_closing(entry, "idle") for entry in idle]))

    def start_closing(self, tenant_id: TenantId, reason: str) -> None:
        """Begin to close the tenant if it is open, without waiting: new callers wait until the tenant has closed."""
        entry = self._entries.get(tenant_id)
        if entry is not None and entry.state in HAS_ACTOR:
            self._act(_Plan([], [self._begin_closing(entry, reason)]))

    async def close_tenant(self, tenant_id: TenantId, reason: str) -> None:
        """Close the tenant if it holds a place; return after its calls are finished and the tenant is closed.

        Cancellation stops the waiting, not the closing.
        """
        entry = self._entries.get(tenant_id)
        if entry is None:
            return
        if entry.state is EntryState.OPENING:
            await entry.opened.wait()
        self.start_closing(tenant_id, reason)
        if entry.state is EntryState.CLOSING:
            await entry.closed.wait()

    @asynccontextmanager
    async def held(self, tenant_id: TenantId, action: str, *, reason: str = "state") -> AsyncIterator[None]:
        """Finish the tenant's calls, close the tenant, and keep it closed during the block.

        New callers of the tenant wait for at most ``pool_wait_timeout_seconds``. A second hold waits for the end of the
        first hold.

        Args:
            tenant_id: The tenant's id.
            action: The name of the lifecycle operation that needs the tenant's files; errors show the name.
            reason: The reason for the closing, one of `CLOSE_REASONS`.
        """
        while tenant_id in self._holds:
            await self._holds[tenant_id].released.wait()
        hold = self._holds[tenant_id] = ExclusiveHold(action, self._queue.pop(tenant_id), asyncio.Event())
        self._stop_needless_draining()
        try:
            while tenant_id in self._entries:
                await self.close_tenant(tenant_id, reason)
            yield
        finally:
            del self._holds[tenant_id]
            hold.released.set()
            if hold.waiters:
                self._queue.add(tenant_id, hold.waiters)
                self._act(self._plan())

    async def aclose(self) -> None:
        """Fail the waiting callers, finish the accepted calls, and close all tenants; idempotent."""
        self._is_closed = True
        waiters = self._queue.pop_all()
        waiters += [waiter for hold in self._holds.values() for waiter in hold.waiters]
        waiters += [waiter for entry in self._entries.values() for waiter in entry.waiters]
        for waiter in waiters:
            waiter.fail(RegistryClosedError("the registry was closed"))
        closings = [self.close_tenant(tenant_id, "shutdown") for tenant_id in list(self._entries)]
        await asyncio.gather(self._end_openings(), *closings)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def leave_in_child(self) -> None:
        """Forget every tenant in a forked child, so that each call there asks for a lease, and is refused.

        The pool of a registry that was not open at the fork stays usable: the registry may open in the child.
        """
        self._entries.clear()
        self._draining.clear()

    async def _end_openings(self) -> None:
        """Wait until the close timeout for tenants that are being opened, then cancel the openings, which may be long migrations."""
        if self._openings:
            _, late = await asyncio.wait(self._openings, timeout=self._close_timeout_seconds)
            for opening in late:
                opening.cancel()

    def _enqueue(self, tenant_id: TenantId, *, is_for_write: bool) -> Waiter:
        """Add a caller to its tenant's queue; open, evict or drain tenants if necessary."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if loop is not self._loop:
            raise another_loop_error(tenant_id, self._loop)
        if self._is_closed:
            raise RegistryClosedError("the registry is closed", tenant_id=tenant_id)
        waiter = Waiter(loop.create_future(), is_for_write=is_for_write)
        entry = self._entries.get(tenant_id)
        if entry is not None and entry.state is EntryState.OPENING:
            waiter.has_place = True
            entry.waiters.append(waiter)
            return waiter
        if self._waiting >= self._waiters_max:
            error = self._exhausted_error(tenant_id, "pool_waiters_max", self._waiters_max)
            self._report(PoolWaited(tenant_id, error.outcome, 0.0))
            raise error
        self._waiting += 1
        if entry is not None:
            entry.waiters.append(waiter)
        elif tenant_id in self._holds:
            self._holds[tenant_id].waiters.append(waiter)
        else:
            self._queue.add(tenant_id, [waiter])
            self._act(self._plan())
        return waiter

    def _dequeue(self, tenant_id: TenantId, waiter: Waiter) -> None:
        """Remove a caller that no longer waits; a no-op for a caller that got a lease."""
        if not waiter.has_place:
            self._waiting -= 1
        self._queue.discard(tenant_id, waiter)
        owner = self._entries.get(tenant_id) or self._holds.get(tenant_id)
        if owner is not None and waiter in owner.waiters:
            owner.waiters.remove(waiter)
        self._stop_needless_draining()

    def _plan(self) -> _Plan:
        """Give free places to the tenants in the queue; if places are missing, evict idle tenants or drain busy tenants."""
        plan = _Plan([], [])
        while self._queue and not self._is_closed:
            if len(self._entries) < self._open_tenants_max:
                plan.to_open.append(self._begin_opening(*self._queue.pop_first()))
            # The place of every closing tenant goes to a tenant in the queue.
            elif self._closing < len(self._queue) and (entry := self._idle.first()) is not None:
                plan.to_close.append(self._begin_closing(entry, "capacity"))
            elif (
                # This is known at once. The next line looks at each tenant of the queue, and can only give a smaller number.
                self._leaving_count() < len(self._queue)
                and self._leaving_count() < self._queue.count_preempting()
                and (oldest := self._oldest_open()) is not None
            ):
                oldest.state = EntryState.DRAINING
                self._draining[oldest.tenant_id] = oldest
            else:
                break
        self._stop_needless_draining()
        return plan

    def _leaving_count(self) -> int:
        """Return the number of tenants whose place will go to a tenant in the queue."""
        return self._closing + len(self._draining)

    def _oldest_open(self) -> PoolEntry | None:
        return next((entry for entry in self._entries.values() if entry.state is EntryState.OPEN), None)

    def _stop_needless_draining(self) -> None:
        """Open draining tenants to callers again if their places are no longer needed."""
        while self._draining and self._leaving_count() > self._queue.count_preempting():
            _, entry = self._draining.popitem()
            entry.state = EntryState.OPEN
            entry.end_draining()
            self._serve_waiters(entry)

    def _begin_opening(self, tenant_id: TenantId, waiters: Waiters) -> PoolEntry:
        for waiter in waiters:
            waiter.has_place = True
        self._waiting -= len(waiters)
        entry = PoolEntry(tenant_id, waiters)
        self._entries[tenant_id] = entry
        self._peak = max(self._peak, len(self._entries))
        now = self._now()
        self._seconds_per_place += _SMOOTHING * (now - self._last_place_seconds - self._seconds_per_place)
        self._last_place_seconds = now
        return entry

    def _begin_closing(self, entry: PoolEntry, reason: str) -> tuple[PoolEntry, str]:
        entry.state = EntryState.CLOSING
        self._idle.remove(entry)
        self._draining.pop(entry.tenant_id, None)
        entry.end_draining()
        self._closing += 1
        self._stop_needless_draining()
        return entry, reason

    def _act(self, plan: _Plan) -> None:
        for entry in plan.to_open:
            opening = self._spawn(self._open(entry), f"tenantry open {entry.tenant_id}")
            self._openings.add(opening)
            opening.add_done_callback(self._openings.discard)
        for entry, reason in plan.to_close:
            self._spawn(self._close(entry, reason), f"tenantry close {entry.tenant_id}")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        # The task gets a new context, because the work must not run in the context of the caller that causes the work.
        task = asyncio.get_running_loop().create_task(work, name=name, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open(self, entry: PoolEntry) -> None:
        started_seconds = self._now()
        outcome, backend = "ok", "none"
        try:
            is_for_write = any(waiter.is_for_write for waiter in entry.waiters)
            entry.actor = await self._opener(entry.tenant_id, is_for_write=is_for_write)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the callers get the error
            if isinstance(error, asyncio.CancelledError):
                failure: TenantryError = RegistryClosedError(
                    "the registry was closed during the opening of the tenant", tenant_id=entry.tenant_id
                )
            else:
                failure = (
                    error if isinstance(error, TenantryError) else unexpected_error(entry.tenant_id, error)
                )
            outcome = failure.outcome
            del self._entries[entry.tenant_id]
            for waiter in entry.waiters:
                waiter.fail(failure)
            entry.waiters.clear()
            if isinstance(failure, TenantOwnedElsewhereError) and failure.socket_name is not None:
                # The callers' calls are forwarded to the owner, so this is no failure.
                self._log.debug(TENANT_OWNED_ELSEWHERE, tenant_id=entry.tenant_id, pid=failure.pid)
            else:
                self._log.failure(TENANT_OPEN_FAILED, failure, tenant_id=entry.tenant_id)
        else:
            backend = entry.actor.backend
            entry.state = EntryState.OPEN
            self._opened += 1
            self._serve_waiters(entry)
            self._log.debug(TENANT_OPENED, tenant_id=entry.tenant_id)
        entry.opened.set()
        self._act(self._plan())
        self._report(TenantOpened(entry.tenant_id, backend, outcome, self._now() - started_seconds))

    def _serve_waiters(self, entry: PoolEntry) -> None:
        own = Lease(entry)  # if no caller takes a lease, the release of this lease makes the tenant idle
        for waiter in entry.waiters:
            waiter.offer(entry)
        entry.waiters.clear()
        self.release(own)

    async def _close(self, entry: PoolEntry, reason: str) -> None:
        started_seconds = self._now()
        try:
            await entry.actor.aclose(self._close_timeout_seconds)
        except Exception as error:  # noqa: BLE001  # the place must become free in any case
            failure = error if isinstance(error, TenantryError) else unexpected_error(entry.tenant_id, error)
            self._log.failure(TENANT_CLOSE_FAILED, failure, tenant_id=entry.tenant_id, reason=reason)
        else:
            self._log.debug(TENANT_CLOSED, tenant_id=entry.tenant_id, reason=reason)
        del self._entries[entry.tenant_id]
        self._closing -= 1
        self._closed_by_reason[reason] += 1
        if entry.waiters:
            # These callers requested the tenant while it closed, so the tenant goes to the end of the queue.
            hold = self._holds.get(entry.tenant_id)
            if hold is None:
                self._queue.add(entry.tenant_id, entry.waiters)
            else:
                hold.waiters.extend(entry.waiters)
        entry.closed.set()
        self._act(self._plan())
        self._report(
            TenantClosed(entry.tenant_id, entry.actor.backend, reason, self._now() - started_seconds)
        )

    def _preempt(self, tenant_id: TenantId, waiter: Waiter) -> None:
        waiter.timer = asyncio.get_running_loop().call_later(
            self._wait_timeout_seconds * (1 - PREEMPT_AFTER_SHARE), self._time_out, tenant_id, waiter
        )
        waiter.is_preempting = True
        self._act(self._plan())

    def _time_out(self, tenant_id: TenantId, waiter: Waiter) -> None:
        if waiter.has_place or waiter.future.done():
            return
        hold = self._holds.get(tenant_id)
        if hold is not None:
            waiter.fail(busy_error(tenant_id, hold.action, self._wait_timeout_seconds))
            return
        waiter.fail(self._exhausted_error(tenant_id, "pool_wait_timeout_seconds", self._wait_timeout_seconds))

    def _exhausted_error(self, tenant_id: TenantId, limit: str, limit_value: float) -> PoolExhaustedError:
        self._exhausted += 1
        estimate = (len(self._queue) + 1) * self._seconds_per_place
        retry_after_seconds = min(max(estimate, _RETRY_AFTER_SECONDS_MIN), self._wait_timeout_seconds)
        return PoolExhaustedError(
            f"the pool of {self._open_tenants_max} open tenants has no place for tenant {tenant_id!r} ({limit} is "
            f"{limit_value:g}): try again in {retry_after_seconds:.2f} s, or raise open_tenants_max",
            tenant_id=tenant_id,
            limit=limit,
            limit_value=limit_value,
            retry_after_seconds=retry_after_seconds,
        )


_all_pools: Final[WeakSet[ActorPool]] = left_in_children()
