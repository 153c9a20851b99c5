"""An aiosqlite connection that runs whole functions as jobs on the threads of a pool.

The sqlite3 connection must be opened with ``check_same_thread=False``: its jobs run one at a time, but on any thread of the pool
(`tenantry.storage.sqlite.connections.thread_pool`).

Only this module uses private parts of aiosqlite: the attributes set by the constructor, and the queue ``_tx`` of futures and functions.
aiosqlite's public interface starts a thread for each connection and switches to that thread for each statement. A batch of 64 saves
would need 66 thread switches; a batch in one job needs one. The best of seven runs on a database in memory made 73,000 saves/s and
44,000 reads/s with the public interface, and 397,000 and 230,000 with jobs. `tests/storage/sqlite/test_connection.py` pins the private parts.
"""

import asyncio
import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar
from weakref import WeakSet

import aiosqlite

from tenantry.errors import PersistenceConnectionError
from tenantry.forks import keep_for_ever
from tenantry.storage.sqlite.connections.borrowed import borrow
from tenantry.storage.sqlite.connections.jobs import BatchJob, Change, Job, finished
from tenantry.storage.sqlite.connections.thread_pool import Item, SerialQueue, ThreadPool
from tenantry.storage.sqlite.connections.trials import Trials
from tenantry.storage.sqlite.database_files.inherited_files import note_inherited_files
from tenantry.storage.sqlite.engine.native import Delivered, NativeBatch, NativeDatabase, outlet
from tenantry.threads import running_loop

T = TypeVar("T")

_ROWS_PER_FETCH = 64


Connector: TypeAlias = Callable[[], sqlite3.Connection]


class NativeOpening(NamedTuple):
    """A batch of the engine that opens a file.

    Attributes:
        batch: The batch.
        take: The function that takes the file over on the event loop, after the batch; None if Python must open the file.
    """

    batch: NativeBatch
    take: Callable[[NativeBatch], NativeDatabase | None]


