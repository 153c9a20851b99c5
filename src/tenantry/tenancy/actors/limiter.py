"""Limits how many tenants use the disk at once, fairly: first come, first served.

`FairLimiter` is a relative of ``anyio.CapacityLimiter``. It differs in three points: a permit expires, it is handed over by a
callback instead of by waking a task, and the limiter tells whether a tenant is alone.

Theory of operation. A batch of a tenant holds a permit while it runs, for `PERMIT_SECONDS` at most. A batch that takes longer
continues without its permit, and the next tenant in the queue gets one. So a slow query, or a runaway statement, delays the other
tenants by the life of one permit and not by its own length.

That is safe because the limiter only keeps short work from crowding the disk. The limits that safety depends on are elsewhere:
a tenant has one writer and ``readers_per_tenant`` readers, each runs one batch at a time, and at most ``open_tenants_max``
tenants are open. So there are never more batches without a permit than connections of these tenants. Where a back end
runs batches on threads, each such batch has an extra one while it lasts. It is interrupted at its deadline at the latest.

A batch that finds a permit free is handed to the disk in its caller's own step of the event loop. One timer serves the permits: it
is set for the oldest.

The limiter also tells whether a tenant is alone. One that is not should run smaller batches, because its neighbours are delayed
by the time that the event loop needs to answer the callers of one batch.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from tenantry.config import RegistryConfig

PERMIT_SECONDS: Final = 0.1
ALONE_SECONDS: Final = 0.1
"""A tenant is alone when no other tenant got a permit for this long."""


class Permit:
    """The right to use the disk, held until `release` is called and for `PERMIT_SECONDS` at most.

    Attributes:
        expires_at: By the loop's clock.
        is_shared: Whether more than one tenant got permits lately.
    """

    __slots__ = ("_limiter", "expires_at", "is_shared")

    def __init__(self, limiter: "FairLimiter", expires_at: float, *, is_shared: bool) -> None:
        self._limiter = limiter
        self.expires_at = expires_at
        self.is_shared = is_shared

    def release(self) -> None:
        """Release the permit; a no-op if it was released or has expired."""
        self._limiter.release(self)


OnAcquired: TypeAlias = Callable[[Permit], None]
"""Takes a permit; may release it at once, because the caller that asked for it has gone."""


class FairLimiter:
    """A number of permits, and a queue of the borrowers that wait for one."""

    def __init__(self, permits_max: int) -> None:
        self._free = permits_max
        self._permits: dict[Permit, None] = {}  # those that are held, oldest first
        self._waiting: deque[tuple[object, OnAcquired]] = deque()
        self._latest: object = None  # the borrower of the newest permit
        self._latest_since = -ALONE_SECONDS
        self._is_serving = False
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()  # not the context of the caller that happened to set the timer

    @property
    def is_full(self) -> bool:
        """Whether every permit is held."""
        return not self._free

    def acquire(self, borrower: object, on_acquired: OnAcquired) -> None:
        """Call `on_acquired` with a permit: now if one is free, else when this borrower is the first in the queue."""
        self._waiting.append((borrower, on_acquired))
        self._serve()

    @asynccontextmanager
    async def permit(self, borrower: object) -> AsyncIterator[None]:
        """Wait for a permit and hold it for the block. A caller that is cancelled while it waits holds nothing."""
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
            self._serve()

    def _serve(self) -> None:
        """Give the free permits to the queue; not from within itself, or a long queue would become a deep recursion."""
        if self._is_serving:
            return
        self._is_serving = True
        try:
            while self._free and self._waiting:
                borrower, on_acquired = self._waiting.popleft()
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

    def _expire(self) -> None:
        # `_timer` stays set until the end, so that a permit that is given meanwhile sets no second one.
        loop = asyncio.get_running_loop()
        while (oldest := next(iter(self._permits), None)) is not None:
            if oldest.expires_at > loop.time():
                self._timer = loop.call_at(oldest.expires_at, self._expire, context=self._context)
                return
            self.release(oldest)
        self._timer = None


@dataclass(frozen=True, slots=True)
class Limiters:
    """How many batches of all tenants run at once, those that write and those that read."""

    write: FairLimiter
    read: FairLimiter

    @classmethod
    def of(cls, config: RegistryConfig) -> "Limiters":
        """Return the limiters that the settings ask for."""
        return cls(FairLimiter(config.write_jobs_max), FairLimiter(config.read_jobs_max))
