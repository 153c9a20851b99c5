"""A pool of threads that run SQLite's work for all connections.

aiosqlite starts a thread for every connection. With many busy tenants these threads are the dominant cost: each job wakes another
thread. The threads compete for the interpreter lock at every statement, because Python's sqlite3 releases the lock around each
statement. On 2 cores, 64 tenants with one caller each, half reads and half writes, made 5,500 calls/s in all with aiosqlite's
threads, and 8,200 calls/s with four threads for writers and one for readers. A thread that finds another job does not sleep.

Theory of operation. The jobs of a connection run in order, one at a time, on any free thread, from the connection's `SerialQueue`.
(Boost.Asio calls this a strand.) A serial queue that has jobs is in the pool's ready queue exactly once. A thread takes the first
serial queue, runs one job, and appends the serial queue to the ready queue again if more jobs remain. So a job waits for at most
one job of each serial queue ahead of its own.

A job that takes longer than `LONG_JOB_SECONDS` must not delay other jobs. Examples are a runaway query, a disk that hangs, and a wait
for another process's lock. The pool starts another thread, and the replaced thread ends when its job ends. So each connection with such a
job adds at most one thread.

A thread starts for each connection, up to `threads_max`; all stop when the last connection closes. The threads are daemons, so that a
leaked connection does not keep the process from ending. SQLite survives the loss of a thread at any moment, like a kill -9.
"""

import asyncio
import contextvars
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary, ref

from tenantry.storage.sqlite.connections.pace import LONG_JOB_SECONDS, PROCESS

if TYPE_CHECKING:
    from types import ModuleType

_IDLE: Final = float("inf")

Item: TypeAlias = tuple[asyncio.Future[Any] | None, Callable[[], Any]]
"""An item of aiosqlite's queue: a function, and the future of its result."""


class Worker:
    """One thread: the start time of its current job, and whether the thread ends after its job."""

    __slots__ = ("busy_since_seconds", "is_replaced")

    def __init__(self) -> None:
        self.busy_since_seconds = _IDLE
        self.is_replaced = False


class SerialQueue:
    """The jobs of one connection, which run in order and one at a time. This queue replaces the queue of aiosqlite's thread."""

    def __init__(self, pool: "ThreadPool") -> None:
        self._pool = pool
        self._items: deque[Item] = deque()
        self._lock = threading.Lock()
        self._is_scheduled = False  # True while this queue is in the ready queue or runs a job

    def put_nowait(self, item: Item) -> None:
        """Add a job."""
        with self._lock:
            self._items.append(item)
            if self._is_scheduled:
                return
            self._is_scheduled = True
        self._pool.schedule(self)

    def qsize(self) -> int:
        """Return the number of waiting and running jobs."""
        return len(self._items)

    def first(self) -> Item:
        """Return the first job, for the thread of the pool that got this queue."""
        return self._items[0]

    def remove_first(self) -> bool:
        """Remove the first job; return whether the queue has more jobs and must be scheduled again."""
        with self._lock:
            self._items.popleft()
            self._is_scheduled = bool(self._items)
            return self._is_scheduled


class ReadyQueue:
    """The queues that have jobs. The engine's queue runs batches in `get`, so `get` takes the thread's worker."""

    def __init__(self) -> None:
        self._queues: SimpleQueue[SerialQueue | None] = SimpleQueue()
        self.put = self._queues.put
        self.empty = self._queues.empty

    def get(self, _worker: Worker) -> SerialQueue | None:
        """Wait for a queue and return it; None if the thread is to end."""
        return self._queues.get()


