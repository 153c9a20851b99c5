"""Limits how many tenants use the disk at the same time; tenants get permits in or nearly in the order of their requests.

`FairLimiter` differs from ``anyio.CapacityLimiter`` in four points. Permits expire. A callback receives the permit, so no waiting
task must wake up. The limiter tells whether a tenant is alone. A borrower that is not ready can be overtaken.

Theory of operation. A tenant's batch holds a permit while it runs, for at most `PERMIT_SECONDS`. A longer batch continues without
its permit, and the next tenant in the queue gets a permit. A slow query or a runaway statement therefore delays other tenants by at
most `PERMIT_SECONDS`.

The number of batches without a permit is limited too. A tenant has one writer and ``readers_per_tenant`` readers, each reader or
writer runs one batch at a time, and at most ``open_tenants_max`` tenants are open. If a back end runs batches on threads, a batch
without a permit occupies an additional thread until the batch ends, at the latest at its deadline.

If a permit is free, a batch starts in its caller's own step of the event loop. A single timer, set for the oldest permit, serves
all permits.

The tenants of a database server share a few connections, and a tenant's batch is much faster on the connection that ran the tenant's
last batch (`tenantry.storage.protocol.Store.claim_connection`). A borrower whose connection is in use is not ready. If the first borrower
of the queue is not ready, the permit goes to the next one of the first `LOOK_AHEAD_BORROWERS` that is ready; if none is, it goes to
the first. A borrower gets its permit at most `OVERTAKES_MAX` permits after its turn, ready or not.

The limiter also tells whether a tenant is alone. A tenant that is not alone should run smaller batches and answer their callers in several
steps, because other tenants wait for the disk during a batch, and for the event loop while it continues the callers of a batch.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

from tenantry.config import RegistryConfig

PERMIT_SECONDS: Final = 0.1
ALONE_SECONDS: Final = 0.1
"""A tenant counts as alone if no other tenant got a permit during this time."""


LOOK_AHEAD_BORROWERS: Final = 64
"""The number of borrowers at the front of the queue that are searched for a borrower that is ready."""

OVERTAKES_MAX: Final = 64
"""The largest number of permits that other borrowers get before a borrower that is not ready, although its turn has come."""


class Permit:
    """The right to use the disk until `release` is called, for at most `PERMIT_SECONDS`.

    Attributes:
        expires_at: The time of expiry by the event loop's clock.
        is_shared: Whether several tenants got permits during the last `ALONE_SECONDS`.
    """

    __slots__ = ("_limiter", "expires_at", "is_shared")

    def __init__(self, limiter: "FairLimiter", expires_at: float, *, is_shared: bool) -> None:
        self._limiter = limiter
        self.expires_at = expires_at
        self.is_shared = is_shared

    def release(self) -> None:
        """Release the permit; a no-op if the permit was released or has expired."""
        self._limiter.release(self)


OnAcquired: TypeAlias = Callable[[Permit], None]
"""A function that receives a permit, and immediately releases the permit if the caller no longer waits."""


IsReady: TypeAlias = Callable[[], bool]
"""A function that returns whether a borrower should get a permit now. If it returns true, the borrower gets a permit next."""


def _is_always_ready() -> bool:
    return True


class _Waiting(NamedTuple):
    """A borrower in the queue; `turn` is the number of borrowers that asked before it."""

    borrower: object
    on_acquired: OnAcquired
    is_ready: IsReady
    turn: int


class FairLimiter:
    """A number of permits, and a queue of the borrowers that wait for a permit."""

    def __init__(self, permits_max: int) -> None:
        self._free = permits_max
        self._permits: dict[Permit, None] = {}  # the held permits, oldest first
        self._waiting: deque[_Waiting] = deque()
        self._asked = 0  # borrowers that have asked so far
        self._served = 0  # borrowers that have got a permit so far
        self._latest: object = None  # the borrower of the newest permit
        self._latest_since = -ALONE_SECONDS
        self._is_serving = False
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()  # a new context, because the timer serves all callers

    @property
    def is_full(self) -> bool:
        """Whether every permit is held."""
        return not self._free

    def is_shared_with(self, borrower: object) -> bool:
        """Return whether another borrower got a permit during the last `ALONE_SECONDS`."""
        now = asyncio.get_running_loop().time()
        return borrower is not self._latest or now < self._latest_since + ALONE_SECONDS

    def acquire(
        self, borrower: object, on_acquired: OnAcquired, is_ready: IsReady = _is_always_ready
    ) -> None:
        """Call `on_acquired` with a permit: immediately if a permit is free, otherwise in the order of the queue.

        Args:
            borrower: The borrower.
            on_acquired: The function that receives the permit.
            is_ready: Whether the borrower is ready; by default it always is.
        """
        self._waiting.append(_Waiting(borrower, on_acquired, is_ready, self._asked))
        self._asked += 1
        self._serve()

    @asynccontextmanager
    async def permit(self, borrower: object) -> AsyncIterator[None]:
        """Wait for a permit and hold it during the block. A caller that is cancelled while it waits holds no permit."""
        acquired: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        self.acquire(
            borrower, lambda permit: permit.release() if acquired.done() else acquired.set_result(permit)
        )
        try:
            await acquired
            yield
        finally:
            if acquired.done() and not acquired.cancelled():
                acquired.result().release()

    def release(self, permit: Permit) -> None:
        """See `Permit.release`."""
        if permit in self._permits:
            del self._permits[permit]
            self._free += 1
            if self._waiting:
                self._serve()

    def _serve(self) -> None:
        """Give the free permits to the queue; nested calls do nothing, so a long queue causes no deep recursion."""
        if self._is_serving:
            return
        self._is_serving = True
        try:
            while self._free and self._waiting:
                borrower, on_acquired, *_ = self._next()
                loop = asyncio.get_running_loop()
                now = loop.time()
                if borrower is not self._latest:
                    if self._latest is not None:
                        self._latest_since = now
                    self._latest = borrower
                permit = Permit(
                    self, now + PERMIT_SECONDS, is_shared=now < self._latest_since + ALONE_SECONDS
                )
                self._free -= 1
                self._permits[permit] = None
                if self._timer is None:
                    self._timer = loop.call_at(permit.expires_at, self._expire, context=self._context)
                on_acquired(permit)
        finally:
            self._is_serving = False

    def _next(self) -> _Waiting:
        """Remove the borrower from the queue that gets the next permit."""
        first = self._waiting[0]
        is_due = self._served - first.turn >= OVERTAKES_MAX
        self._served += 1
        if not is_due and not first.is_ready():
            for index, one in enumerate(islice(self._waiting, LOOK_AHEAD_BORROWERS)):
                if index and one.is_ready():
                    del self._waiting[index]
                    return one
        return self._waiting.popleft()

    def _expire(self) -> None:
        # `_timer` stays set until this function ends; otherwise a new permit would set a second timer.
        loop = asyncio.get_running_loop()
        while (oldest := next(iter(self._permits), None)) is not None:
            if oldest.expires_at > loop.time():
                self._timer = loop.call_at(oldest.expires_at, self._expire, context=self._context)
                return
            self.release(oldest)
        self._timer = None


@dataclass(frozen=True, slots=True)
class Limiters:
    """The limiters of concurrent batches of all tenants: one for writes and one for reads. Both may be the same limiter."""

    write: FairLimiter
    read: FairLimiter

    @classmethod
    def of(cls, config: RegistryConfig) -> "Limiters":
        """Return limiters with the limits of the settings."""
        return cls(FairLimiter(config.write_jobs_max), FairLimiter(config.read_jobs_max))

    @classmethod
    def of_server(cls, config: RegistryConfig, connections_max: int) -> "Limiters":
        """Return the limiters for the tenants of a database server: one for writes and reads, because both take the same connections.

        So many writes can use the connections of reads while there are no reads. A batch does not wait for a connection after it has
        its permit, unless transactions have taken more connections than the spare ones.

        Args:
            config: The settings; as many batches run at the same time as the larger of ``write_jobs_max`` and ``read_jobs_max``.
            connections_max: The largest number of connections, which is also a limit.
        """
        both = FairLimiter(min(connections_max, max(config.write_jobs_max, config.read_jobs_max)))
        return cls(both, both)
