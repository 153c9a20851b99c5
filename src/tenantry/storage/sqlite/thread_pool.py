"""The threads that run SQLite's work: a few for the connections of all tenants, and not one for each.

aiosqlite gives every connection a thread. With many tenants at work that is the cost that counts: each job wakes a thread
of its own, and awake they take the interpreter's lock from each other at every statement, since Python's sqlite3 gives it
up around each. 64 tenants with one caller each, half reads and half writes, did 5,500 calls/s so, and 8,200 with four
threads for the writers and one for the readers (2 cores). A thread that finds the next job waiting does not go to sleep; and
a connection costs no thread, neither to start nor to keep.

Theory of operation. A connection has a `Strand`: its jobs in the order in which they were given, one at a time. A strand
with something to do stands in the crew's line once; a thread takes the first in line, runs one job of it, and sends it to the
end if there is more. So nobody waits longer than one job of each who came before.

A job that takes longer than a turn (a runaway query, a disk that hangs, a wait for another process's lock) must not hold up
the others: its thread is written off, another takes its place, and it ends when the job does. So there are at most as many
threads more as connections with such a job.

Threads start with the connections, up to the number wanted, and end with the last one. They are daemons: a connection that
its owner leaked must not keep the process from ending. SQLite survives the loss of a thread at any moment, as it survives
kill -9.
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

from tenantry.storage.sqlite.pace import PROCESS, TURN_SECONDS

_IDLE: Final = float("inf")

Item: TypeAlias = tuple[asyncio.Future[Any] | None, Callable[[], Any]]
"""What aiosqlite puts into its thread's queue: a function, and the future of its result."""


class Strand:
    """One connection's jobs, in order and one at a time; takes the place of the queue of aiosqlite's own thread."""

    def __init__(self, crew: "Crew") -> None:
        self._crew = crew
        self._items: deque[Item] = deque()
        self._lock = threading.Lock()
        self._has_turn = False  # it stands in line, or one of its jobs runs

    def put_nowait(self, item: Item) -> None:
        """Add a job."""
        with self._lock:
            self._items.append(item)
            if self._has_turn:
                return
            self._has_turn = True
        self._crew.enqueue(self)

    def qsize(self) -> int:
        """Return how many jobs wait or run."""
        return len(self._items)

    def run_next(self) -> bool:
        """Run the first job, on a thread of the crew; return whether there are more, for which it keeps its turn."""
        future, function = self._items[0]
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the caller's and not the thread's
            has_more = self._pass_on()
            if future is not None:
                self._crew.deliver(future, future.set_exception, error)
        else:
            has_more = self._pass_on()
            if future is not None:
                self._crew.deliver(future, future.set_result, result)
        return has_more

    def _pass_on(self) -> bool:
        # Before the result is posted: whoever gets it may look how much there is to do.
        with self._lock:
            self._items.popleft()
            self._has_turn = bool(self._items)
            return self._has_turn


