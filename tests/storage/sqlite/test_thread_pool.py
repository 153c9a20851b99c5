"""The threads that all connections share: order, turns, what a job that hangs costs the others, and the end."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from engines import engine_module
from stores import HANG_SECONDS, reached
from tenantry.storage.sqlite.connections.thread_pool import SerialQueue, ThreadPool
from tenants import threads_since

pytestmark = pytest.mark.usefixtures("each_engine")


def put(queue: SerialQueue, function: Callable[[], Any]) -> "asyncio.Future[Any]":
    """Give a queue a job and return the future of its result."""
    future = asyncio.get_running_loop().create_future()
    queue.put_nowait((future, function))
    return future


async def test_a_connections_jobs_run_in_order_and_one_at_a_time():
    """Whichever threads they run on, no two jobs of a queue meet; other queues' jobs run beside them."""
    pool = ThreadPool("test", 4, engine_module())
    queues = [pool.register() for _ in range(8)]
    done: list[list[int]] = [[] for _ in queues]
    inside = [threading.Lock() for _ in queues]

    def job(n: int, number: int) -> None:
        assert inside[n].acquire(blocking=False)
        done[n].append(number)
        inside[n].release()

    jobs = [
        put(queue, lambda n=n, number=number: job(n, number))
        for number in range(50)
        for n, queue in enumerate(queues)
    ]
    await asyncio.gather(*jobs)
    assert done == [list(range(50))] * len(queues)
    assert [queue.qsize() for queue in queues] == [0] * len(queues)
    for _ in queues:
        pool.unregister()


async def test_strands_take_turns():
    """One with much to do goes to the end of the line after each job: a newcomer waits for one and not for all."""
    pool = ThreadPool("test", 1, engine_module())
    busy, other = pool.register(), pool.register()
    order: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go_on.wait(HANG_SECONDS)

    jobs = [put(busy, hold)]
    await reached(begun.is_set)
    jobs += [put(busy, lambda n=n: order.append(f"busy {n}")) for n in range(3)]
    jobs.append(put(other, lambda: order.append("other")))
    go_on.set()
    await asyncio.gather(*jobs)
    assert order == ["other", "busy 0", "busy 1", "busy 2"]
    pool.unregister()
    pool.unregister()


async def test_jobs_that_hang_hold_nobody_up():
    """Each thread whose job takes longer than a turn is replaced, and ends with its job."""
    threads = set(threading.enumerate())
    pool = ThreadPool("test", 2, engine_module())
    hanging = [pool.register() for _ in range(3)]
    other = pool.register()
    go_on = threading.Event()
    held = [put(queue, lambda: go_on.wait(HANG_SECONDS)) for queue in hanging]
    async with asyncio.timeout(HANG_SECONDS):
        job = put(other, lambda: "served")
        pool.watch()
        assert await job == "served"
    await reached(lambda: len(threads_since(threads)) == 2 + len(hanging))
    go_on.set()
    assert await asyncio.gather(*held) == [True] * 3
    await reached(lambda: len(threads_since(threads)) == 2)
    for _ in range(4):
        pool.unregister()
    assert threads_since(threads) == []


async def test_the_threads_end_with_the_last_connection():
    """No more threads than connections, none without any; and a pool can be used again, on this loop or another."""
    threads = set(threading.enumerate())
    pool = ThreadPool("test", 3, engine_module())

    async def use() -> None:
        queues = [pool.register()]
        assert len(threads_since(threads)) == 1
        queues += [pool.register() for _ in range(4)]
        assert len(threads_since(threads)) == 3
        assert await asyncio.gather(*(put(queue, lambda: 1) for queue in queues)) == [1] * 5
        for _ in queues:
            assert len(threads_since(threads)) == 3
            pool.unregister()
        assert threads_since(threads) == []

    await use()
    await use()


async def test_what_a_job_raises_is_its_callers():
    """The thread goes on, even where what was raised would end a thread of anyone else's."""
    pool = ThreadPool("test", 1, engine_module())
    queue = pool.register()
    for error in (ValueError("no"), SystemExit(1), KeyboardInterrupt()):
        job = put(queue, lambda error=error: (_ for _ in ()).throw(error))
        await asyncio.wait([job])
        assert job.exception() is error
    assert await put(queue, lambda: "next") == "next"
    pool.unregister()


def test_a_caller_whose_loop_is_closed():
    """Nobody waits for the result any more; the thread serves the next one all the same."""
    pool = ThreadPool("test", 1, engine_module())
    queue = pool.register()
    go_on = threading.Event()

    async def ask_and_leave() -> None:
        put(queue, lambda: go_on.wait(HANG_SECONDS))

    async def ask() -> Any:
        return await put(queue, lambda: "next")

    asyncio.run(ask_and_leave())
    go_on.set()
    assert asyncio.run(ask()) == "next"
    pool.unregister()


async def test_a_job_whose_caller_has_gone():
    """A cancelled future is left as it is."""
    pool = ThreadPool("test", 1, engine_module())
    queue = pool.register()
    done: list[int] = []
    gone = put(queue, lambda: done.append(1))
    gone.cancel()
    assert await put(queue, lambda: 2) == 2
    assert done == [1]
    with pytest.raises(asyncio.CancelledError):
        await gone
    pool.unregister()
