"""Batches of the engine and the event loops that wait for them: closing, cancelling, loops that end early, and forks."""

import asyncio
import gc
import os
import sqlite3
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from typing import Any

import pytest

from engine_oracle import Oracle
from engine_rig import counted, needed_engine
from open_file_limits import open_files_limited_to
from stores import COUNT_TO_A_BILLION, HANG_SECONDS, reached, rows, run
from tenantry.errors import PersistenceConnectionError
from tenantry.prompt_future import PromptFuture
from tenantry.sql.statements import Statement
from tenantry.storage.sqlite.connections.connection import JobConnection, NativeOpening
from tenantry.storage.sqlite.connections.pace import LONG_JOB_SECONDS
from tenantry.storage.sqlite.connections.thread_pool import ThreadPool
from tenantry.storage.sqlite.engine.native import READ, WRITE, outlet

INSERT = (run("INSERT INTO t (value) VALUES (1)"),)
COUNT = rows("SELECT count(*) FROM t")


class Hold:
    """An SQL function that blocks its statement until the test goes on."""

    def __init__(self) -> None:
        self.is_reached = threading.Event()
        self.goes_on = threading.Event()

    def __call__(self) -> int:
        """Block."""
        self.is_reached.set()
        assert self.goes_on.wait(HANG_SECONDS)
        return 1


def connect(hold: Callable[[], int]) -> sqlite3.Connection:
    """Return a connection with a table and the function `hold`."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.execute("CREATE TABLE t (value)")
    connection.create_function("hold", 0, hold)
    return connection


@asynccontextmanager
async def opened(
    hold: Callable[[], int] = int, pool: ThreadPool | None = None
) -> AsyncIterator[JobConnection]:
    """Open a connection whose batches run in the engine."""
    pool = pool or ThreadPool("test", 1, needed_engine())
    connection = await JobConnection.open(partial(connect, hold), pool)
    connection.use_engine(None)
    try:
        yield connection
    finally:
        await connection.aclose()


def in_python() -> str:
    """Run instead of a batch."""
    return "in python"


def submit(connection: JobConnection, kind: int, *units: Any) -> "asyncio.Future[Any]":
    """Submit a batch, whose future has the batch's results."""
    Oracle.know(unit for unit in units if isinstance(unit, Statement))
    Oracle.know(statement for unit in units if not isinstance(unit, Statement) for statement in unit)
    batch = connection.batch(kind, list(units))
    return connection.submit_batch(batch, in_python, lambda ended: ended.results())


async def test_closing_waits_for_batches():
    """Closing a connection lets the waiting batches run, refuses new ones, and every caller has its answer."""
    async with opened() as connection:
        with counted(needed_engine(), ended=20):
            writes = [submit(connection, WRITE, INSERT) for _ in range(20)]
            closing = asyncio.ensure_future(connection.aclose())
            assert await asyncio.gather(*writes) == [[[None]]] * 20
            await closing
        assert connection.batch(READ, [COUNT]) is None


async def test_waiting_and_running_batches_are_cancelled():
    """A cancelled batch ends at once or soon, and the batches around it are not touched."""
    async with opened() as connection:
        with counted(needed_engine(), ended=2, dropped=2):
            first = submit(connection, WRITE, INSERT)
            endless = submit(connection, WRITE, INSERT, (rows(COUNT_TO_A_BILLION),))
            waiting = submit(connection, WRITE, INSERT)
            last = submit(connection, READ, COUNT)
            assert await first == [[None]]
            waiting.cancel()  # first: it would begin as soon as the endless one has ended
            endless.cancel()
            assert await last == [[(1,)]]
        assert endless.cancelled()
        assert waiting.cancelled()


async def test_interrupts_do_not_stop_the_rollback():
    """However often a running batch is interrupted, its transaction is rolled back and the next batch is not interrupted."""
    async with opened() as connection:
        for number in range(50):
            endless = submit(connection, WRITE, INSERT, (rows(COUNT_TO_A_BILLION),))
            after = submit(connection, WRITE, INSERT)
            # The interrupts are to come at different moments of the batch.
            await asyncio.sleep(0.0002 * (number % 5))
            endless.cancel()
            while not after.done():
                connection.interrupt_batch(endless._batch)
                await asyncio.sleep(0)
            assert await after == [[None]]
        assert await submit(connection, READ, COUNT) == [[(50,)]]


async def test_slow_batch_gives_its_thread_up():
    """A batch that takes long does not keep the batches of other connections waiting, although the pool has one thread."""
    pool, hold = ThreadPool("test", 1, needed_engine()), Hold()
    async with opened(hold, pool) as slow, opened(pool=pool) as quick:
        held = submit(slow, READ, rows("SELECT hold()"))
        await reached(hold.is_reached.is_set)
        async with asyncio.timeout(100 * LONG_JOB_SECONDS):
            assert await submit(quick, READ, COUNT) == [[(0,)]]
        assert not held.done()
        hold.goes_on.set()
        assert await held == [[(1,)]]
        # The first thread has ended; the new one serves both connections.
        assert await submit(slow, READ, COUNT) == await submit(quick, READ, COUNT)


async def test_jobs_and_batches_keep_their_order():
    """Jobs of Python and batches of one connection run in the order in which they were submitted."""
    async with opened() as connection:
        seen = []
        for _ in range(30):
            seen.append(submit(connection, WRITE, INSERT))
            seen.append(
                connection.submit(lambda database: database.execute("SELECT count(*) FROM t").fetchone()[0])
            )
        answers = await asyncio.gather(*seen)
    assert answers == [answer for number in range(1, 31) for answer in ([[None]], number)]


