"""Limits the share of the processor that a long job takes while other jobs run.

Python has one interpreter lock. A statement that calls a Python function (`sha256`, `exact_sum`) acquires the lock for each row. Every
other thread, including the event loop's, gets the lock only after the interpreter's switch interval of 5 ms
(https://docs.python.org/3/library/sys.html#sys.setswitchinterval). In a measurement, four tenants with such statements reduced the write
rate of another tenant to a twentieth. So a job that has run longer than `LONG_JOB_SECONDS` pauses for as long as it works, and only one
long job works at a time. All long jobs together use half of one processor. A long job runs at full speed while no shorter jobs begin.

The Python functions, which hold the interpreter lock anyway, call `Pace.give_way_in_function`. SQLite's progress handler calls
`Pace.give_way`. The handler must acquire the interpreter lock, so SQLite calls the handler too rarely for a measurable cost.

A batch of the engine in C does not need the interpreter lock, unless its statements call Python functions. Such a batch has no pace. So
once it is long, it leaves the engine, and runs again as a job of Python. For that, each thread tells its `BatchClock`.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

LONG_JOB_SECONDS: Final = 0.1
"""The running time after which a job is a long job."""

SLICE_SECONDS: Final = 0.002
"""The shortest working time of a long job between two pauses."""

PAUSE_SECONDS_MAX: Final = 0.05
"""The longest pause, and so the longest delay before an interrupted statement ends."""

LANE_SECONDS_MAX: Final = 0.25
"""The longest wait of a long job for the working long job, which may itself be waiting for a disk."""

_HANDOVER_SECONDS: Final = 0.001
_OPS_PER_LOOK: Final = 1_000_000  # about ten milliseconds
_NEVER: Final = float("-inf")


class BatchClock(Protocol):
    """A thread, as the engine sees it."""

    @property
    def busy_since_seconds(self) -> float:
        """The start time of the job or batch that runs on the thread; infinity without one."""


class LongBatchError(Exception):
    """A batch of the engine has called Python functions for too long, and continues as a job of Python."""


class _Job:
    """The job of one thread."""

    __slots__ = ("batch_clock", "began_seconds", "has_lane", "resumed_seconds")

    def __init__(self) -> None:
        self.began_seconds = self.resumed_seconds = _NEVER
        self.has_lane = False
        self.batch_clock: BatchClock | None = None


class _ThreadState(threading.local):
    """Each thread's job, in only one attribute because attributes of a `threading.local` are slow to access."""

    def __init__(self) -> None:
        self.job = _Job()


class Pace:
    """Pauses the long job of a thread while shorter jobs begin."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        *,
        lane_seconds_max: float = LANE_SECONDS_MAX,
    ) -> None:
        self._now = now
        self._sleep = sleep
        self._lane_seconds_max = lane_seconds_max
        self._thread = _ThreadState()
        self._lane = threading.Lock()
        self._latest_began_seconds = _NEVER
        self._latest_batch_began_seconds: Callable[[], float] = lambda: _NEVER

    def leave_in_child(self) -> None:
        """Forget the jobs of the parent's threads, which a forked child does not have."""
        self._thread, self._lane = _ThreadState(), threading.Lock()

    def watch_engine(self, latest_began_seconds: Callable[[], float]) -> None:
        """Count the engine's batches as jobs of others; the function returns the start time of the latest one."""
        self._latest_batch_began_seconds = latest_began_seconds

    def begin_thread(self, batch_clock: BatchClock) -> None:
        """Record the clock of the engine's batches that run on this thread."""
        self._thread.job.batch_clock = batch_clock

    def begin_job(self) -> float:
        """Record that a job begins on this thread, and return the start time."""
        job = self._thread.job
        job.began_seconds = job.resumed_seconds = self._latest_began_seconds = now = self._now()
        return now

    def end_job(self) -> None:
        """Record that this thread's job has ended."""
        job = self._thread.job
        job.began_seconds = _NEVER
        if job.has_lane:
            job.has_lane = False
            self._lane.release()

    def give_way_in_function(self) -> None:
        """Pause like `give_way`, in a Python function that a statement calls.

        Raises:
            LongBatchError: The statement's batch runs in the engine, and is long. The error makes the engine leave the batch to Python.
        """
        job = self._thread.job
        if job.began_seconds != _NEVER:
            self.give_way()
        elif (
            job.batch_clock is not None
            and self._now() - job.batch_clock.busy_since_seconds >= LONG_JOB_SECONDS
        ):
            raise LongBatchError

    def give_way(self) -> None:
        """Pause if this thread's job is long and other jobs begin."""
        job, now = self._thread.job, self._now()
        worked_seconds = now - job.resumed_seconds
        if (
            worked_seconds < SLICE_SECONDS
            or now - job.began_seconds < LONG_JOB_SECONDS
            or job.began_seconds == _NEVER
        ):
            return
        latest_began_seconds = max(self._latest_began_seconds, self._latest_batch_began_seconds())
        are_others_at_work = now - latest_began_seconds < LONG_JOB_SECONDS
        if are_others_at_work:
            # A pausing long job keeps the lock of long jobs, so that no other long job works during the pause.
            self._sleep(min(worked_seconds, PAUSE_SECONDS_MAX))
        if job.has_lane:
            job.has_lane = False
            self._lane.release()
        if are_others_at_work:
            # Without this pause the thread would acquire the lock of long jobs again before a waiting thread wakes.
            self._sleep(_HANDOVER_SECONDS)
            job.has_lane = self._lane.acquire(timeout=self._lane_seconds_max)
        job.resumed_seconds = self._now()

    def watch(self, connection: sqlite3.Connection) -> None:
        """Make SQLite call `give_way` during a connection's statements."""
        connection.set_progress_handler(self.give_way, _OPS_PER_LOOK)


PROCESS: Final = Pace()
"""The only instance, because the process has one interpreter lock."""

os.register_at_fork(after_in_child=PROCESS.leave_in_child)
