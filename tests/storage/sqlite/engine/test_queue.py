"""The engine's queues, batches and outlets on their own: order, cancellation, wrong use, and what outlives what."""

import contextlib
import gc
import os
import signal
import sqlite3
import threading
import weakref
from pathlib import Path

import pytest

from engine_rig import Outcome, Rig, counted
from stores import COUNT_TO_A_BILLION, HANG_SECONDS, rows, run
from tenantry.storage.sqlite.engine.native import READ, WRITE


def insert(value: object) -> tuple[object]:
    """Return a unit that inserts a row."""
    return (run("INSERT INTO t (value) VALUES (?)", value),)


def values(rig: Rig) -> list[object]:
    """Return the inserted values, read without the engine."""
    return [value for (value,) in rig.connection.execute("SELECT value FROM t ORDER BY id")]


def test_jobs_run_in_order(rig: Rig):
    """Batches and jobs of Python of one connection run in the order in which they were put into the queue."""
    seen = []
    rig.put(rig.batch(WRITE, [insert(1)]))
    rig.queue.put_nowait((None, lambda: seen.append(values(rig))))
    rig.put(rig.batch(WRITE, [insert(2)]))
    rig.queue.put_nowait((None, lambda: seen.append(values(rig))))
    assert rig.queue.qsize() == 4
    assert not rig.ready.empty()
    assert len(rig.turn()) == 2
    assert seen == [[1], [1, 2]]
    assert rig.queue.qsize() == 0
    assert rig.ready.empty()
    assert len(rig.ended()) == 2


def test_connections_take_turns(tmp_path: Path, rig: Rig):
    """A connection with many jobs does not keep another connection waiting: each runs one job in turn."""
    other = rig.module.SerialQueue(rig.ready)
    seen: list[str] = []
    for _ in range(3):
        rig.queue.put_nowait((None, lambda: seen.append("first")))
        other.put_nowait((None, lambda: seen.append("other")))
    rig.turn()
    assert seen == ["first", "other"] * 3


def test_outlet_wakes_once(rig: Rig):
    """Many batches wake the event loop once, and it takes them all."""
    assert not rig.is_woken()
    for value in range(3):
        rig.put(rig.batch(WRITE, [insert(value)]))
    rig.turn()
    assert rig.is_woken()
    assert len(rig.ended()) == 3
    assert not rig.is_woken()
    assert rig.ended() == []


def test_cancelled_while_waiting(rig: Rig):
    """A batch that was given up before it runs has no effect."""
    batch = rig.batch(WRITE, [insert(1)])
    rig.put(batch)
    assert not rig.queue.interrupt(batch)
    with counted(rig.module, dropped=1):
        assert rig.turn() == []
    assert rig.ended() == [batch]
    with pytest.raises(ValueError, match="no results"):
        batch.results()
    assert values(rig) == []


@pytest.mark.parametrize("kind", [READ, WRITE])
def test_cancelled_while_running(rig: Rig, kind: int):
    """A running batch that is given up ends soon, is rolled back, and does not run again in Python."""
    reached = threading.Event()
    rig.connection.create_function("reached", 0, reached.set)
    statements = rows("SELECT reached()"), rows(COUNT_TO_A_BILLION)
    batch = rig.batch(kind, statements if kind == READ else [insert(1), statements])
    rig.put(batch)
    with counted(rig.module, dropped=1):
        worker = threading.Thread(target=rig.turn)
        worker.start()
        assert reached.wait(HANG_SECONDS)
        while worker.is_alive():  # an interrupt between two statements has no effect
            rig.queue.interrupt(batch)
            worker.join(0.001)
    assert rig.ended() == [batch]
    assert values(rig) == []
    assert not rig.connection.in_transaction
    assert rig.write(insert(2)) == [[None]]


def test_interrupt_of_another_batch(rig: Rig):
    """Giving one batch up does not stop the batch that runs."""
    first, second = (rig.batch(WRITE, [insert(value)]) for value in (1, 2))
    rig.put(first)
    rig.put(second)
    assert not rig.queue.interrupt(second)
    with counted(rig.module, ended=1, dropped=1):
        rig.turn()
    assert values(rig) == [1]