async def test_batch_that_must_run_in_python():
    """The batch's Python function runs at the batch's place, and its caller has the function's result or error."""

    def failing() -> None:
        raise LookupError("the function's error")

    async with opened() as connection:
        Oracle.know([COUNT])
        bad = rows("SELECT CAST(x'ff' AS TEXT)")
        assert await submit(connection, READ, bad) == "in python"
        job = connection.submit_batch(connection.batch(READ, [bad]), failing, lambda ended: ended.results())
        assert (await asyncio.gather(job, return_exceptions=True))[0].args == ("the function's error",)
        unfinished = connection.submit_batch(connection.batch(READ, [COUNT]), in_python, lambda _: 1 / 0)
        assert isinstance((await asyncio.gather(unfinished, return_exceptions=True))[0], ZeroDivisionError)


async def test_results_that_python_has_to_read_again():
    """A read with a long text that is no UTF-8 runs again in Python, or fails if the connection closes."""
    long = rows("SELECT CAST(x'ff' || zeroblob(100000) AS TEXT)")
    async with opened() as connection:
        assert await submit(connection, READ, long) == "in python"
        reading = submit(connection, READ, long)
        closing = asyncio.ensure_future(connection.aclose())
        with pytest.raises(PersistenceConnectionError, match="disconnected in the meantime"):
            await reading
        await closing


def test_two_event_loops_one_after_the_other():
    """Each event loop has an outlet of its own, which closes with its loop."""

    async def use() -> Any:
        async with opened() as connection:
            assert await submit(connection, WRITE, INSERT) == [[None]]
            loop = asyncio.get_running_loop()
            assert outlet(loop) is outlet(loop)
            return outlet(loop)

    outlets = [asyncio.run(use()) for _ in range(3)]
    gc.collect()
    assert len({id(one) for one in outlets}) == 3
    assert [one.fileno() for one in outlets] == [-1, -1, -1]


def test_event_loop_that_ends_early():
    """A batch whose loop has ended runs to its end, and then nothing of it stays: neither thread, connection nor future."""
    hold, pool = Hold(), ThreadPool("test", 1, needed_engine())
    loop = asyncio.new_event_loop()

    async def leave() -> JobConnection:
        connection = await JobConnection.open(partial(connect, hold), pool)
        connection.use_engine(None)
        jobs = submit(connection, READ, rows("SELECT hold()")), submit(connection, WRITE, INSERT)
        gone.extend(map(weakref.ref, jobs))
        await reached(hold.is_reached.is_set)
        return connection

    async def use() -> None:
        async with opened() as other:
            assert await submit(other, READ, COUNT) == [[(0,)]]

    gone: list[Any] = []
    connection = loop.run_until_complete(leave())
    loop.close()
    del loop
    hold.goes_on.set()
    queue = connection._tx
    asyncio.run(reached(lambda: not queue.qsize()))
    asyncio.run(use())  # the next loop that uses the engine drops what was left
    assert connection.abandon()
    del connection
    gc.collect()
    assert [job() for job in gone] == [None, None]


@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # Python 3.12 warns of forks with threads
async def test_forked_child():
    """A child of a process with batches on the way can use the engine with a loop of its own, and the parent has all its answers."""
    async with opened() as connection:
        writes = [submit(connection, WRITE, INSERT) for _ in range(50)]
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = threading_run(child_work)
            finally:
                os._exit(status)
        assert await asyncio.gather(*writes) == [[[None]]] * 50
        assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222  # nothing else runs on the loop


async def child_work() -> int:
    """Use the engine in the child; return the exit status."""
    async with opened() as connection:
        return 0 if await submit(connection, WRITE, INSERT) == [[None]] else 2


def threading_run(work: Callable[[], Any]) -> int:
    """Run a coroutine function on a thread of its own, because this thread has the parent's running loop."""
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(work())))
    thread.start()
    thread.join()
    return results[0] if results else 3


@pytest.mark.parametrize(
    "begin",
    [lambda one: submit(one, READ, COUNT), lambda one: one.submit(lambda _: [[(0,)]])],
    ids=["engine", "python"],
)
def test_a_program_that_ends_at_the_end_of_a_batch(begin: Callable[[JobConnection], "asyncio.Future[Any]"]):
    """The batches and jobs that ended at the same time still have their results while the event loop shuts down."""
    loop = asyncio.new_event_loop()
    second: asyncio.Future[Any] = loop.create_future()

    async def end_early() -> None:
        nonlocal second
        connection = await stack.enter_async_context(opened())
        first, second = begin(connection), begin(connection)
        assert isinstance(first, PromptFuture)
        first.call_at_end(lambda _: sys.exit("the program ends"))
        while connection.backlog:  # the loop must not run meanwhile
            threading.Event().wait(0.001)
        await second

    with closing(loop):
        stack = AsyncExitStack()
        with pytest.raises(SystemExit, match="the program ends"):
            loop.run_until_complete(end_early())
        assert loop.run_until_complete(asyncio.wait_for(second, HANG_SECONDS)) == [[(0,)]]
        loop.run_until_complete(stack.aclose())


async def test_no_descriptor_for_the_first_batch_of_a_loop():
    """The opening fails, and the pool's threads end, because no connection is left."""
    engine = needed_engine()
    pool = ThreadPool("without-descriptor", 1, engine)
    opening = NativeOpening(engine.opening("/x", "/", "", "", "/l", b"", "", None), lambda _: None)
    with open_files_limited_to(0), pytest.raises(OSError, match="Too many open files"):
        await JobConnection.open(partial(connect, int), pool, opening)
    await reached(lambda: not any("without-descriptor" in thread.name for thread in threading.enumerate()))
