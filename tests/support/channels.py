"""What the tests of the channel share: a scripted runner, and a channel with calls as tasks.

Import it by name (``tests/support`` is on pytest's path): ``from channels import Bench``.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tenantry.tenancy.actors.channel import (
    Channel,
    ChannelLimits,
    ChannelStatistics,
)
from tenantry.tenancy.actors.limiter import FairLimiter
from tenants import LoopClock, Recorder, settle

if TYPE_CHECKING:
    from tenantry.errors import (
        TenantryError,
    )

CALL_TIMEOUT_SECONDS = 30.0


class ScriptedRunner:
    """Keeps each batch until the test answers it."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.interrupted: list[list[Any]] = []
        self.on_begin: Callable[[], object] = lambda: None
        self._running: deque[asyncio.Future[Any]] = deque()

    async def __call__(self, requests: Sequence[Any]) -> list[Any]:
        batch = list(requests)
        self.batches.append(batch)
        self.on_begin()
        answer = asyncio.get_running_loop().create_future()
        self._running.append(answer)
        try:
            outcomes: list[Any] | None = await answer
        except asyncio.CancelledError:
            self._running.remove(answer)
            self.interrupted.append(batch)
            raise
        return [f"did {request}" for request in requests] if outcomes is None else outcomes

    async def finish(self, *outcomes: Any) -> None:
        """Answer the batch that has run longest; every request did well unless the outcomes are given."""
        self._running.popleft().set_result(list(outcomes) or None)
        await settle()

    async def fail(self, error: Exception) -> None:
        """Raise out of the batch that has run longest."""
        self._running.popleft().set_exception(error)
        await settle()

    @property
    def running(self) -> int:
        """How many batches have no answer yet."""
        return len(self._running)


class Bench:
    """A channel with everything around it, and calls as tasks."""

    def __init__(
        self,
        *,
        requests_max: int = 100,
        batch_requests_max: int = 10,
        shared_batch_requests_max: int = 16,
        workers: int = 1,
        second_batch_requests_min: int = 1,
        is_interrupted_early: bool = False,
        limiter: FairLimiter | None = None,
        is_ready: Callable[[], bool] = lambda: True,
        name: str = "write",
        tenant_id: str = "acme",
    ) -> None:
        self.run = ScriptedRunner()
        self.hook = Recorder()
        self.errors: list[TenantryError] = []
        self.channel = Channel(
            name,
            tenant_id=tenant_id,
            backend="fake",
            run=self.run,
            limits=ChannelLimits(
                requests_max,
                batch_requests_max,
                shared_batch_requests_max,
                CALL_TIMEOUT_SECONDS,
                workers,
                second_batch_requests_min,
                is_interrupted_early=is_interrupted_early,
            ),
            limiter=limiter or FairLimiter(8),
            is_ready=is_ready,
            clock=LoopClock(),
            report=self.hook,
            on_error=self.errors.append,
        )

    async def call(self, *requests: Any) -> "list[asyncio.Task[Any]]":
        """Start a call for each request and return their tasks once everybody waits."""
        tasks = [asyncio.ensure_future(self.channel.call(f"op.{request}", request)) for request in requests]
        await settle()
        return tasks

    async def share(self, *requests: Any) -> "list[asyncio.Task[Any]]":
        """Start a call for each request, all in one batch: they gather behind a first one, which is answered."""
        await self.call("first")
        tasks = await self.call(*requests)
        await self.run.finish()
        return tasks

    @property
    def statistics(self) -> ChannelStatistics:
        """The channel's counters."""
        return self.channel.statistics()


async def results(tasks: "Sequence[asyncio.Future[Any]]") -> list[Any]:
    """Return each task's result or error."""
    return await asyncio.gather(*tasks, return_exceptions=True)