class JobConnection(aiosqlite.Connection):
    """One sqlite3 connection, used by one job at a time."""

    def __init__(self, connector: Connector, thread_pool: ThreadPool) -> None:
        # super().__init__() is not called, because it creates a thread, which would double the time of this constructor.
        self._running = True
        self._connection: sqlite3.Connection | None = None
        self._database: NativeDatabase | None = None
        self.trials = Trials()
        self._connector = connector  # the connector of an unopened connection
        self._iter_chunk_size = _ROWS_PER_FETCH
        self._thread_pool = thread_pool
        self._tx: SerialQueue = thread_pool.register()  # type: ignore[assignment]
        self._running_job: Job[Any] | None = None
        self._job_lock = threading.Lock()
        _all_connections.add(self)

    @classmethod
    async def open(
        cls, connector: Connector, thread_pool: ThreadPool, opening: NativeOpening | None = None
    ) -> "JobConnection":
        """Open the connection on one of the pool's threads and return it. Cancellation leaves no connection open.

        If `connector` fails, it must leave nothing open.

        Args:
            connector: The function that opens the connection.
            thread_pool: The pool.
            opening: The engine's batch that is tried first; None to open the connection in Python.

        Raises:
            PersistenceConnectionError: No asyncio event loop runs.
        """
        running_loop()
        connection = cls(connector, thread_pool)
        opened = Change(partial(connection._take, opening))
        try:
            if opening is None:
                connection._put((opened, connection._open_on_thread))
            else:
                connection._put_batch(opening.batch, opened, connection._open_on_thread)
        except BaseException:  # for the engine's first batch of an event loop there may be no descriptor left
            thread_pool.unregister()
            raise
        try:
            await opened
        except BaseException:
            # A thread cannot be cancelled while it opens a connection. Wait for the thread, then close the connection.
            await finished(opened)
            if opened.exception() is None:
                await finished(asyncio.ensure_future(connection.aclose()))
            else:
                thread_pool.unregister()
            raise
        return connection

    def __del__(self) -> None:
        """Close a connection that its owner did not close; `Connections` gives the warning about the leak."""
        if not sys.is_finalizing():
            with contextlib.suppress(sqlite3.Error):
                self.abandon()

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""
        return self._connection is not None or self._database is not None

    def move_to(self, thread_pool: ThreadPool) -> None:
        """Run all later jobs on the threads of another pool. The connection must have no job when this method is called."""
        self._thread_pool.unregister()
        self._thread_pool = thread_pool
        self._tx = thread_pool.register()

    @property
    def backlog(self) -> int:
        """The number of waiting and running jobs."""
        return self._tx.qsize()

    def submit(self, function: Callable[[sqlite3.Connection], T]) -> "Job[T]":
        """Run `function` on one of the pool's threads after all jobs submitted earlier; return the future of its result.

        Raises:
            ValueError: The connection is closed.
        """
        return self.submit_call(self.with_connection(function))

    def submit_call(self, call: Callable[[], T]) -> "Job[T]":
        """Run a call without arguments like `submit`. A call that needs the sqlite3 connection gets it from `opened`."""
        job = Job(call, self)
        self._put((job, job.run))
        return job

    def with_connection(self, function: Callable[[sqlite3.Connection], T]) -> Callable[[], T]:
        """Return the call that passes the sqlite3 connection to the function, for `submit_call` and `submit_batch`."""
        return lambda: function(self.opened())

    def use_engine(self, token: str | None, file: tuple[str, int, int, int] | None = None) -> None:
        """Let the engine run batches on this connection, which has no job now; a no-op if the pool has no engine.

        Args:
            token: The owner's token, which the guard of each write compares; None for a database without an owner.
            file: The path, inode, size in bytes and modification time in nanoseconds of an immutable file; None for another file.
        """
        if self._thread_pool.engine is not None and self._database is None:
            self._database = self._thread_pool.engine.Database(self._conn, token, file)

    @property
    def has_engine(self) -> bool:
        """Whether the engine may run batches on this connection."""
        return self._database is not None

    def batch(
        self, kind: int, requests: Sequence[Any], *, is_whole: bool = False, is_inside: bool = False
    ) -> NativeBatch | None:
        """Return a batch for `submit_batch`; None if the requests must run in Python. See `NativeDatabase.batch`."""
        if self._database is None or not self._running or not self.trials.is_due():
            return None
        units = requests if type(requests) is list else list(requests)
        return self._database.batch(kind, units, is_whole, is_inside)

    def submit_batch(
        self, batch: NativeBatch, call: Callable[[], T], finish: Callable[[NativeBatch], T]
    ) -> "Job[T]":
        """Run a batch of the engine, in the order of `submit`; return the future of its result.

        Args:
            batch: The batch.
            call: The call that runs instead if the batch has to run in Python, see `submit_call`.
            finish: The function that returns the result of a batch that has ended.
        """
        job = BatchJob(call, self, batch, finish)
        self._put_batch(batch, job, job.run)
        return job

    def run_in_python(self, job: "Job[Any]") -> None:
        """Run a job again after all jobs that wait, because the engine cannot return its results. A closed connection fails the job."""
        if self._running:
            self._put((job, job.run))
        else:
            job.set_exception(
                PersistenceConnectionError("cannot read: the database was disconnected in the meantime")
            )

    def _put_batch(self, batch: NativeBatch, future: Delivered, function: Callable[[], Any]) -> None:
        self._tx.put_batch(batch, future, function, outlet(future.get_loop()))  # type: ignore[attr-defined]  # the engine's queue
        self._thread_pool.watch()

    def _put(self, item: Item) -> None:
        self._tx.put_nowait(item)
        self._thread_pool.watch()

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function` like `submit`, and return its result. Cancellation discards the result; the function still runs to its end."""
        self.check_open()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put((future, self.with_connection(function)))
        return await future

    async def aclose(
        self,
        then: Callable[[], None] | None = None,
        closing: Callable[[NativeDatabase], NativeBatch | None] | None = None,
        before: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        """Close the connection, then call `then` on the same thread. Closing a closed connection is a no-op.

        Args:
            then: The function that is called afterwards.
            closing: The function that returns the engine's batch which does the same for a file that only the engine has open; None if
                Python must do it.
            before: The function that is called with the connection first, on the same thread.

        Raises:
            sqlite3.Error: SQLite could not close the connection. The connection is still open; call `aclose` again.
        """
        if not self.is_open:
            return
        # aiosqlite's close() would drop the handle even if closing fails.
        closed = Change(self._note_closed)
        self._running = False
        batch = self._closing_batch(closing) if before is None else None
        if batch is None:
            self._put((closed, lambda: self._close_on_thread(then, before)))
        else:
            self._put_batch(batch, closed, lambda: self._close_on_thread(then, None))
        try:
            await closed
        except BaseException:
            # The thread closes the connection even if the caller was cancelled. If closing fails, the connection stays open.
            await finished(closed)
            if closed.exception() is None:
                self._thread_pool.unregister()
            else:
                self._running = True
            raise
        self._thread_pool.unregister()

    def _closing_batch(
        self, closing: Callable[[NativeDatabase], NativeBatch | None] | None
    ) -> NativeBatch | None:
        """Return the engine's batch that closes the file; None if Python must close it."""
        # A job that waits or runs may open a connection of Python, which the engine would leave open.
        if closing is None or self.backlog or self._connection is not None or self._database is None:
            return None
        try:
            # The batch takes over the file's lock, so it must not be lost: for an event loop's first batch, no descriptor may be left.
            outlet(asyncio.get_running_loop())
        except OSError:
            return None
        return closing(self._database)

    def abandon(self, before: Callable[[sqlite3.Connection], None] | None = None) -> bool:
        """Close the connection on this thread, because its event loop has ended; return False if another thread still uses it.

        `before` is called first, see `aclose`.
        """
        if not self.is_open:
            return True
        if self.backlog:
            return False
        self._running = False
        self._close_on_thread(None, before)
        self._thread_pool.unregister()
        return True

    def leave_in_child(self) -> None:
        """Let a forked child never close the parent's connection.

        SQLite would checkpoint a log that the parent writes, or wait for a mutex that a thread of the parent held at the fork.
        """
        self._running = False
        for parents in (self._database, self._connection):
            if parents is not None:
                keep_for_ever(parents)
        self._connection = self._database = None

    def _open_on_thread(self) -> None:
        self._connection = self._connector()

    def _take(self, opening: NativeOpening | None, opened: "Change", batch: NativeBatch) -> bool:
        self._database = None if opening is None else opening.take(batch)
        if self._database is None:
            self._put((opened, self._open_on_thread))
            return False
        return True

    def _note_closed(self, _closed: "Change", _batch: NativeBatch) -> bool:
        self._database = None
        return True

    def _close_on_thread(
        self, then: Callable[[], None] | None, before: Callable[[sqlite3.Connection], None] | None
    ) -> None:
        if before is not None:
            before(self.opened())
        if self._database is not None:
            self._database.close()
        if self._connection is not None:
            self._connection.close()
        self._connection = self._database = None
        if then is not None:
            then()

    def check_open(self) -> None:
        """Raise `ValueError` if the connection was closed or is closing."""
        if not self.is_open:
            raise ValueError("the connection is closed")
        if not self._running:
            raise ValueError("the connection is closing")

    def opened(self) -> sqlite3.Connection:
        """Return the sqlite3 connection, which the engine lends now if the engine has opened the file; a job calls this method."""
        if self._connection is None:
            if self._database is None:
                raise ValueError("the connection is closed")
            self._connection = borrow(self._database)
        return self._connection

    def roll_back(self) -> None:
        """Roll back the transaction of a job that was cancelled; the interrupt may have stopped the job's own ROLLBACK."""
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def begin(self, job: "Job[Any]") -> bool:
        """Record on the pool's thread that the job runs; return False if the job was cancelled before."""
        with self._job_lock:
            if job.cancelled():
                return False
            self._running_job = job
            return True

    def end(self) -> None:
        """Record on the pool's thread that the job has ended and can no longer interrupt the connection."""
        with self._job_lock:
            self._running_job = None

    def interrupt_job(self, job: "Job[Any]") -> bool:
        """Interrupt the connection if it runs this job; return whether it runs this job."""
        # Under the lock the job cannot end, so the interrupt cannot hit the next caller's job.
        with self._job_lock:
            is_running = self._running_job is job
            if is_running and self._connection is not None:
                self._connection.interrupt()
            return is_running

    def interrupt_batch(self, batch: NativeBatch) -> bool:
        """Give a batch up; return whether it runs in the engine now. Then its statements were interrupted."""
        return bool(self._tx.interrupt(batch))  # type: ignore[attr-defined]  # the engine's queue


_all_connections: Final[WeakSet[JobConnection]] = WeakSet()
"""The connections of this process, for `os.fork`."""


def _leave_in_child() -> None:
    connections = tuple(_all_connections)
    if connections:
        note_inherited_files()
    for connection in connections:
        connection.leave_in_child()


os.register_at_fork(after_in_child=_leave_in_child)