class ThreadPool:
    """A pool of threads for any number of connections. At most `threads_max` jobs run at once, not counting overdue jobs.

    Args:
        engine: The engine's module, whose queues also take its batches; None for queues in Python.
    """

    def __init__(self, name: str, threads_max: int, engine: "ModuleType | None" = None) -> None:
        self._name = name
        self._threads_max = threads_max
        self.engine = engine
        # The first connection makes the queue: a forked child may use a pool that its parent has made, but not the parent's queue.
        self._ready: ReadyQueue | None = None
        if engine is not None:
            PROCESS.watch_engine(engine.began_seconds)
        # The lock is reentrant, because the garbage collector may close a connection while this thread holds the lock.
        self._lock = threading.RLock()
        self._workers: dict[Worker, threading.Thread] = {}
        self._users = 0
        self._outbox: _Outbox | None = None
        self._timer: asyncio.TimerHandle | None = None
        # The empty context keeps the timer from running in a caller's context.
        self._context = contextvars.Context()

    def retain(self) -> None:
        """Keep the threads even without connections, until a matching call of `unregister`."""
        self._users += 1

    def register(self) -> SerialQueue:
        """Return the queue for a new connection. The connection must call `unregister` when it is closed."""
        self._users += 1
        if self._ready is None:
            self._ready = ReadyQueue() if self.engine is None else self.engine.ReadyQueue()
        if len(self._workers) < self._threads_max:
            self._start_worker(self._ready)
        return SerialQueue(self) if self.engine is None else self.engine.SerialQueue(self._ready)

    def unregister(self) -> None:
        """Record that a connection without jobs was closed. The threads stop when the last connection is closed."""
        self._users -= 1
        if self._users:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # New connections get a new ready queue. A replaced thread ends without taking a `None`: each `None` stops one thread.
        ready, self._ready = self._ready, None
        if ready is None:
            return
        with self._lock:
            workers, self._workers = self._workers, {}
        for _ in workers:
            ready.put(None)
        for thread in workers.values():
            # The thread has no job, so joining it takes microseconds, unless a connection was lost while it was being opened.
            # The garbage collector may have closed a lost connection on this worker's own thread.
            if thread is not threading.current_thread():
                thread.join(LONG_JOB_SECONDS)

    def schedule(self, queue: SerialQueue) -> None:
        """Append a serial queue to the ready queue."""
        assert self._ready is not None  # the queue's connection is registered
        self._ready.put(queue)
        self.watch()

    def watch(self) -> None:
        """Replace threads whose jobs take too long, until no job waits or runs."""
        if self._timer is None:
            self._set_timer()

    def deliver(self, future: asyncio.Future[Any], set_result: Callable[[Any], None], value: Any) -> None:
        """Set a future's result or exception on the future's event loop. Any thread may call this method."""
        loop = future.get_loop()
        outbox = self._outbox
        if outbox is None or not outbox.belongs_to(loop):
            self._outbox = outbox = _Outbox.of(loop)
        outbox.put(future, set_result, value)

    def _set_timer(self) -> None:
        # A lost connection may be closed without a running event loop. In that case no caller waits for a job.
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LONG_JOB_SECONDS, self._replace_overdue, context=self._context)

    def _replace_overdue(self) -> None:
        """Replace the threads whose job takes too long; set the timer again while jobs wait or run."""
        self._timer = None
        ready = self._ready
        if ready is None:  # the last connection was closed
            return
        too_long_ago = time.monotonic() - LONG_JOB_SECONDS
        with self._lock:
            overdue = [w for w in self._workers if w.busy_since_seconds < too_long_ago and not w.is_replaced]
            for worker in overdue:
                worker.is_replaced = True
            is_busy = not ready.empty() or any(w.busy_since_seconds != _IDLE for w in self._workers)
        for _ in overdue:
            self._start_worker(ready)
        if is_busy:
            self._set_timer()

    def _start_worker(self, ready: ReadyQueue) -> None:
        worker = Worker() if self.engine is None else self.engine.Worker()
        thread = threading.Thread(target=self._work, args=(worker, ready), name=self._name, daemon=True)
        with self._lock:
            self._workers[worker] = thread
        thread.start()

    def _work(self, worker: "Worker", ready: "ReadyQueue") -> None:
        PROCESS.begin_thread(worker)
        while not worker.is_replaced and (queue := ready.get(worker)) is not None:
            worker.busy_since_seconds = PROCESS.begin_job()
            has_more = self._run_first(queue)
            PROCESS.end_job()
            if has_more:
                ready.put(queue)
            worker.busy_since_seconds = _IDLE
        with self._lock:
            self._workers.pop(worker, None)

    def _run_first(self, queue: SerialQueue) -> bool:
        """Run the first job of a queue; return whether the queue has more jobs and must be scheduled again."""
        future, function = queue.first()
        deliver: Callable[[Any], None] | None = None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  # every error belongs to the caller, not to the thread
            result = error
            deliver = None if future is None else future.set_exception
        else:
            deliver = None if future is None else future.set_result
        # The job is removed before its result is delivered, because the receiver may ask for the number of jobs.
        has_more = queue.remove_first()
        if future is not None and deliver is not None:
            self.deliver(future, deliver, result)
        return has_more


