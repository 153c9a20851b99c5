"""Blocking work on a thread that ends with it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def run_in_thread(work: Callable[[], T]) -> T:
    """Run `work` on a thread of its own and return its result.

    For the few things that block and have no connection's thread to run on. The worker threads of anyio and asyncio
    would stay behind when the registry closes, and after that there is to be no thread.

    Cancellation waits for the work's end.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tenantry") as executor:
        return await asyncio.get_running_loop().run_in_executor(executor, work)
