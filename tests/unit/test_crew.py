"""The threads that all connections share: order, turns, what a job that hangs costs the others, and the end."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stores import HANG_SECONDS, reached
from tenantry.storage.sqlite.thread_pool import Crew, Strand


def put(strand: Strand, function: Callable[[], Any]) -> "asyncio.Future[Any]":
    """Give a strand a job and return the future of its result."""
    future = asyncio.get_running_loop().create_future()
    strand.put_nowait((future, function))
    return future


async def test_a_connections_jobs_run_in_order_and_one_at_a_time():
    """Whichever threads they run on, no two jobs of a strand meet; other strands' jobs run beside them."""
    crew = Crew("test", 4)
    strands = [crew.join() for _ in range(8)]
    done: list[list[int]] = [[] for _ in strands]
    inside = [threading.Lock() for _ in strands]

    def job(n: int, number: int) -> None:
        assert inside[n].acquire(blocking=False)
        done[n].append(number)
        inside[n].release()

    jobs = [
        put(strand, lambda n=n, number=number: job(n, number))
        for number in range(50)
        for n, strand in enumerate(strands)
    ]
    await asyncio.gather(*jobs)
    assert done == [list(range(50))] * len(strands)
    assert [strand.qsize() for strand in strands] == [0] * len(strands)
    for _ in strands:
        crew.leave()


async def test_strands_take_turns():
    """One with much to do goes to the end of the line after each job: a newcomer waits for one and not for all."""
    crew = Crew("test", 1)
    busy, other = crew.join(), crew.join()
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
    crew.leave()
    crew.leave()


async def test_jobs_that_hang_hold_nobody_up():
    """Each thread whose job takes longer than a turn is replaced, and ends with its job."""
    threads = threading.active_count()
    crew = Crew("test", 2)
    hanging = [crew.join() for _ in range(3)]
    other = crew.join()
    go_on = threading.Event()
    held = [put(strand, lambda: go_on.wait(HANG_SECONDS)) for strand in hanging]
    async with asyncio.timeout(HANG_SECONDS):
        assert await put(other, lambda: "served") == "served"
    await reached(lambda: threading.active_count() == threads + 2 + len(hanging))
    go_on.set()
    assert await asyncio.gather(*held) == [True] * 3
    await reached(lambda: threading.active_count() == threads + 2)
    for _ in range(4):
        crew.leave()
    assert threading.active_count() == threads


async def test_the_threads_end_with_the_last_connection():
    """No more threads than connections, none without any; and a crew can be used again, on this loop or another."""
    threads = threading.active_count()
    crew = Crew("test", 3)

    async def use() -> None:
        strands = [crew.join()]
        assert threading.active_count() == threads + 1
        strands += [crew.join() for _ in range(4)]
        assert threading.active_count() == threads + 3
        assert await asyncio.gather(*(put(strand, lambda: 1) for strand in strands)) == [1] * 5
        for _ in strands:
            assert threading.active_count() == threads + 3
            crew.leave()
        assert threading.active_count() == threads

    await use()
    await use()


async def test_what_a_job_raises_is_its_callers():
    """The thread goes on, even where what was raised would end a thread of anyone else's."""
    crew = Crew("test", 1)
    strand = crew.join()
    for error in (ValueError("no"), SystemExit(1), KeyboardInterrupt()):
        job = put(strand, lambda error=error: (_ for _ in ()).throw(error))
        await asyncio.wait([job])
        assert job.exception() is error
    assert await put(strand, lambda: "next") == "next"
    crew.leave()


def test_a_caller_whose_loop_is_closed():
    """Nobody waits for the result any more; the thread serves the next one all the same."""
    crew = Crew("test", 1)
    strand = crew.join()
    go_on = threading.Event()

    async def ask_and_leave() -> None:
        put(strand, lambda: go_on.wait(HANG_SECONDS))

    async def ask() -> Any:
        return await put(strand, lambda: "next")

    asyncio.run(ask_and_leave())
    go_on.set()
    assert asyncio.run(ask()) == "next"
    crew.leave()


async def test_a_job_whose_caller_has_gone():
    """A cancelled future is left as it is."""
    crew = Crew("test", 1)
    strand = crew.join()
    done: list[int] = []
    gone = put(strand, lambda: done.append(1))
    gone.cancel()
    assert await put(strand, lambda: 2) == 2
    assert done == [1]
    with pytest.raises(asyncio.CancelledError):
        await gone
    crew.leave()
