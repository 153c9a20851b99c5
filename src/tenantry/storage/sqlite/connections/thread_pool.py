"""The threads that run SQLite's work: a few shared by all connections, instead of one for each connection.

aiosqlite gives every connection a thread of its own. With many busy tenants that is the dominant cost: each job wakes another
thread, and the threads that are awake compete for the interpreter lock at every statement, because Python's sqlite3 releases it
around each one. 64 tenants with one caller each, half reads and half writes, made 5,500 calls/s that way, and 8,200 calls/s with
four threads for writers and one for readers (2 cores). A thread that finds the next job waiting does not go to sleep, and
a connection needs no thread to be started or kept.

Theory of operation. Each connection has a `SerialQueue`: its jobs run in the order in which they were added, one at a time, on
whichever thread is free. (Boost.Asio calls this a queue.) A serial queue that has jobs is in the pool's ready queue exactly once.
A thread takes the first serial queue, runs one job of it, and appends it to the ready queue again if it has more. So a job waits
for at most one job of each queue that is before it.

A job that takes longer than `LONG_JOB_SECONDS` (a runaway query, a disk that hangs, a wait for another process's lock) must not
delay the others: the pool starts another thread in place of the one that runs it, and the replaced thread ends with that job. So
there is at most one extra thread for each connection with such a job.

A thread starts for each connection, up to `threads_max`; all stop when the last connection closes. They are daemons: a
connection that its owner leaked must not keep the process from ending. SQLite survives the loss of a thread at any moment, as it
survives kill -9.
"""

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary, ref

from tenantry.storage.sqlite.connections.pace import LONG_JOB_SECONDS, PROCESS

_IDLE: Final = float("inf")

Item: TypeAlias = tuple[asyncio.Future[Any] | None, Callable[[], Any]]
"""What aiosqlite puts into its thread's queue: a function, and the future of its result."""


class SerialQueue:
    """One connection's jobs, which run in order and one at a time; it replaces the queue of aiosqlite's own thread."""

    def __init__(self, pool: "ThreadPool") -> None:
        self._pool = pool
        self._items: deque[Item] = deque()
        self._lock = threading.Lock()
        self._is_scheduled = False  # it is in the ready queue, or one of its jobs runs

    def put_nowait(self, item: Item) -> None:
        """Add a job."""
        with self._lock:
            self._items.append(item)
            if self._is_scheduled:
                return
            self._is_scheduled = True
        self._pool.schedule(self)

    def qsize(self) -> int:
        """Return how many jobs wait or run."""
        return len(self._items)

    def run_next(self) -> bool:
        """Run the first job, on a thread of the pool; return whether there are more. If so it must be scheduled again."""
        future, function = self._items[0]
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  # every error belongs to the caller, not to the thread
            has_more = self._remove_first()
            if future is not None:
                self._pool.deliver(future, future.set_exception, error)
        else:
            has_more = self._remove_first()
            if future is not None:
                self._pool.deliver(future, future.set_result, result)
        return has_more

    def _remove_first(self) -> bool:
        # Before the result is delivered: its receiver may ask how many jobs there are.
        with self._lock:
            self._items.popleft()
            self._is_scheduled = bool(self._items)
            return self._is_scheduled


