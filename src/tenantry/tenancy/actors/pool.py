"""The bounded pool of open tenants: who is open, who waits, who is evicted.

Theory of operation. Every tenant that holds a place has an entry: opening, open or closing. Everything here is decided
synchronously on that state; decisions return what to open and close, and the I/O is done afterwards, in tasks of the
pool's own, so that no caller's cancellation leaves a tenant half open.

    no entry, a place free        the tenant takes it and opens; all who ask for it meanwhile wait for that one opening
    no entry, no place free       the first idle tenant closes (see `tenantry.tenancy.actors.segmented_lru`), and its place goes to the
                                  first who waits
    no entry, nobody idle         callers wait, tenants in the order in which they were first asked for; after a while of
                                  that the tenant that has been open the longest yields
    yielding                      callers wait, it finishes what it was leased for, and closes when its last lease ends
    closing                       callers wait for the end of it: there are never two writers on one file
    held                          closed, without a place; callers wait until whoever works on its files lets it go

A tenant is idle when nobody holds a lease on it; calls hold one until they are answered, transactions until they end.

Under constant load nobody would ever be idle, and a newcomer never served. So a caller that has waited for
`PATIENCE` of its time asks for somebody's place: tenants yield in the order in which they were opened, so everyone gets
a turn, and nothing that was taken in fails. As many yield as tenants wait for so long, less those that close already; when
fewer wait, because a place came from elsewhere or a caller has left, those that yielded last take it back.
"""

