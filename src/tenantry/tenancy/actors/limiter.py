"""A tenant's turn at a gate that all tenants share: how many of them use the disk at once, first come first served.

Theory of operation. Who has a place at the gate keeps it while it works, but no longer than a turn; what takes longer goes
on without, and the next in line comes in. So a slow query, or a statement that runs away, costs the other tenants one
turn and not its whole length.

That is safe because the gate only keeps short work from crowding the disk. What is bounded for safety is bounded elsewhere:
a tenant has one writer and ``readers_per_tenant`` readers, each runs one batch at a time, and at most ``open_tenants_max``
tenants are open. So what runs without a place is never more than their connections, each such job has a thread of its own
while it lasts (`tenantry.storage.sqlite.thread_pool`), and ends at its deadline at the latest, when it is interrupted.

A turn is given by a call and not by waking a task: a batch that finds a place free is on its way to the disk before its
caller has stopped to wait for it. One timer looks after the turn that began first.

The gate also knows whether a tenant has it to itself: one that has not should take smaller batches, for what its
neighbours notice of it is how long the event loop is busy with the callers of one batch.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

from tenantry.errors import TenantError

TURN_SECONDS: Final = 0.1
ALONE_SECONDS: Final = 0.1
"""After so long without a turn of anybody else's a tenant has the gate to itself."""


class Turn:
    """A place at the gate, held until `end` is called and for `TURN_SECONDS` at most.

    Attributes:
        ends_at: By the loop's clock.
        is_shared: Whether turns of more than one tenant began lately.
    """

    __slots__ = ("_gate", "ends_at", "is_shared")

    def __init__(self, gate: "Gate", ends_at: float, *, is_shared: bool) -> None:
        self._gate = gate
        self.ends_at = ends_at
        self.is_shared = is_shared

    def end(self) -> None:
        """Give the place back; a no-op when it was given back."""
        self._gate.end(self)


Begin: TypeAlias = Callable[[Turn], None]
"""What to do with the turn; it may end it at once, because whoever asked has gone meanwhile."""


class Gate:
    """So many places, and who waits for one.

    Args:
        places: How many turns there are at once.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._turns: dict[Turn, None] = {}  # in the order in which they began
        self._waiting: deque[tuple[object, Begin]] = deque()
        self._latest: object = None  # whose turn was the latest to begin
        self._latest_since = -ALONE_SECONDS
        self._is_serving = False
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()  # not that of whoever happened to set the timer

    @property
    def is_full(self) -> bool:
        """Whether every place is taken."""
        return not self._free

    def ask(self, who: object, begin: Begin) -> None:
        """Have `begin` called with a turn: now if a place is free, or else when this one is the first in line.

        Args:
            who: Whose turn it is; the same object each time.
            begin: Takes the turn.
        """
        self._waiting.append((who, begin))
        self._serve()

    @asynccontextmanager
    async def turn(self, who: object) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the block. Cancelled while it waits it holds nothing.

        Args:
            who: Whose turn it is.
        """
        came: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self.ask(who, lambda turn: turn.end() if came.done() else came.set_result(turn))
        try:
            await came
            yield
        finally:
            if came.done() and not came.cancelled():
                came.result().end()

    def end(self, turn: Turn) -> None:
        """See `Turn.end`."""
        if turn in self._turns:
            del self._turns[turn]
            self._free += 1
            self._serve()

    def _serve(self) -> None:
        """Let in who waits; not from within itself, or a long line would become as deep a recursion."""
        if self._is_serving:
            return
        self._is_serving = True
        try:
            while self._free and self._waiting:
                who, begin = self._waiting.popleft()
                loop = asyncio.get_running_loop()
                now = loop.time()
                if who is not self._latest:
                    if self._latest is not None:
                        self._latest_since = now
                    self._latest = who
                turn = Turn(self, now + TURN_SECONDS, is_shared=now < self._latest_since + ALONE_SECONDS)
                self._free -= 1
                self._turns[turn] = None
                if self._timer is None:
                    self._timer = loop.call_at(turn.ends_at, self._expire, context=self._context)
                begin(turn)
        finally:
            self._is_serving = False

    def _expire(self) -> None:
        # `_timer` stays set until the end, so that a turn that begins meanwhile sets no second one.
        loop = asyncio.get_running_loop()
        while (oldest := next(iter(self._turns), None)) is not None:
            if oldest.ends_at > loop.time():
                self._timer = loop.call_at(oldest.ends_at, self._expire, context=self._context)
                return
            self.end(oldest)
        self._timer = None


def another_loop_error(tenant_id: str) -> TenantError:
    """Return the error for a call from another event loop: futures cannot be awaited across loops, it would hang."""
    return TenantError(
        "the registry belongs to another event loop: call it on the loop, and in the thread, that opened it "
        "(asyncio.run_coroutine_threadsafe)",
        tenant_id=tenant_id,
    )