def test_closed_database(rig: Rig):
    """A batch whose connection was closed before it runs, on either side, is left to Python, whose driver has the error."""
    assert rig.read(rows("SELECT 1")) == [[(1,)]]
    closed, closed_by_python = (rig.batch(READ, [rows("SELECT 1")]) for _ in range(2))
    rig.put(closed_by_python)
    rig.connection.close()
    with counted(rig.module, in_python=1):
        rig.turn()
    rig.put(closed)
    rig.database.close()
    rig.database.close()
    with counted(rig.module, in_python=1):
        rig.turn()
    assert not rig.queue.interrupt(closed)
    with pytest.raises(ValueError, match="closed"):
        rig.module.Database(rig.connection, None, None)


def test_close_while_a_batch_runs(rig: Rig):
    """The statements of a running batch are not freed: closing fails, and succeeds later."""
    reached, goes_on = threading.Event(), threading.Event()

    def hold() -> int:
        reached.set()
        goes_on.wait(HANG_SECONDS)
        return 1

    rig.connection.create_function("hold", 0, hold)
    batch = rig.batch(READ, [rows("SELECT hold()")])
    other = rig.module.SerialQueue(rig.ready)
    rig.put(batch)
    worker = threading.Thread(target=rig.turn)
    worker.start()
    assert reached.wait(HANG_SECONDS)
    with pytest.raises(ValueError, match="a batch runs"):
        rig.database.close()
    # A second queue of the same connection must not use its statements either.
    second = rig.batch(READ, [rows("SELECT 2")])
    other.put_batch(second, Outcome(), lambda: None, rig.outlet)
    with counted(rig.module, in_python=1):
        rig.turn()
    goes_on.set()
    worker.join()
    assert batch.results() == [[(1,)]]
    rig.database.close()


def test_outlet_closed_before_the_batch_ends(rig: Rig):
    """A batch whose event loop has gone is run and dropped: neither it nor its queue stays in memory."""
    outlet = rig.module.Outlet()
    queue, future = rig.module.SerialQueue(rig.ready), Outcome()
    gone = weakref.ref(future)
    queue.put_batch(rig.batch(WRITE, [insert(1)]), future, lambda: None, outlet)
    outlet.close()
    outlet.close()
    assert outlet.fileno() == -1
    del future
    assert gone() is not None
    with counted(rig.module, ended=1):
        rig.turn()
    assert gone() is None
    assert outlet.take() == []
    assert values(rig) == [1]


def test_outlet_closed_with_batches_that_have_ended(rig: Rig):
    """The batches that nobody has taken are dropped with the outlet."""
    future = rig.put(rig.batch(WRITE, [insert(1)]))
    gone = weakref.ref(future)
    del future
    rig.turn()
    rig.outlet.close()
    assert gone() is None


def test_lost_objects(rig: Rig):
    """A connection that is lost without `close` frees its statements, and a waiting batch keeps everything that it needs."""
    lost = Rig(":memory:", "CREATE TABLE t (value)")
    lost.write(insert(1))
    connection = lost.connection
    lost.put(lost.batch(READ, [rows("SELECT value FROM t")]))
    ready, outlet, worker = lost.ready, lost.outlet, lost.module.Worker()
    del lost
    gc.collect()
    ready.put(None)
    assert ready.get(worker) is None
    ((_, batch),) = outlet.take()
    assert batch.results() == [[(1,)]]
    outlet.close()
    del batch
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")


def test_replaced_thread(rig: Rig):
    """A replaced thread ends after its job, and leaves the next job to another thread."""
    worker = rig.module.Worker()
    assert worker.busy_since_seconds == float("inf")
    rig.queue.put_nowait((None, lambda: None))
    rig.queue.put_nowait((None, lambda: None))
    assert rig.ready.get(worker) is rig.queue
    assert worker.busy_since_seconds < float("inf")
    worker.is_replaced = True
    assert rig.queue.remove_first()
    rig.ready.put(rig.queue)
    assert rig.ready.get(worker) is None
    assert len(rig.turn()) == 1
    with pytest.raises(TypeError):
        worker.busy_since_seconds = float("nan")
    with pytest.raises(TypeError):
        del worker.busy_since_seconds
    worker.busy_since_seconds = 1.5
    assert worker.busy_since_seconds == 1.5


