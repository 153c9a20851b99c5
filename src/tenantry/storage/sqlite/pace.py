"""Limits the share of the processor that a long job takes while other jobs run.

Python has one interpreter lock. A statement that calls a Python function for each row (`sha256`, `exact_sum`) takes it for each row,
and every other thread, the event loop's too, gets it only after the interpreter's switch interval of 5 ms
(https://docs.python.org/3/library/sys.html#sys.setswitchinterval). Four tenants with such a statement left a neighbour a twentieth of its
writes. So a job that has lasted longer than a turn makes pauses as long as its work, and of all such jobs one works at a time:
together they use half of one processor. They do so only while shorter jobs begin: alone, a long job runs at full speed.

`Pace.give_way` is called by these functions, which hold the interpreter lock anyway, and by SQLite's progress handler. A callback of
the handler waits for the interpreter lock, so it comes too rarely for its cost to be measurable.
"""

import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Final

LONG_JOB_SECONDS: Final = 0.1
"""A job that has run longer counts as long."""

SLICE_SECONDS: Final = 0.002
"""How long a long job works at least between two pauses."""

PAUSE_SECONDS_MAX: Final = 0.05
"""How long a pause is at most: a statement that is interrupted ends after it."""

_HANDOVER_SECONDS: Final = 0.001
_LANE_SECONDS_MAX: Final = 0.25  # the job that has the lane may wait for a disk
_OPS_PER_LOOK: Final = 1_000_000  # some ten milliseconds
_NEVER: Final = float("-inf")


class _Job:
    """The job of a thread."""

    __slots__ = ("began_seconds", "has_lane", "resumed_seconds")

    def __init__(self) -> None:
        self.began_seconds = self.resumed_seconds = _NEVER
        self.has_lane = False


class _ThreadState(threading.local):
    """A job for each thread: an attribute of this object costs as much as ten of others."""

    def __init__(self) -> None:
        self.job = _Job()


class Pace:
    """Tells a thread's job when to pause.

    Args:
        now: A monotonic clock, in seconds.
        sleep: Sleeps, in seconds.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._now = now
        self._sleep = sleep
        self._thread = _ThreadState()
        self._lane = threading.Lock()
        self._latest_began_seconds = _NEVER

    def begin_job(self) -> float:
        """Note that a job begins on this thread, and return when."""
        job = self._thread.job
        job.began_seconds = job.resumed_seconds = self._latest_began_seconds = now = self._now()
        return now

    def end_job(self) -> None:
        """Note that this thread's job has ended."""
        job = self._thread.job
        job.began_seconds = _NEVER
        if job.has_lane:
            job.has_lane = False
            self._lane.release()

    def give_way(self) -> None:
        """Pause if this thread's job is a long one, and others are at work."""
        job, now = self._thread.job, self._now()
        worked_seconds = now - job.resumed_seconds
        if (
            worked_seconds < SLICE_SECONDS
            or now - job.began_seconds < LONG_JOB_SECONDS
            or job.began_seconds == _NEVER
        ):
            return
        are_others_at_work = now - self._latest_began_seconds < LONG_JOB_SECONDS
        if are_others_at_work:
            # With the lane: no other long job works meanwhile.
            self._sleep(min(worked_seconds, PAUSE_SECONDS_MAX))
        if job.has_lane:
            job.has_lane = False
            self._lane.release()
        if are_others_at_work:
            # Without this pause the thread would take the lane again before a waiting thread wakes.
            self._sleep(_HANDOVER_SECONDS)
            job.has_lane = self._lane.acquire(timeout=_LANE_SECONDS_MAX)
        job.resumed_seconds = self._now()

    def watch(self, connection: sqlite3.Connection) -> None:
        """Have a connection's statements give way."""
        connection.set_progress_handler(self.give_way, _OPS_PER_LOOK)


PROCESS: Final = Pace()
"""The one for all databases, because the process has one interpreter lock."""
