"""Runs blocking work on a thread that ends when the work ends."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import anyio

from tenantry.errors import PersistenceConnectionError

P = ParamSpec("P")
T = TypeVar("T")

_work = threading.local()


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that runs in this thread.

    Raises:
        PersistenceConnectionError: No event loop of asyncio runs in this thread.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise PersistenceConnectionError(
            "tenantry runs on asyncio, and no asyncio event loop runs here: run the program with asyncio.run(), or with "
            "anyio.run(…, backend='asyncio'), not with trio",
            is_retryable=False,
        ) from error


async def run_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` with these arguments on a new thread, and return its result.

    Use this function for blocking work without a database connection. The thread pools of anyio and asyncio are not used, because
    their threads would still run after the registry was closed.

    A cancelled caller waits until the work has ended. Long work should therefore call `is_cancelled` regularly and end early.
    """
    cancelled = threading.Event()

    def run() -> T:
        _work.cancelled = cancelled
        return work(*args, **kwargs)

    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tenantry")
    result = asyncio.get_running_loop().run_in_executor(executor, run)
    try:
        # Wait for the future, because joining the thread would block the event loop.
        await asyncio.wait([result])
    except asyncio.CancelledError:
        cancelled.set()
        # The task may be cancelled more than once, because a cancelled scope of anyio cancels the task again at every wait.
        with anyio.CancelScope(shield=True):
            while not result.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([result])
        # The caller raises the cancellation. Without this call asyncio would log that the work's exception was never retrieved.
        result.exception()
        raise
    finally:
        executor.shutdown()
    return await result


@contextlib.contextmanager
def cancelled_by(event: threading.Event) -> Iterator[None]:
    """During the block, let `is_cancelled` on this thread return whether the event is set."""
    _work.cancelled = event
    try:
        yield
    finally:
        _work.cancelled = None


def in_thread(work: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a coroutine function that runs `work` with `run_in_thread`."""

    @wraps(work)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await run_in_thread(work, *args, **kwargs)

    return run


def is_cancelled() -> bool:
    """Return whether this thread's work is cancelled: `run_in_thread` was cancelled, or the event of `cancelled_by` is set."""
    cancelled: threading.Event | None = getattr(_work, "cancelled", None)
    return cancelled is not None and cancelled.is_set()


def check_cancelled() -> None:
    """Raise an error if the caller of `run_in_thread` was cancelled, to end the work on this thread.

    Raises:
        CancelledWorkError: The caller was cancelled.
    """
    if is_cancelled():
        raise CancelledWorkError("the work was cancelled")


class CancelledWorkError(Exception):
    """Ends the work of a thread after the work was cancelled."""
