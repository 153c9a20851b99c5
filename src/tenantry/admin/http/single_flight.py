"""Single flight: concurrent callers share one run of the same work."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from tenantry.clock import Clock, SystemClock

ResultT = TypeVar("ResultT")


class SingleFlight(Generic[ResultT]):
    """Runs work once for all concurrent callers, and reuses the result for later callers for a short time.

    Cancelling a caller does not stop the work.

    Args:
        kept_seconds: The time for which a result is reused.
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
        """Return the result of the work. If the work fails, raise its error to the concurrent callers only."""
        if self._task is None or (self._task.done() and self._now() >= self._kept_until):
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(self._task)

    async def _run(self) -> ResultT:
        self._kept_until = 0.0
        result = await self._work()
        self._kept_until = self._now() + self._kept_seconds
        return result