class ThreadPool:
    """A number of threads for any number of connections.

    Args:
        threads_max: How many jobs run at once, without those that take too long.
    """

    def __init__(self, name: str, threads_max: int) -> None:
        self._name = name
        self._threads_max = threads_max
        self._ready: SimpleQueue[SerialQueue | None] = SimpleQueue()
        # Reentrant: the garbage collector may close a connection at any moment, also while this thread holds the lock.
        self._lock = threading.RLock()
        self._workers: set[_Worker] = set()
        self._users = 0
        self._outbox: _Outbox | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()  # not the context of the caller that happened to set the timer

    def retain(self) -> None:
        """Keep the threads while there is no connection, until `unregister` is called once for this too."""
        self._users += 1

    def register(self) -> SerialQueue:
        """Return the queue for a new connection, which calls `unregister` when it is closed."""
        self._users += 1
        if len(self._workers) < self._threads_max:
            self._start_worker()
        return SerialQueue(self)

    def unregister(self) -> None:
        """Note that a connection, whose jobs are all done, was closed. After the last one the threads stop."""
        self._users -= 1
        if self._users:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Connections to come get a new ready queue: a replaced thread ends without its `None`, which would stop another thread.
        ready, self._ready = self._ready, SimpleQueue()
        with self._lock:
            workers, self._workers = self._workers, set()
        for _ in workers:
            ready.put(None)
        for worker in workers:
            # It has no job, so this takes microseconds, except after a connection was lost while it was opened.
            if (
                worker.thread is not threading.current_thread()
            ):  # the garbage collector closed a lost connection on it
                worker.thread.join(LONG_JOB_SECONDS)

    def schedule(self, queue: SerialQueue) -> None:
        """Append a serial queue to the ready queue."""
        self._ready.put(queue)
        if self._timer is None:
            self._set_timer()

    def deliver(self, future: asyncio.Future[Any], set_result: Callable[[Any], None], value: Any) -> None:
        """Set a future's result, or its exception, on its event loop; may be called on any thread."""
        loop = future.get_loop()
        outbox = self._outbox
        if outbox is None or not outbox.belongs_to(loop):
            self._outbox = outbox = _Outbox.of(loop)
        outbox.put(future, set_result, value)

    def _set_timer(self) -> None:
        # No loop runs when a connection is closed that its owner lost; then no caller waits either.
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LONG_JOB_SECONDS, self._replace_overdue, context=self._context)

    def _replace_overdue(self) -> None:
        """Replace the threads whose job takes too long; look again while there is work."""
        self._timer = None
        too_long_ago = time.monotonic() - LONG_JOB_SECONDS
        with self._lock:
            overdue = [w for w in self._workers if w.busy_since_seconds < too_long_ago and not w.is_replaced]
            for worker in overdue:
                worker.is_replaced = True
            is_busy = not self._ready.empty() or any(w.is_busy for w in self._workers)
        for _ in overdue:
            self._start_worker()
        if is_busy:
            self._set_timer()

    def _start_worker(self) -> None:
        worker = _Worker()
        worker.thread = threading.Thread(
            target=self._work, args=(worker, self._ready), name=self._name, daemon=True
        )
        with self._lock:
            self._workers.add(worker)
        worker.thread.start()

    def _work(self, worker: "_Worker", ready: "SimpleQueue[SerialQueue | None]") -> None:
        while not worker.is_replaced and (queue := ready.get()) is not None:
            worker.busy_since_seconds = PROCESS.begin_job()
            has_more = queue.run_next()
            PROCESS.end_job()
            if has_more:
                ready.put(queue)
            worker.busy_since_seconds = _IDLE
        with self._lock:
            self._workers.discard(worker)


@dataclass(frozen=True, slots=True)
class ThreadPools:
    """The threads of any number of stores: one pool for writers and one for readers.

    Reads have their own threads because a write waits for the disk.
    """

    write: ThreadPool
    read: ThreadPool

    @classmethod
    def of(cls, *, write_threads: int, read_threads: int) -> "ThreadPools":
        """Return pools with so many threads."""
        return cls(ThreadPool("tenantry write", write_threads), ThreadPool("tenantry read", read_threads))

    def retain(self) -> None:
        """See `ThreadPool.retain`."""
        self.write.retain()
        self.read.retain()

    def unregister(self) -> None:
        """See `ThreadPool.unregister`."""
        self.write.unregister()
        self.read.unregister()


class _Worker:
    """One thread, and since when it has run its current job."""

    __slots__ = ("busy_since_seconds", "is_replaced", "thread")

    def __init__(self) -> None:
        self.thread: threading.Thread
        self.busy_since_seconds = _IDLE
        self.is_replaced = False

    @property
    def is_busy(self) -> bool:
        return self.busy_since_seconds != _IDLE


class _Outbox:
    """The results to be delivered to one event loop.

    Waking the loop costs a write to its pipe, a read from it, and for each of them a turn with the interpreter lock.
    So only the first result wakes it, and the loop then takes all results that have arrived.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weak, or the value would keep its own key in `_outboxes`.
        self._loop = ref(loop)
        self._results: deque[tuple[asyncio.Future[Any], Callable[[Any], None], Any]] = deque()
        self._is_loop_woken = False

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> "_Outbox":
        """Return the loop's one outbox, which all pools share."""
        with _outboxes_lock:
            outbox = _outboxes.get(loop)
            if outbox is None:
                _outboxes[loop] = outbox = _Outbox(loop)
            return outbox

    def belongs_to(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether this is the outbox of `loop`."""
        return self._loop() is loop

    def put(self, future: asyncio.Future[Any], set_result: Callable[[Any], None], value: Any) -> None:
        """Add a result; may be called on any thread."""
        self._results.append((future, set_result, value))
        loop = future.get_loop()
        if not self._is_loop_woken:
            self._is_loop_woken = True
            with suppress(RuntimeError):  # the loop was closed at this moment
                loop.call_soon_threadsafe(self._deliver_all)
        if loop.is_closed():
            # No caller waits any more. The results would keep the loop, and everything that was lost with it, in memory.
            self._results.clear()

    def _deliver_all(self) -> None:
        # Reset first: a result that is added from here on may come too late for the loop below.
        self._is_loop_woken = False
        while self._results:
            future, set_result, value = self._results.popleft()
            if not future.done():
                set_result(value)


_outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Outbox] = WeakKeyDictionary()
_outboxes_lock = threading.Lock()
