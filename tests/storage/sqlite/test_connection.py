"""The connection that runs whole jobs on its thread; pins the private parts of aiosqlite that it rests on."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest

from engines import engine_module
from stores import COUNT_TO_A_BILLION, HANG_SECONDS, StubbornConnection, open_store, reached, rows, run
from tenantry.storage.sqlite.connections.connection import JobConnection
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.thread_pool import ThreadPool
from tenants import open_files, threads_since

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture
async def connection() -> AsyncIterator[JobConnection]:
    """An open connection to a database in memory."""
    opened = await open_connection(":memory:", isolation_level=None)
    yield opened
    await opened.aclose()


class Gate:
    """Holds a thread at a point of its job until the test lets it go."""

    def __init__(self) -> None:
        self.is_reached = threading.Event()
        self._opened = threading.Event()

    def wait(self) -> None:
        """Stop here, on the connection's thread."""
        self.is_reached.set()
        assert self._opened.wait(HANG_SECONDS)

    def open(self) -> None:
        """Let the thread go on."""
        self._opened.set()


class CountingQueue:
    """Counts what is put into a connection's queue: its hops to the thread."""

    def __init__(self, connection: JobConnection) -> None:
        self._queue = connection._tx
        self.count = 0
        connection._tx = self  # type: ignore[assignment]

    def put_nowait(self, item: Any) -> None:
        """Pass it on."""
        self.count += 1
        self._queue.put_nowait(item)

    def put_batch(self, *batch: Any) -> None:
        """Pass a batch of the engine on."""
        self.count += 1
        self._queue.put_batch(*batch)  # type: ignore[attr-defined]  # the engine's queue

    def qsize(self) -> int:
        """Return how many wait."""
        return self._queue.qsize()


