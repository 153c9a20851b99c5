"""Work that whoever asks for it shares with all others who do: anyone may ask, as often as they like, and it costs once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from tenantry.clock import Clock, SystemClock

ResultT = TypeVar("ResultT")


class SingleFlight(Generic[ResultT]):
    """Does its work once for all who ask while it is done, and for a while afterwards.

    A caller that is cancelled does not stop it.

    Args:
        work: Does it.
        kept_seconds: For how long its result is given again.
        clock: For that.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[ResultT]],
        *,
        kept_seconds: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self._work = work
        self._kept_seconds = kept_seconds
        self._now = (clock or SystemClock()).monotonic_seconds
        self._task: asyncio.Task[ResultT] | None = None
        self._kept_until = 0.0

    async def __call__(self) -> ResultT:
        """Return the result; raise what the work does, which is not kept."""
        if self._task is None or (self._task.done() and self._now() >= self._kept_until):
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(self._task)

    async def _run(self) -> ResultT:
        self._kept_until = 0.0
        result = await self._work()
        self._kept_until = self._now() + self._kept_seconds
        return result
