"""Blocking work on a thread that ends with it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import anyio

from tenantry.errors import PersistenceConnectionError

T = TypeVar("T")

_work = threading.local()


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that runs in this thread.

    Raises:
        PersistenceConnectionError: None runs, or one of another library.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise PersistenceConnectionError(
            "tenantry runs on asyncio, and no asyncio event loop runs here: run the program with asyncio.run(), or with "
            "anyio.run(…, backend='asyncio'), not with trio",
            is_retryable=False,
        ) from error


async def run_in_thread(work: Callable[[], T]) -> T:
    """Run `work` on a thread of its own and return its result.

    For the few things that block and have no connection's thread to run on. The worker threads of anyio and asyncio
    would stay behind when the registry closes, and after that there is to be no thread.

    Cancellation waits for the work's end. Work that can be long asks `is_cancelled` from time to time and ends early.
    """
    cancelled = threading.Event()

    def run() -> T:
        _work.cancelled = cancelled
        return work()

    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tenantry")
    result = asyncio.get_running_loop().run_in_executor(executor, run)
    try:
        # Waited for and not joined: joining a thread that works would stop the whole event loop.
        await asyncio.wait([result])
    except asyncio.CancelledError:
        cancelled.set()
        # Cancelled again and again, maybe: anyio's scopes do so at every wait.
        with anyio.CancelScope(shield=True):
            while not result.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([result])
        # Retrieved, because asyncio reports exceptions that nobody retrieves; the caller raises its cancellation instead.
        result.exception()
        raise
    finally:
        executor.shutdown()
    return await result


def is_cancelled() -> bool:
    """Return whether the caller of `run_in_thread` that this thread works for was cancelled; False on other threads."""
    cancelled: threading.Event | None = getattr(_work, "cancelled", None)
    return cancelled is not None and cancelled.is_set()


def check_cancelled() -> None:
    """End this thread's work if its caller was cancelled.

    Raises:
        CancelledWorkError: It was.
    """
    if is_cancelled():
        raise CancelledWorkError("the work was cancelled")


class CancelledWorkError(Exception):
    """Ends work that nobody waits for any more. It never leaves `run_in_thread`, whose caller raises its cancellation."""