class TestAiosqlite:
    """What `JobConnection` needs of aiosqlite and its documentation does not promise."""

    async def test_calls_are_put_into_the_queue(self, connection: JobConnection):
        """A call of aiosqlite's own is one item in `_tx`: so its whole interface works on the pool's threads too."""
        queue = CountingQueue(connection)
        assert await connection.execute_fetchall("SELECT 1") == [(1,)]
        assert queue.count == 1

    async def test_what_the_function_raises_is_the_futures(self, connection: JobConnection):
        """And the thread goes on."""
        future = asyncio.get_running_loop().create_future()
        connection._tx.put_nowait((future, lambda: 1 // 0))
        with pytest.raises(ZeroDivisionError):
            await future
        assert await connection.run(lambda _: "next") == "next"

    async def test_the_attributes_are_there(self, connection: JobConnection):
        """What aiosqlite's constructor sets, the subclass sets too, but for the thread; stop() is there."""
        theirs = aiosqlite.Connection(lambda: sqlite3.connect(":memory:"), 1)
        assert vars(theirs).keys() - vars(connection).keys() == {"_thread"}
        assert isinstance(connection._connection, sqlite3.Connection)
        assert connection._conn is connection._connection
        assert callable(connection.stop)


class TestRun:
    """Jobs on the connection's thread."""

    async def test_runs_on_a_thread_of_the_crew(self, connection: JobConnection):
        """The function gets the connection, and is not on the event loop's thread."""
        job = lambda conn: (threading.current_thread(), conn.execute("SELECT 1").fetchone())  # noqa: E731
        thread, row = await connection.run(job)
        assert thread is not threading.current_thread()
        assert row == (1,)

    async def test_raises_what_the_job_raises(self, connection: JobConnection):
        """Errors come back unchanged, and the thread lives on."""
        with pytest.raises(ZeroDivisionError):
            await connection.run(lambda _: 1 // 0)
        assert await connection.run(lambda _: "next") == "next"

    async def test_keeps_the_order(self, connection: JobConnection):
        """Jobs run one after the other, as they were given."""
        done: list[int] = []
        await asyncio.gather(*(connection.run(lambda _, n=n: done.append(n)) for n in range(20)))
        assert done == list(range(20))

    async def test_cancelled_runs_to_its_end(self, connection: JobConnection):
        """A caller that goes does not stop the job: what it began is done when the next job begins."""
        gate, done = Gate(), []
        caller = asyncio.create_task(connection.run(lambda _: (gate.wait(), done.append("job"))))
        await reached(gate.is_reached.is_set)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gate.open()
        await connection.run(lambda _: done.append("next"))
        assert done == ["job", "next"]

    async def test_a_batch_crosses_once(self, tmp_path: Path):
        """64 callers' units or queries are one item in the queue of the connection's thread."""
        async with open_store(SQLiteOptions(path=tmp_path / "a.db"), "CREATE TABLE t (n)") as store:
            await store.read([rows("SELECT 1")])
            writer, reader = (
                CountingQueue(store._connections.writer),
                CountingQueue(store._connections.readers[0]),
            )
            await store.write([(run("INSERT INTO t VALUES (?)", n),) * 2 for n in range(64)])
            assert (writer.count, reader.count) == (1, 0)
            await store.read([rows("SELECT n FROM t WHERE n = ?", n) for n in range(64)])
            assert (writer.count, reader.count) == (1, 1)


class TestSubmit:
    """Cancellation stops the statement, and only that caller's."""

    async def test_result_comes_back(self, connection: JobConnection):
        """It is awaited like any future."""
        assert await connection.submit(lambda _: 1) == 1

    async def test_cancelled_interrupts_the_statement(self, connection: JobConnection):
        """A query that would run for minutes ends, and its thread is free for the next job."""
        gate, ended = threading.Event(), []

        def job(conn: sqlite3.Connection) -> None:
            conn.create_function("started", 0, lambda: gate.set() or 0)
            try:
                conn.execute(f"{COUNT_TO_A_BILLION} WHERE started() = 0")
            except sqlite3.OperationalError as error:
                ended.append(error.sqlite_errorname)

        caller = connection.submit(job)
        await reached(gate.is_set)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert await connection.run(lambda conn: conn.execute("SELECT 2").fetchone()) == (2,)
        assert ended == ["SQLITE_INTERRUPT"]

    async def test_cancelled_by_anyio(self, connection: JobConnection):
        """A cancel scope around the one who waits interrupts as well."""
        gate, ended = Gate(), []
        async with anyio.create_task_group() as group:
            group.start_soon(_submitted, connection, lambda conn: _count_after(conn, gate, ended))
            await reached(gate.is_reached.is_set)
            group.cancel_scope.cancel()
            asyncio.get_running_loop().call_soon(gate.open)
        await connection.run(lambda _: None)
        assert ended == ["SQLITE_INTERRUPT"]

    async def test_interrupts_the_next_statement_of_the_job_too(self, connection: JobConnection):
        """Cancelled between two statements, where an interrupt hits nothing, the job does not run the next to its end."""
        gate, ended = Gate(), []
        caller = connection.submit(lambda conn: _count_after(conn, gate, ended))
        await reached(gate.is_reached.is_set)
        caller.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await connection.run(lambda _: None)
        assert ended == ["SQLITE_INTERRUPT"]

    async def test_never_interrupts_another_callers_job(self, connection: JobConnection):
        """A caller that is cancelled while its job waits leaves the running one alone, and its own never runs."""
        gate, ran = Gate(), []
        running = connection.submit(lambda _: gate.wait())
        waiting = connection.submit(lambda _: ran.append("waiting"))
        await reached(gate.is_reached.is_set)
        waiting.cancel()
        await asyncio.sleep(0)
        gate.open()
        await running
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert ran == []

    async def test_cancelled_while_it_closes(self):
        """The connection was closed behind the job: the caller still gets its cancellation and no other error."""
        opened = await open_connection(":memory:")
        gate = Gate()
        caller = opened.submit(lambda _: gate.wait())
        await reached(gate.is_reached.is_set)
        closing_task = asyncio.create_task(opened.aclose())
        await asyncio.sleep(0)
        caller.cancel()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await closing_task


class TestOpen:
    """Opening leaves an open connection or nothing."""

    async def test_failure_leaves_nothing(self):
        """The connector's error comes out, and its thread has ended."""
        threads = set(threading.enumerate())
        with pytest.raises(sqlite3.OperationalError):
            await open_connection("/nowhere/at/all.db")
        assert threads_since(threads) == []

    @pytest.mark.parametrize("cancellations", [1, 3])
    async def test_cancelled_leaves_nothing(self, tmp_path: Path, cancellations: int):
        """A caller that is cancelled, once or again and again, returns when the file is closed and the thread ended."""
        threads, gate = set(threading.enumerate()), Gate()
        caller = asyncio.create_task(_opened_at(gate, tmp_path / "a.db"))
        await reached(gate.is_reached.is_set)
        for _ in range(cancellations):
            caller.cancel()
            await asyncio.sleep(0)
        assert not caller.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert (tmp_path / "a.db").exists()
        assert open_files(tmp_path) == []
        assert threads_since(threads) == []

    async def test_cancelled_by_anyio_leaves_nothing(self, tmp_path: Path):
        """A cancel scope cancels at every await; the wait for the thread holds out against that."""
        threads, gate = set(threading.enumerate()), Gate()
        async with anyio.create_task_group() as group:
            group.start_soon(_opened_at, gate, tmp_path / "a.db")
            await reached(gate.is_reached.is_set)
            group.cancel_scope.cancel()
            asyncio.get_running_loop().call_soon(gate.open)
        assert open_files(tmp_path) == []
        assert threads_since(threads) == []

    async def test_cancelled_and_failing_leaves_nothing(self):
        """Cancelled while a connector runs that will fail: its error is dropped, its thread ends."""
        threads, gate = set(threading.enumerate()), Gate()
        caller = asyncio.create_task(_opened_at(gate, Path("/nowhere/a.db")))
        await reached(gate.is_reached.is_set)
        caller.cancel()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert threads_since(threads) == []

    async def test_the_thread_keeps_nobody_alive(self, connection: JobConnection):
        """A connection that its owner lost must not hang the end of the process."""
        threads = await connection.run(lambda _: threading.current_thread())
        assert threads.daemon


class TestClose:
    """Closing ends the thread, or keeps the handle."""

    async def test_ends_the_thread_and_is_idempotent(self, tmp_path: Path):
        """After it, no file and no thread; a second call does nothing."""
        threads = set(threading.enumerate())
        opened = await open_connection(tmp_path / "a.db")
        assert (opened.is_open, len(open_files(tmp_path))) == (True, 1)
        await opened.aclose()
        await opened.aclose()
        assert (opened.is_open, open_files(tmp_path)) == (False, [])
        assert threads_since(threads) == []

    async def test_used_after_it_raises(self):
        """A job for a closed connection is aiosqlite's ValueError, which the store maps."""
        opened = await open_connection(":memory:")
        await opened.aclose()
        with pytest.raises(ValueError, match="the connection is closed"):
            await opened.run(lambda _: None)

    async def test_failed_keeps_the_handle(self):
        """A close that fails raises, leaves the connection usable, and can be tried again."""
        threads = set(threading.enumerate())
        opened = await open_connection(":memory:", factory=StubbornConnection)
        with pytest.raises(sqlite3.OperationalError):
            await opened.aclose()
        assert opened.is_open
        assert await opened.run(lambda conn: conn.execute("SELECT 1").fetchone()) == (1,)
        await opened.aclose()
        assert not opened.is_open
        assert threads_since(threads) == []


async def _submitted(connection: JobConnection, function: Callable[[sqlite3.Connection], object]) -> None:
    await connection.submit(function)


def _count_after(conn: sqlite3.Connection, gate: Gate, ended: list[str]) -> None:
    gate.wait()
    try:
        conn.execute(COUNT_TO_A_BILLION)
    except sqlite3.OperationalError as error:
        ended.append(error.sqlite_errorname)


async def open_connection(path: Path | str, **options: Any) -> JobConnection:
    """Open a connection with a thread of its own."""
    return await JobConnection.open(lambda: _connect(path, **options), ThreadPool("test", 1, engine_module()))


async def _opened_at(gate: Gate, path: Path | str) -> JobConnection:
    return await JobConnection.open(
        lambda: gate.wait() or _connect(path), ThreadPool("test", 1, engine_module())
    )


def _connect(path: Path | str, **options: Any) -> sqlite3.Connection:
    opened = sqlite3.connect(path, check_same_thread=False, **options)
    opened.execute("CREATE TABLE t (n)")
    return opened
