"""Blocking work on a thread that ends with it."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import anyio

T = TypeVar("T")


async def run_in_thread(work: Callable[[], T]) -> T:
    """Run `work` on a thread of its own and return its result.

    For the few things that block and have no connection's thread to run on. The worker threads of anyio and asyncio
    would stay behind when the registry closes, and after that there is to be no thread.

    Cancellation waits for the work's end.
    """
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tenantry")
    result = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        # Waited for and not joined: joining a thread that works would stop the whole event loop.
        await asyncio.wait([result])
    except asyncio.CancelledError:
        # Cancelled again and again, maybe: anyio's scopes do so at every wait.
        with anyio.CancelScope(shield=True):
            while not result.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([result])
        raise
    finally:
        executor.shutdown()
    return await result
