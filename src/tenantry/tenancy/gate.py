"""A tenant's turn at a gate that all tenants share: how many of them use the disk at once, first come first served.

Theory of operation. Who has a place at the gate keeps it while it works, but no longer than a turn; what takes longer goes
on without, and the next in line comes in. So a slow query, or a statement that runs away, costs the other tenants one
turn and not its whole length.

That is safe because the gate only keeps short work from crowding the disk. What is bounded for safety is bounded elsewhere:
a tenant has one writer and ``readers_per_tenant`` readers, each runs one batch at a time on a thread of its own, and there
are at most ``open_tenants_max`` of them. So what runs without a place is never more than the threads of the open tenants,
and each of it ends at its own deadline at the latest, when it is interrupted.
"""

import asyncio
from types import TracebackType
from typing import Final

from tenantry.errors import TenantError

TURN_SECONDS: Final = 0.1


class Turn:
    """An asynchronous context manager: wait for a place at the gate, and hold it for the block but for one turn at most.

    Cancelled while it waits it holds nothing.

    Args:
        gate: Its places.
    """

    __slots__ = ("_gate", "_timer")

    def __init__(self, gate: asyncio.Semaphore) -> None:
        self._gate = gate
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._gate.acquire()
        self._timer = asyncio.get_running_loop().call_later(TURN_SECONDS, self._end)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        """Give the place back, once: when the turn is over or the block is, whichever comes first."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._gate.release()


def another_loop_error(tenant_id: str) -> TenantError:
    """Return the error for a call from another event loop: futures cannot be awaited across loops, it would hang."""
    return TenantError(
        "the registry belongs to another event loop: call it on the loop, and in the thread, that opened it "
        "(asyncio.run_coroutine_threadsafe)",
        tenant_id=tenant_id,
    )
