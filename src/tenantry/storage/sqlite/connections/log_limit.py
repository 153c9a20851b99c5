"""Keeps a write-ahead log below its limit while reads overlap.

Theory of operation. SQLite restarts the log only when no read uses the log
(https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files). Under overlapping reads the log would grow with every write.
When the log reaches its limit, new reads wait until the running reads have ended. Then the writer checkpoints and truncates the log,
and the waiting reads run.

A task may read while its own transaction holds the writer, so waiting for both reads and the writer could deadlock. Each such wait
therefore ends after `wal_hold_seconds`, and the next attempt uses the other of two orders. The first order holds the writer and waits
for reads: short reads end in time, and no write runs during the wait. The second order holds new reads, waits for running reads, and then
waits for the writer: long reads can end, and writes continue until the reads have ended.

While a copy or a check of the whole database reads from the log, the log cannot be truncated. In the meantime the log grows with every
write, up to the disk space that a copy keeps free (`tenantry.files.disk_space`).
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.storage.sqlite.connections.connections import Connections
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.database_files.checkpoint import truncate_log
from tenantry.storage.sqlite.errors import DRIVER_ERRORS

MEASURE_INTERVAL_SECONDS: Final = 0.025
UNMEASURED_BATCHES_MAX: Final = 8
RETRY_SECONDS: Final = 1.0
"""The delay before the next attempt when another process reads, or SQLite refuses to truncate the log."""

LOG_CUT_BACK: Final = "tenantry.store.log_cut_back"
LOG_NOT_CUT_BACK: Final = "tenantry.store.log_not_cut_back"


class LogLimit:
    """Limits the size of one database's log; see the module's docstring. Transactions of several jobs hold `writer_lock`."""

    def __init__(
        self, options: SQLiteOptions, connections: Connections, writer_lock: asyncio.Lock, log: EventLog
    ) -> None:
        self._bytes_max = options.wal_bytes_max
        self._hold_seconds = options.wal_hold_seconds
        has_log = options.path is not None and options.is_wal and not options.is_read_by_writer
        self._path = f"{options.path}-wal" if has_log else None
        self._connections = connections
        self._writer_lock = writer_lock
        self._log = log
        self._size_bytes = 0
        self._measured_seconds = 0.0
        self._unmeasured = 0
        self._cutting: asyncio.Task[None] | None = None
        self._may_cut_at = 0.0
        self._released: asyncio.Event | None = None

    @property
    def holds_reads(self) -> bool:
        """Whether a new read must call `wait_released` first."""
        return self._released is not None

    def measure(self) -> None:
        """Measure the log. Any thread may call this method."""
        if self._path is None:
            return
        try:
            self._size_bytes = os.stat(self._path).st_size  # noqa: PTH116  # a microsecond faster for each batch
        except OSError:  # the log does not exist
            self._size_bytes = 0

    def measure_again(self) -> None:
        """Measure the log after a batch, on the writer's thread.

        While the log is far below its limit, most calls skip the measurement. For a system call Python releases the interpreter lock
        and acquires it again, which takes a tenth of the time of a small batch.
        """
        now = time.monotonic()
        self._unmeasured += 1
        is_far_below = self._size_bytes < self._bytes_max // 4
        if (
            is_far_below
            and self._unmeasured < UNMEASURED_BATCHES_MAX
            and now < self._measured_seconds + MEASURE_INTERVAL_SECONDS
        ):
            return
        self._unmeasured, self._measured_seconds = 0, now
        self.measure()

    def enforce(self) -> None:
        """Begin to truncate the log if the log has reached its limit. The event loop calls this method before each call."""
        if (
            self._size_bytes < self._bytes_max
            or self._cutting is not None
            or self._connections.has_long_lived_readers
        ):
            return
        if asyncio.get_running_loop().time() >= self._may_cut_at:
            self._cutting = asyncio.create_task(self._cut_back(), name="tenantry log limit")
            self._cutting.add_done_callback(self._ended)

    async def wait_released(self) -> None:
        """Wait until new reads may run."""
        while self._released is not None:
            await self._released.wait()

    async def aclose(self) -> None:
        """Stop truncating, and let the waiting reads run. Closing the database later truncates the log."""
        if self._cutting is not None:
            self._cutting.cancel()
            await asyncio.wait([self._cutting])

    def _ended(self, cutting: "asyncio.Task[None]") -> None:
        self._cutting = None
        if not cutting.cancelled() and (error := cutting.exception()) is not None:
            self._log.warning(LOG_NOT_CUT_BACK, error=str(error), log_bytes=self._size_bytes)

    async def _cut_back(self) -> None:
        """Truncate the log: try the two orders in turn until one succeeds."""
        size_bytes = self._size_bytes
        try:
            while True:
                if await self._cut_after_writes() or await self._cut_after_reads():
                    break
        except (*DRIVER_ERRORS, OSError, ValueError, TenantryError):
            self._back_off()
            raise
        self.measure()
        if self._size_bytes < self._bytes_max:
            self._log.debug(LOG_CUT_BACK, log_bytes=size_bytes)
        else:
            self._back_off()

    async def _cut_after_reads(self) -> bool:
        """Hold new reads, wait for the running reads, then wait for the writer for at most `wal_hold_seconds`."""
        async with self._reads_held():
            for read in self._running_reads():
                await asyncio.wait([read])
            try:
                async with asyncio.timeout(self._hold_seconds):
                    await self._writer_lock.acquire()
            except TimeoutError:
                return False
            try:
                await self._truncate()
            finally:
                self._writer_lock.release()
        return True

    async def _cut_after_writes(self) -> bool:
        """Wait for the writer, hold new reads, then wait for the running reads for at most `wal_hold_seconds`."""
        async with self._writer_lock, self._reads_held():
            reads = self._running_reads()
            if reads:
                _, pending = await asyncio.wait(reads, timeout=self._hold_seconds)
                if pending:
                    return False
            await self._truncate()
        return True

    @asynccontextmanager
    async def _reads_held(self) -> AsyncIterator[None]:
        self._released = released = asyncio.Event()
        try:
            yield
        finally:
            self._released = None
            released.set()

    def _running_reads(self) -> "list[asyncio.Future[None]]":
        """Return a future for each busy reader. A reader's future is done when all reads submitted to the reader have ended."""
        return [reader.submit_call(_do_nothing) for reader in self._connections.readers if reader.backlog]

    async def _truncate(self) -> None:
        writer = self._connections.writer
        if writer is not None:
            await writer.submit(self._truncate_named)

    def _truncate_named(self, connection: sqlite3.Connection) -> None:
        self._connections.make_log_durable(connection)
        _truncate(connection)

    def _back_off(self) -> None:
        self._may_cut_at = asyncio.get_running_loop().time() + RETRY_SECONDS


def _do_nothing() -> None:
    """Do nothing: this job ends after all jobs that were submitted earlier."""


def _truncate(connection: sqlite3.Connection) -> None:
    """Truncate the log, unless another program reads from the log. While reads are held, do not wait for the other program."""
    (busy_milliseconds,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        truncate_log(connection)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {busy_milliseconds:d}")