import asyncio
import contextvars
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from tenantry.clock import Clock
from tenantry.errors import (
    PoolExhaustedError,
    RegistryClosedError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.events import Hook, PoolWaited, TenantClosed, TenantOpened
from tenantry.ids import TenantId
from tenantry.tenancy.actors.actor import TenantActor
from tenantry.tenancy.actors.lease import HAS_ACTOR, Held, Lease, LeaseState, Waiter
from tenantry.tenancy.actors.segmented_lru import SegmentedLRU
from tenantry.tenancy.refusals import another_loop_error, busy_error, unexpected_error

Opener: TypeAlias = Callable[[TenantId], Awaitable[TenantActor]]
"""Opens the tenant's actor, or raises why it cannot be."""

TENANT_OPENED: Final = "tenantry.tenant.opened"
TENANT_OPEN_FAILED: Final = "tenantry.tenant.open_failed"
TENANT_CLOSED: Final = "tenantry.tenant.closed"
TENANT_CLOSE_FAILED: Final = "tenantry.tenant.close_failed"

CLOSE_REASONS: Final = ("capacity", "idle", "state", "failed", "shutdown")
PATIENCE: Final = 0.25
"""The part of ``pool_wait_timeout_seconds`` after which a waiting caller makes an open tenant yield."""

_RETRY_AFTER_SECONDS_MIN: Final = 0.01
_SMOOTHING: Final = 0.2


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """The pool's occupancy and its counters since it was opened.

    Attributes:
        open_tenants: Tenants that hold a place: opening, open or closing.
        open_tenants_max: How many there may be.
        open_tenants_peak: The most there were.
        idle_tenants: Of them, those that could be evicted now.
        waiters: Callers that wait for a place.
        evictions: Tenants closed to make room or for idleness.
        closed_by_reason: All closings; the keys are `CLOSE_REASONS`.
        opened: Openings that succeeded.
        exhausted: Callers that were sent away.
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
    """What a decision leaves to be done."""

    to_open: list[Lease]
    to_close: list[tuple[Lease, str]]


class ActorPool:
    """Keeps at most so many tenants open.

    Args:
        opener: Opens one tenant.
        open_tenants_max: How many places there are.
        waiters_max: How many callers may wait for one.
        wait_timeout_seconds: How long each waits.
        close_timeout_seconds: How long a closing tenant may take to finish its calls.
        clock: For idleness and waiting.
        report: Takes the events.
        log: For openings and closings.
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
        self._entries: dict[TenantId, Lease] = {}
        self._idle: SegmentedLRU[Lease] = SegmentedLRU(open_tenants_max)
        self._yielding: dict[TenantId, Lease] = {}  # in the order in which they were made to
        self._held: dict[TenantId, Held] = {}
        self._queue: OrderedDict[TenantId, deque[Waiter]] = OrderedDict()  # tenants without a place
        self._tasks: set[asyncio.Task[None]] = set()
        self._openings: set[asyncio.Task[None]] = set()
        self._waiting = 0  # callers without a place
        self._closing = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # the one it is first used on
        self._is_closed = False
        self._peak = self._opened = self._exhausted = 0
        self._closed_by_reason = dict.fromkeys(CLOSE_REASONS, 0)
        self._seconds_per_place = 0.0
        self._last_place_seconds = self._now()

    def __repr__(self) -> str:
        states = [lease.state for lease in self._entries.values()]
        return (
            f"<ActorPool: {len(states)} of {self._open_tenants_max} places taken ({len(self._idle)} idle, "
            f"{states.count(LeaseState.OPENING)} opening, {states.count(LeaseState.CLOSING)} closing), "
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
        """Yield the tenants that hold a place, with the actors of those that are open."""
        for tenant_id, lease in list(self._entries.items()):
            yield tenant_id, lease.actor if lease.state in HAS_ACTOR else None

    def actor(self, tenant_id: TenantId) -> TenantActor | None:
        """Return the tenant's actor if it is open, without a lease: for its statistics and limits only."""
        lease = self._entries.get(tenant_id)
        return lease.actor if lease is not None and lease.state in HAS_ACTOR else None

    def lease_nowait(self, tenant_id: TenantId) -> Lease | None:
        """Return a lease if the tenant is open now; the caller releases it.

        Raises:
            TenantError: It is called on another event loop.
        """
        lease = self._entries.get(tenant_id)
        if lease is None:
            return None
        if asyncio.get_running_loop() is not self._loop:
            raise another_loop_error(tenant_id)
        if lease.state is not LeaseState.OPEN and not (
            lease.state is LeaseState.YIELDING and any(one.encloses_caller for one in lease.transactions)
        ):
            return None
        if not lease.leases:
            self._idle.use(lease)
        lease.leases += 1
        return lease

    async def opened(self, tenant_id: TenantId) -> TenantActor | None:
        """Return the tenant's actor if it is open, once an opening that is under way has ended."""
        lease = self._entries.get(tenant_id)
        if lease is not None and lease.state is LeaseState.OPENING:
            await lease.opened.wait()
        return self.actor(tenant_id)

    async def lease(self, tenant_id: TenantId) -> Lease:
        """Return a lease, opening the tenant or waiting for a place as needed; the caller releases it.

        A caller that is cancelled leaves the queue; an opening that it started goes on.

        Raises:
            PoolExhaustedError: Too many callers wait, or no place was had in time.
            RegistryClosedError: The pool closed.
            TenantError: It is called on another event loop.
            TenantryError: Why the tenant could not be opened.
        """
        lease = self.lease_nowait(tenant_id)
        if lease is not None:
            return lease
        started_seconds = self._now()
        waiter = self._enqueue(tenant_id)
        loop = asyncio.get_running_loop()
        timers = [
            loop.call_later(self._wait_timeout_seconds, self._exhaust, tenant_id, waiter),
            loop.call_later(self._wait_timeout_seconds * PATIENCE, self._lose_patience, waiter),
        ]
        outcome = "ok"
        try:
            return await waiter.future
        except asyncio.CancelledError:
            outcome = "cancelled"
            if waiter.future.done() and not waiter.future.cancelled() and not waiter.future.exception():
                self.release(waiter.future.result())
            raise
        except TenantryError as error:
            outcome = error.outcome
            raise
        finally:
            for timer in timers:
                timer.cancel()
            self._dequeue(tenant_id, waiter)
            self._report(PoolWaited(tenant_id, outcome, self._now() - started_seconds))

    def release(self, lease: Lease) -> None:
        """Give a lease back; the last one makes the tenant idle, or closes it if it yields."""
        lease.leases -= 1
        if lease.leases:
            return
        if lease.state is LeaseState.YIELDING:
            self._act(_Plan([], [self._begin_closing(lease, "capacity")]))
        elif lease.state is LeaseState.OPEN:
            lease.idle_since_seconds = self._now()
            self._idle.add(lease)
            if self._queue:
                self._act(self._plan())

    def evict_idle(self, idle_timeout_seconds: float) -> None:
        """Close the tenants that have been idle for so long."""
        until = self._now() - idle_timeout_seconds
        idle = [lease for lease in self._idle if lease.idle_since_seconds <= until]
        self._act(_Plan([], [self._begin_closing(lease, "idle") for lease in idle]))

    async def close_tenant(self, tenant_id: TenantId, reason: str) -> None:
        """Close the tenant if it holds a place, and return once it is closed; its calls are finished first.

        Cancellation stops the waiting, not the closing.
        """
        lease = self._entries.get(tenant_id)
        if lease is None:
            return
        if lease.state is LeaseState.OPENING:
            await lease.opened.wait()
        if lease.state in HAS_ACTOR:
            self._act(_Plan([], [self._begin_closing(lease, reason)]))
        if lease.state is LeaseState.CLOSING:
            await lease.closed.wait()

    @asynccontextmanager
    async def held(self, tenant_id: TenantId, action: str, *, reason: str = "state") -> AsyncIterator[None]:
        """Close the tenant and keep it closed for the block; its calls are finished first.

        Who asks for it meanwhile waits, for ``pool_wait_timeout_seconds`` at most. One at a time for each tenant, in turn.

        Args:
            tenant_id: The tenant.
            action: The lifecycle operation that works on its files, for the error.
            reason: Why it is closed: one of `CLOSE_REASONS`.
        """
        while tenant_id in self._held:
            await self._held[tenant_id].released.wait()
        held = self._held[tenant_id] = Held(action, self._queue.pop(tenant_id, deque()), asyncio.Event())
        self._take_places_back()
        try:
            while tenant_id in self._entries:
                await self.close_tenant(tenant_id, reason)
            yield
        finally:
            del self._held[tenant_id]
            held.released.set()
            if held.waiters:
                self._queue.setdefault(tenant_id, deque()).extend(held.waiters)
                self._act(self._plan())

    async def aclose(self) -> None:
        """Send the waiting callers away, finish the calls of open tenants and close them; idempotent."""
        self._is_closed = True
        queues = [*self._queue.values(), *(held.waiters for held in self._held.values())]
        for queue in [*queues, *(lease.waiters for lease in self._entries.values())]:
            for waiter in queue:
                waiter.fail(RegistryClosedError("the registry was closed"))
        self._queue.clear()
        closings = [self.close_tenant(tenant_id, "shutdown") for tenant_id in list(self._entries)]
        await asyncio.gather(self._end_openings(), *closings)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _end_openings(self) -> None:
        """Wait for the tenants that are being opened, as long as for calls; then end what opens them, such as a migration."""
        if self._openings:
            _, late = await asyncio.wait(self._openings, timeout=self._close_timeout_seconds)
            for opening in late:
                opening.cancel()

    def _enqueue(self, tenant_id: TenantId) -> Waiter:
        """Put a caller where it will be served; the decisions that follow from that are taken at once."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if loop is not self._loop:
            raise another_loop_error(tenant_id)
        if self._is_closed:
            raise RegistryClosedError("the registry is closed", tenant_id=tenant_id)
        waiter = Waiter(loop.create_future())
        lease = self._entries.get(tenant_id)
        if lease is not None and lease.state is LeaseState.OPENING:
            waiter.has_place = True
            lease.waiters.append(waiter)
            return waiter
        if self._waiting >= self._waiters_max:
            error = self._exhausted_error(tenant_id, "pool_waiters_max", self._waiters_max)
            self._report(PoolWaited(tenant_id, error.outcome, 0.0))
            raise error
        self._waiting += 1
        if lease is not None:
            lease.waiters.append(waiter)
        elif tenant_id in self._held:
            self._held[tenant_id].waiters.append(waiter)
        else:
            self._queue.setdefault(tenant_id, deque()).append(waiter)
            self._act(self._plan())
        return waiter

    def _dequeue(self, tenant_id: TenantId, waiter: Waiter) -> None:
        """Take out a caller that has gone; one that was served is out already."""
        if not waiter.has_place:
            self._waiting -= 1
        for queue in (self._queue.get(tenant_id), self._waiters_of(tenant_id)):
            if queue is not None and waiter in queue:
                queue.remove(waiter)
        if tenant_id in self._queue and not self._queue[tenant_id]:
            del self._queue[tenant_id]
        self._take_places_back()

    def _waiters_of(self, tenant_id: TenantId) -> "deque[Waiter] | None":
        entry = self._entries.get(tenant_id) or self._held.get(tenant_id)
        return entry.waiters if entry is not None else None

    def _plan(self) -> _Plan:
        """Give free places to the tenants that wait; evict idle tenants for the rest, or make busy ones yield."""
        plan = _Plan([], [])
        while self._queue and not self._is_closed:
            if len(self._entries) < self._open_tenants_max:
                plan.to_open.append(self._begin_opening(*self._queue.popitem(last=False)))
            # Every closing tenant will give its place to one that waits.
            elif self._closing < len(self._queue) and (lease := self._idle.first()) is not None:
                plan.to_close.append(self._begin_closing(lease, "capacity"))
            elif self._leaving() < self._impatient() and (longest := self._longest_open()) is not None:
                longest.state = LeaseState.YIELDING
                self._yielding[longest.tenant_id] = longest
            else:
                break
        self._take_places_back()
        return plan

    def _impatient(self) -> int:
        """Return for how many tenants the caller who has waited longest asks for somebody's place."""
        return sum(waiters[0].is_impatient for waiters in self._queue.values())

    def _leaving(self) -> int:
        """Return how many tenants will give their place to one that waits."""
        return self._closing + len(self._yielding)

    def _longest_open(self) -> Lease | None:
        return next((lease for lease in self._entries.values() if lease.state is LeaseState.OPEN), None)

    def _take_places_back(self) -> None:
        """Let tenants stay whose place nobody needs any more."""
        while self._yielding and self._leaving() > self._impatient():
            _, lease = self._yielding.popitem()
            lease.state = LeaseState.OPEN
            self._hand_out(lease)

    def _begin_opening(self, tenant_id: TenantId, waiters: "deque[Waiter]") -> Lease:
        for waiter in waiters:
            waiter.has_place = True
        self._waiting -= len(waiters)
        lease = Lease(tenant_id, waiters)
        self._entries[tenant_id] = lease
        self._peak = max(self._peak, len(self._entries))
        now = self._now()
        self._seconds_per_place += _SMOOTHING * (now - self._last_place_seconds - self._seconds_per_place)
        self._last_place_seconds = now
        return lease

    def _begin_closing(self, lease: Lease, reason: str) -> tuple[Lease, str]:
        lease.state = LeaseState.CLOSING
        self._idle.remove(lease)
        self._yielding.pop(lease.tenant_id, None)
        self._closing += 1
        self._take_places_back()
        return lease, reason

    def _act(self, plan: _Plan) -> None:
        for lease in plan.to_open:
            opening = self._spawn(self._open(lease), f"tenantry open {lease.tenant_id}")
            self._openings.add(opening)
            opening.add_done_callback(self._openings.discard)
        for lease, reason in plan.to_close:
            self._spawn(self._close(lease, reason), f"tenantry close {lease.tenant_id}")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        # In a context of its own: the work is the pool's, not that of the caller who happened to cause it.
        task = asyncio.get_running_loop().create_task(work, name=name, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open(self, lease: Lease) -> None:
        started_seconds = self._now()
        outcome, backend = "ok", "none"
        try:
            lease.actor = await self._opener(lease.tenant_id)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the callers hear of it, and the place is free
            if isinstance(error, asyncio.CancelledError):
                failure: TenantryError = RegistryClosedError(
                    "the registry was closed while the tenant was opened", tenant_id=lease.tenant_id
                )
            else:
                failure = (
                    error if isinstance(error, TenantryError) else unexpected_error(lease.tenant_id, error)
                )
            outcome = failure.outcome
            del self._entries[lease.tenant_id]
            for waiter in lease.waiters:
                waiter.fail(failure)
            lease.waiters.clear()
            self._log.failure(TENANT_OPEN_FAILED, failure, tenant_id=lease.tenant_id)
        else:
            backend = lease.actor.backend
            lease.state = LeaseState.OPEN
            self._opened += 1
            self._hand_out(lease)
            self._log.debug(TENANT_OPENED, tenant_id=lease.tenant_id)
        lease.opened.set()
        self._act(self._plan())
        self._report(TenantOpened(lease.tenant_id, backend, outcome, self._now() - started_seconds))

    def _hand_out(self, lease: Lease) -> None:
        lease.leases += 1  # the pool's own, so that the tenant becomes idle in one place only
        for waiter in lease.waiters:
            waiter.hand(lease)
        lease.waiters.clear()
        self.release(lease)

    async def _close(self, lease: Lease, reason: str) -> None:
        started_seconds = self._now()
        try:
            await lease.actor.aclose(self._close_timeout_seconds)
        except Exception as error:  # noqa: BLE001  # its place must come free; the lock keeps others off its file
            failure = error if isinstance(error, TenantryError) else unexpected_error(lease.tenant_id, error)
            self._log.failure(TENANT_CLOSE_FAILED, failure, tenant_id=lease.tenant_id, reason=reason)
        else:
            self._log.debug(TENANT_CLOSED, tenant_id=lease.tenant_id, reason=reason)
        del self._entries[lease.tenant_id]
        self._closing -= 1
        self._closed_by_reason[reason] += 1
        if lease.waiters:
            # They asked for it while it closed; they take their place at the end of those who wait.
            held = self._held.get(lease.tenant_id)
            queue = self._queue.setdefault(lease.tenant_id, deque()) if held is None else held.waiters
            queue.extend(lease.waiters)
        lease.closed.set()
        self._act(self._plan())
        self._report(
            TenantClosed(lease.tenant_id, lease.actor.backend, reason, self._now() - started_seconds)
        )

    def _lose_patience(self, waiter: Waiter) -> None:
        waiter.is_impatient = True
        self._act(self._plan())

    def _exhaust(self, tenant_id: TenantId, waiter: Waiter) -> None:
        if waiter.has_place or waiter.future.done():
            return
        held = self._held.get(tenant_id)
        if held is not None:
            waiter.fail(busy_error(tenant_id, held.action, self._wait_timeout_seconds))
            return
        waiter.fail(self._exhausted_error(tenant_id, "pool_wait_timeout_seconds", self._wait_timeout_seconds))

    def _exhausted_error(self, tenant_id: TenantId, limit: str, limit_value: float) -> PoolExhaustedError:
        self._exhausted += 1
        estimate = (len(self._queue) + 1) * self._seconds_per_place
        retry_after_seconds = min(max(estimate, _RETRY_AFTER_SECONDS_MIN), self._wait_timeout_seconds)
        return PoolExhaustedError(
            f"no place among the {self._open_tenants_max} open tenants for {tenant_id!r} ({limit} is {limit_value:g}): try "
            f"again in {retry_after_seconds:.2f} s, or raise open_tenants_max",
            tenant_id=tenant_id,
            limit=limit,
            limit_value=limit_value,
            retry_after_seconds=retry_after_seconds,
        )
