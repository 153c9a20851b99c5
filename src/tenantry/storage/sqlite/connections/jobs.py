"""The futures of a connection's jobs: an opening or a closing, a call that runs on a thread, and a batch of the engine."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import anyio

from tenantry.prompt_future import PromptFuture
from tenantry.storage.sqlite.connections.trials import Trials
from tenantry.storage.sqlite.engine.native import NativeBatch

T = TypeVar("T")

_INTERRUPT_INTERVAL_SECONDS = 0.01


class RunsJobs(Protocol):
    """A connection, as its jobs use it; see `JobConnection`."""

    trials: Trials

    def check_open(self) -> None:
        """Raise `ValueError` if the connection was closed or is closing."""

    def begin(self, job: "Job[Any]") -> bool:
        """Record on the pool's thread that the job runs; return False if the job was cancelled before."""

    def end(self) -> None:
        """Record on the pool's thread that the job has ended and can no longer interrupt the connection."""

    def roll_back(self) -> None:
        """Roll back the transaction of a job that was cancelled."""

    def interrupt_job(self, job: "Job[Any]") -> bool:
        """Interrupt the connection if it runs this job; return whether it runs this job."""

    def interrupt_batch(self, batch: NativeBatch) -> bool:
        """Give a batch up; return whether it runs in the engine now."""

    def run_in_python(self, job: "Job[Any]") -> None:
        """Run a job again after all jobs that wait, because the engine cannot return its results."""


class Change(asyncio.Future[None]):
    """The future of a connection's opening or closing, which nobody can cancel: a caller that is cancelled gets `CancelledError` at its end.

    `finish` is called on the event loop with this future and the engine's batch that has opened or closed the connection. It returns False
    if a job of Python has to do this instead; that job then ends the future.
    """

    def __init__(self, finish: "Callable[[Change, NativeBatch], bool]") -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._finish = finish

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002  # asyncio's name
        """Return False."""
        return False

    def deliver(self, batch: NativeBatch) -> None:
        """Take the batch, which has ended."""
        try:
            is_done = self._finish(self, batch)
        except Exception as error:  # noqa: BLE001  # the error belongs to the caller
            self.set_exception(error)
        else:
            if is_done:
                self.set_result(None)


class Job(PromptFuture[T]):
    """A call that runs on a connection's thread, and the future of its result.

    A job that is cancelled before it begins does not run. The statements of a job that is cancelled while it runs are interrupted until
    the job ends (https://www.sqlite.org/c3ref/interrupt.html). A cancelled job's transaction is rolled back before the next job runs.
    """

    def __init__(self, call: Callable[[], T], connection: RunsJobs) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        connection.check_open()
        self._call = call
        self._connection = connection

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the job; if the job runs, interrupt it."""
        is_cancelled = super().cancel(msg)
        if is_cancelled:
            self._interrupt()
        return is_cancelled

    def run(self) -> T:
        """Run the call on the pool's thread."""
        if not self._connection.begin(self):
            raise sqlite3.OperationalError("cancelled before it ran")
        try:
            return self._call()
        finally:
            self._connection.end()
            if self.cancelled():
                self._connection.roll_back()

    def _interrupt(self) -> None:
        """Interrupt the job repeatedly until the job ends, because an interrupt between two statements has no effect."""
        if self._connection.interrupt_job(self):
            self.get_loop().call_later(_INTERRUPT_INTERVAL_SECONDS, self._interrupt)


class BatchJob(Job[T]):
    """A batch of the engine, and the future of its result."""

    def __init__(
        self,
        call: Callable[[], T],
        connection: RunsJobs,
        batch: NativeBatch,
        finish: Callable[[NativeBatch], T],
    ) -> None:
        super().__init__(call, connection)
        self._batch = batch
        self._finish = finish

    def run(self) -> T:
        """Run the batch in Python, because the engine could not."""
        if not self.cancelled():
            self._connection.trials.fail()
        return super().run()

    def deliver(self, batch: NativeBatch) -> None:
        """Set the result of the batch, which has ended."""
        self._connection.trials.succeed()
        try:
            result = self._finish(batch)
        except UnicodeDecodeError:
            self._connection.run_in_python(self)
        except Exception as error:  # noqa: BLE001  # the error belongs to the caller
            self.set_exception(error)
        else:
            self.set_result(result)

    def _interrupt(self) -> None:
        if self._connection.interrupt_batch(self._batch):
            self.get_loop().call_later(_INTERRUPT_INTERVAL_SECONDS, self._interrupt)
        else:
            super()._interrupt()  # the batch may run in Python


async def finished(task: "asyncio.Future[Any]") -> None:
    """Wait until the task has finished, even if the caller is cancelled again. The caller must re-raise the cancellation."""
    with anyio.CancelScope(shield=True):
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