@dataclass(frozen=True, slots=True)
class ThreadPools:
    """The threads of any number of stores: one pool for writers and one for readers.

    Readers have their own threads because writers wait for the disk.
    """

    write: ThreadPool
    read: ThreadPool

    @classmethod
    def of(
        cls, *, write_threads: int, read_threads: int, engine: "ModuleType | None" = None
    ) -> "ThreadPools":
        """Return pools with these numbers of threads; see `ThreadPool` for the engine."""
        return cls(
            ThreadPool("tenantry write", write_threads, engine),
            ThreadPool("tenantry read", read_threads, engine),
        )

    def retain(self) -> None:
        """Keep the threads of both pools, see `ThreadPool.retain`."""
        self.write.retain()
        self.read.retain()

    def unregister(self) -> None:
        """Undo one call of `retain` on both pools, see `ThreadPool.unregister`."""
        self.write.unregister()
        self.read.unregister()


class _Outbox:
    """The results to be delivered to one event loop.

    To wake the loop, a thread writes to the loop's pipe and the loop reads from the pipe. Each step acquires the interpreter lock. So only
    the first result wakes the loop, and the loop then takes all results that have arrived.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # The reference is weak, because a strong one would keep the outbox's own key in `_outboxes` alive.
        self._loop = ref(loop)
        self._results: deque[tuple[asyncio.Future[Any], Callable[[Any], None], Any]] = deque()
        self._is_loop_woken = False

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> "_Outbox":
        """Return the loop's outbox, which all pools share."""
        with _outboxes_lock:
            outbox = _outboxes.get(loop)
            if outbox is None:
                _outboxes[loop] = outbox = _Outbox(loop)
            return outbox

    def belongs_to(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether this is the outbox of `loop`."""
        return self._loop() is loop

    def put(self, future: asyncio.Future[Any], set_result: Callable[[Any], None], value: Any) -> None:
        """Add a result. Any thread may call this method."""
        self._results.append((future, set_result, value))
        loop = future.get_loop()
        if not self._is_loop_woken:
            self._is_loop_woken = True
            with suppress(RuntimeError):  # the event loop has just been closed
                loop.call_soon_threadsafe(self._deliver_all)
        if loop.is_closed():
            # No caller waits any more. The results would keep the loop, and the loop's references, in memory.
            self._results.clear()

    def _deliver_all(self) -> None:
        # The flag is reset first, because the loop below may miss a result that is added after this line.
        self._is_loop_woken = False
        try:
            while self._results:
                future, set_result, value = self._results.popleft()
                if not future.done():
                    set_result(value)
        except BaseException:  # an event hook ends the program, and callers still wait for the other results while the loop shuts down
            asyncio.get_running_loop().call_soon(self._deliver_all, context=contextvars.Context())
            raise


_outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Outbox] = WeakKeyDictionary()
_outboxes_lock = threading.Lock()

# A thread that holds the lock at a fork would not exist in the child.
os.register_at_fork(
    before=_outboxes_lock.acquire,
    after_in_parent=_outboxes_lock.release,
    after_in_child=_outboxes_lock.release,
)