class Crew:
    """So many threads for any number of connections.

    Args:
        name: Of its threads.
        threads: How many work at once.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._threads = threads
        self._line: SimpleQueue[Strand | None] = SimpleQueue()
        # Reentrant: the garbage collector may close a connection at any moment, also while this thread holds the lock.
        self._lock = threading.RLock()
        self._workers: set[_Worker] = set()
        self._connections = 0
        self._outbox: _Outbox | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()  # not that of whoever happened to set the timer

    def keep(self) -> None:
        """Keep the threads though no connection is there, until `leave` is called for this too."""
        self._connections += 1

    def join(self) -> Strand:
        """Take in a connection, and return its strand; every one leaves again."""
        self._connections += 1
        if len(self._workers) < self._threads:
            self._add_worker()
        return Strand(self)

    def leave(self) -> None:
        """Let a connection go whose jobs are all done; with the last one the threads end."""
        self._connections -= 1
        if self._connections:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # A line of its own for those who come after: a thread that was written off ends without its sign.
        line, self._line = self._line, SimpleQueue()
        with self._lock:
            workers, self._workers = self._workers, set()
        for _ in workers:
            line.put(None)
        for worker in workers:
            # It has no job any more, so this waits for microseconds; but for a connection that was lost while it opened.
            if worker.thread is not threading.current_thread():  # on which a lost connection was collected
                worker.thread.join(TURN_SECONDS)

    def enqueue(self, strand: Strand) -> None:
        """Put a strand at the end of the line."""
        self._line.put(strand)
        if self._timer is None:
            self._set_timer()

    def deliver(self, future: asyncio.Future[Any], settle: Callable[[Any], None], value: Any) -> None:
        """Settle a future on its event loop; from any thread."""
        loop = future.get_loop()
        outbox = self._outbox
        if outbox is None or not outbox.belongs_to(loop):
            self._outbox = outbox = _Outbox.of(loop)
        outbox.put(future, settle, value)

    def _set_timer(self) -> None:
        # Without a loop, when a connection is closed that its owner lost, nobody waits either.
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(TURN_SECONDS, self._relieve, context=self._context)

    def _relieve(self) -> None:
        """Replace the threads whose job takes too long; look again while there is work."""
        self._timer = None
        too_long_ago = time.monotonic() - TURN_SECONDS
        with self._lock:
            overdue = [
                w for w in self._workers if w.busy_since_seconds < too_long_ago and not w.is_written_off
            ]
            for worker in overdue:
                worker.is_written_off = True
            is_busy = not self._line.empty() or any(w.is_busy for w in self._workers)
        for _ in overdue:
            self._add_worker()
        if is_busy:
            self._set_timer()

    def _add_worker(self) -> None:
        worker = _Worker()
        worker.thread = threading.Thread(
            target=self._work, args=(worker, self._line), name=self._name, daemon=True
        )
        with self._lock:
            self._workers.add(worker)
        worker.thread.start()

    def _work(self, worker: "_Worker", line: "SimpleQueue[Strand | None]") -> None:
        while not worker.is_written_off and (strand := line.get()) is not None:
            worker.busy_since_seconds = PROCESS.begin_job()
            has_more = strand.run_next()
            PROCESS.end_job()
            if has_more:
                line.put(strand)
            worker.busy_since_seconds = _IDLE
        with self._lock:
            self._workers.discard(worker)


@dataclass(frozen=True, slots=True)
class Crews:
    """The threads of any number of stores: for their writers, and for their readers.

    Reads have threads of their own, because a write waits for the disk.
    """

    write: Crew
    read: Crew

    @classmethod
    def of(cls, *, write_threads: int, read_threads: int) -> "Crews":
        """Return crews of so many threads."""
        return cls(Crew("tenantry write", write_threads), Crew("tenantry read", read_threads))

    def keep(self) -> None:
        """See `Crew.keep`."""
        self.write.keep()
        self.read.keep()

    def leave(self) -> None:
        """See `Crew.leave`."""
        self.write.leave()
        self.read.leave()


class _Worker:
    """One thread, and since when it has been with its job."""

    __slots__ = ("busy_since_seconds", "is_written_off", "thread")

    def __init__(self) -> None:
        self.thread: threading.Thread
        self.busy_since_seconds = _IDLE
        self.is_written_off = False

    @property
    def is_busy(self) -> bool:
        return self.busy_since_seconds != _IDLE


class _Outbox:
    """The results on their way to one event loop.

    Waking the loop costs a write to its pipe and a read from it, and with each of them a turn for the interpreter's lock.
    So it is woken for the first result, and finds there what has come since.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weak, or the value would keep its own key in `_outboxes`.
        self._loop = ref(loop)
        self._results: deque[tuple[asyncio.Future[Any], Callable[[Any], None], Any]] = deque()
        self._is_announced = False

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> "_Outbox":
        """Return the loop's one outbox, which all crews share."""
        with _outboxes_lock:
            outbox = _outboxes.get(loop)
            if outbox is None:
                _outboxes[loop] = outbox = _Outbox(loop)
            return outbox

    def belongs_to(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether it is this loop's."""
        return self._loop() is loop

    def put(self, future: asyncio.Future[Any], settle: Callable[[Any], None], value: Any) -> None:
        """Add a result, on any thread."""
        self._results.append((future, settle, value))
        loop = future.get_loop()
        if not self._is_announced:
            self._is_announced = True
            with suppress(RuntimeError):  # the loop was closed at this moment
                loop.call_soon_threadsafe(self._empty)
        if loop.is_closed():
            # Nobody waits any more. Kept, the results would keep the loop, and all that was lost with it, in memory.
            self._results.clear()

    def _empty(self) -> None:
        # First this: what is put in from here on may come too late for the look below.
        self._is_announced = False
        while self._results:
            future, settle, value = self._results.popleft()
            if not future.done():
                settle(value)


_outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Outbox] = WeakKeyDictionary()
_outboxes_lock = threading.Lock()
