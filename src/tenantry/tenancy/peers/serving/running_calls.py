"""The calls of one connection that have no answer yet."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from tenantry.tenancy.peers.serving.served_call import ServedCall

Running: TypeAlias = "ServedCall | asyncio.Task[None]"
"""A call in a tenant's mailbox, or a task."""


class RunningCalls:
    """The running calls, by their numbers.

    Args:
        calls_max: The number of calls at which no more calls may be read, until half of them have their answers.
        on_full: The function that is called when `is_full` has changed.
    """

    def __init__(self, calls_max: int, on_full: Callable[[], None]) -> None:
        self._calls_max = calls_max
        self._on_full = on_full
        self._calls: dict[int, Running] = {}
        self.is_full = False

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, call: object) -> bool:
        return call in self._calls

    def add(self, call: int, running: Running) -> None:
        """Add a call."""
        self._calls[call] = running
        if len(self._calls) >= self._calls_max:
            self.is_full = True
            self._on_full()

    def remove(self, call: int) -> None:
        """Remove a call that has its answer; a no-op if it was removed before."""
        self._calls.pop(call, None)
        if self.is_full and len(self._calls) <= self._calls_max // 2:
            self.is_full = False
            self._on_full()

    def start(self, call: int, work: Coroutine[Any, Any, None]) -> None:
        """Do the work of a call in a task."""
        task = asyncio.get_running_loop().create_task(work)
        if not task.done():  # an eager task may have ended, and another call may have its number now
            self.add(call, task)
            task.add_done_callback(partial(self._forget, call))

    def give_up(self, call: int) -> None:
        """Take a call back from the tenant's mailbox at once, or cancel its task; a no-op if the call has ended."""
        running = self._calls.get(call)
        if running is not None:
            running.cancel()

    def give_up_all(self) -> None:
        """Give every call up."""
        for call in list(self._calls):
            self.give_up(call)

    def _forget(self, call: int, task: "asyncio.Future[Any]") -> None:
        if self._calls.get(call) is task:
            self.remove(call)
