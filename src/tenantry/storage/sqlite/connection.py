"""An aiosqlite connection that runs whole functions on its thread.

aiosqlite crosses to the connection's thread and back once for every call; a batch of 64 statements would cross 65
times. `JobConnection.run` crosses once for the batch. It rests on one private method of aiosqlite, ``_execute``, which
`tests/unit/test_connection.py` pins.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from typing import TypeVar

import aiosqlite
import anyio

T = TypeVar("T")

_ROWS_PER_FETCH = 64
_INTERRUPT_INTERVAL_SECONDS = 0.01


class JobConnection(aiosqlite.Connection):
    """One sqlite3 connection and the thread that owns it."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, _ROWS_PER_FETCH)
        # A connection that its owner leaked must not keep the process from ending. SQLite survives the loss of the
        # thread at any moment, as it survives kill -9.
        self._thread.daemon = True
        self._running_ticket: _Ticket | None = None
        self._ticket_lock = threading.Lock()

    @classmethod
    async def open(cls, connector: Callable[[], sqlite3.Connection]) -> "JobConnection":
        """Start the thread, open the connection on it and return it.

        Args:
            connector: Opens the connection; it runs on the thread, and closes what it opened if it fails.

        A caller that is cancelled leaves nothing open.
        """
        connection = cls(connector)
        task = asyncio.ensure_future(connection._connected())
        try:
            await asyncio.shield(task)
        except BaseException:
            # A cancelled caller: the thread is opening it and cannot be stopped half way. Let it, then close.
            await _finished(task)
            if not task.cancelled() and task.exception() is None:
                await _finished(asyncio.ensure_future(connection.aclose()))
            elif not task.cancelled():
                connection._thread.join()
            raise
        return connection

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed."""
        return self._connection is not None

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` on the connection's thread, after those that were given before, and return its result.

        Cancellation loses the result; the job runs to its end all the same.
        """
        result: T = await self._execute(job, self._conn)  # type: ignore[no-untyped-call]
        return result

    async def run_interruptibly(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` like `run`; cancellation interrupts its statement and returns once the thread is free again."""
        ticket = _Ticket()
        try:
            return await self.run(lambda connection: self._run_ticketed(ticket, job, connection))
        except asyncio.CancelledError:
            # anyio cancels at every await until the scope is left.
            with anyio.CancelScope(shield=True):
                await self._interrupt(ticket)
            raise

    async def aclose(self) -> None:
        """Close the connection and end its thread; a no-op when it is closed.

        Raises:
            sqlite3.Error: It would not close; it is still open and can be closed again.
        """
        if self._connection is None:
            return
        # Not aiosqlite's close(): that drops the handle even if closing fails. Its stop() closes and ends the thread in
        # one job, and does neither if closing raises.
        stopped = self.stop()
        assert stopped is not None  # there is a running event loop
        try:
            await stopped
        except BaseException:
            self._running = True
            raise
        # Its last act was to set that result, so this waits for microseconds; then there is no thread.
        self._thread.join()

    async def _connected(self) -> None:
        await self

    async def _interrupt(self, ticket: "_Ticket") -> None:
        """Interrupt the ticket's job until the thread is free: between two statements, an interrupt hits nothing."""
        ticket.is_cancelled = True
        is_free = asyncio.ensure_future(self.run(_do_nothing))
        while not is_free.done():
            with self._ticket_lock:
                # Under the lock this job cannot end and make way for another caller's, which would be hit instead.
                if self._running_ticket is ticket:
                    self._conn.interrupt()
            await asyncio.wait([is_free], timeout=_INTERRUPT_INTERVAL_SECONDS)
        is_free.exception()  # that the connection was closed meanwhile: then it is free too

    def _run_ticketed(
        self, ticket: "_Ticket", job: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection
    ) -> T:
        with self._ticket_lock:
            if ticket.is_cancelled:
                raise sqlite3.OperationalError("cancelled before it ran")
            self._running_ticket = ticket
        try:
            return job(connection)
        finally:
            with self._ticket_lock:
                self._running_ticket = None


class _Ticket:
    """Marks one interruptible job while it waits and runs."""

    __slots__ = ("is_cancelled",)

    def __init__(self) -> None:
        self.is_cancelled = False


async def _finished(task: "asyncio.Future[None]") -> None:
    """Wait until the task has finished, however often the waiting one is cancelled; the caller raises it again."""
    with anyio.CancelScope(shield=True):
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])


def _do_nothing(_: sqlite3.Connection) -> None:
    """Tell, by being run, that the thread is free."""