def test_wrong_use(rig: Rig):
    """Wrong calls raise, and neither the process nor the queue suffers."""
    batch = rig.batch(WRITE, [insert(1)])
    wrong = [
        (rig.ready.get, "no worker"),
        (rig.ready.put, "no queue"),
        (rig.ready.put, rig.queue),  # has no jobs
        (rig.queue.put_nowait, "no pair"),
        (rig.queue.put_nowait, (1, 2, 3)),
        (rig.queue.interrupt, "no batch"),
        (rig.database.batch, "no kind"),
        (rig.module.attach, None),
        (rig.module.attach, "/nonexistent/library.so"),
        (rig.module.configure, "no dict"),
        (rig.module.limit_results, -1),
        (rig.module.SerialQueue, "no ready queue"),
    ]
    for call, argument in wrong:
        with pytest.raises((TypeError, ValueError, OSError, OverflowError)):
            call(argument)
    for empty in (rig.queue.first, rig.queue.remove_first):
        with pytest.raises(IndexError, match="no job"):
            empty()
    for arguments in (
        ("x", None, None),
        (rig.connection, "a\0b", None),
        (rig.connection, None, "x"),
        (rig.connection, None, ()),
    ):
        with pytest.raises((TypeError, ValueError)):
            rig.module.Database(*arguments)
    rig.put(batch)
    with pytest.raises(ValueError, match="waits to run"):
        rig.put(batch)
    for early in (batch.results, batch.errors):
        with pytest.raises(ValueError, match="no results"):
            early()
    assert (batch.refusal(), batch.has_errors, batch.has_names) == (None, False, False)
    for taken_early in (rig.queue.first, rig.queue.remove_first):
        with pytest.raises(IndexError, match="no job"):
            taken_early()
    with pytest.raises(ValueError, match="no thread has it"):
        rig.ready.put(rig.queue)
    with pytest.raises(ValueError, match="no thread has it"):
        rig.module.ReadyQueue().put(rig.queue)
    with pytest.raises(ValueError, match="kind"):
        rig.database.batch(2, [])
    assert rig.turn() == []
    assert values(rig) == [1]


def test_attached_twice(rig: Rig):
    """A second `attach` of the same library changes nothing, and one that fails leaves the engine usable."""
    path = __import__("_sqlite3").__file__
    assert rig.module.attach(path) == rig.module.attach(path)
    with pytest.raises(OSError, match="not a library of this process"):
        rig.module.attach("/nonexistent")
    with pytest.raises(OSError, match="SQLite"):
        rig.module.attach(rig.module.__file__)
    assert rig.read(rows("SELECT 1")) == [[(1,)]]


@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # Python 3.12 warns of forks with threads
def test_forked_child(rig: Rig):
    """A child neither takes the parent's batches and wake-ups nor waits for the parent's locks, and may close what it inherits."""
    rig.put(rig.batch(WRITE, [insert(1)]))
    rig.turn()
    waiting = rig.batch(WRITE, [insert(2)])
    rig.put(waiting)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert rig.outlet.take() == []
            rig.outlet.close()
            rig.ready.put(None)
            assert rig.ready.get(rig.module.Worker()) is None
            assert rig.ready.empty()
            assert rig.queue.qsize() == 1
            assert not rig.queue.interrupt(waiting)
            for call in (
                lambda: rig.queue.put_nowait((None, print)),
                rig.queue.first,
                rig.queue.remove_first,
            ):
                with pytest.raises(ValueError, match="forked"):
                    call()
            with pytest.raises(ValueError, match="forked"):
                rig.put(rig.batch(READ, [rows("SELECT 1")]))
            own = Rig(":memory:")
            assert own.read(rows("SELECT 1")) == [[(1,)]]
            own.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert rig.is_woken()
    assert len(rig.ended()) == 1
    rig.turn()
    assert rig.ended() == [waiting]
    assert waiting.results() == [[None]]


@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # Python 3.12 warns of forks with threads
def test_child_of_busy_threads(rig: Rig):
    """A child finds none of SQLite's locks taken, although the engine's threads are in SQLite at the fork."""
    busy, is_over = threading.Event(), threading.Event()
    concatenated = rows(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 300) "
        "SELECT group_concat(n || 'x') FROM numbers"
    )

    def work() -> None:
        own = Rig(":memory:")
        while not is_over.is_set():
            for _ in range(20):
                own.put(own.batch(READ, [concatenated]))
            own.turn()
            assert len(own.ended()) == 20
            busy.set()
        own.close()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert busy.wait(HANG_SECONDS)
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(HANG_SECONDS))
                with contextlib.suppress(BaseException):
                    assert sqlite3.connect(":memory:").execute("SELECT 1").fetchall() == [(1,)]
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        is_over.set()
        for worker in workers:
            worker.join()
