"""The connections of one database: opens them when they are needed, and chooses one for each job.

Theory of operation. A tenant that is only read needs no writer. A closed database (see `tenantry.storage.sqlite.connections.immutable`)
that is locked by this process cannot change, so it is opened as an immutable file: without a lock, a log or shared memory of
SQLite's own. That is the cost of a tenant that is opened for one read: 0.1 ms on ext4, against 1.4 ms for a database with a
write-ahead log, whose two files are made and removed again. The first write waits for the reads that run, closes the immutable
reader, and opens the writer; from then on there are readers beside the writer.

    open for reading   one immutable reader, nothing else
    open for writing   the writer; readers, opened on the second read

Every read of the immutable file checks that it is unchanged: a change made by hand, with SQLite's own shell for example, is
seen. A database that was not closed cleanly, has pending migrations or no owner is open for writing from the start.
"""

import asyncio
import sqlite3
import sys
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from functools import partial

import anyio

from tenantry.config import Durability
from tenantry.errors import PersistenceConnectionError, TenantryError
from tenantry.statements import Statement
from tenantry.storage.protocol import ReadOutcome
from tenantry.storage.sqlite.connections.connection import JobConnection
from tenantry.storage.sqlite.connections.database_opener import DatabaseOpener
from tenantry.storage.sqlite.connections.new_log import NewLog
from tenantry.storage.sqlite.connections.opening import open_reader, set_limits
from tenantry.storage.sqlite.connections.thread_pool import ThreadPools
from tenantry.storage.sqlite.errors import DRIVER_ERRORS
from tenantry.storage.sqlite.statements import batch


class _NotImmutableError(Exception):
    """The file cannot be opened as an immutable file."""


class Connections:
    """See the module."""

    def __init__(self, opener: DatabaseOpener, thread_pools: ThreadPools) -> None:
        self._opener = opener
        self._thread_pools = thread_pools
        self._opening = asyncio.Lock()
        self._new_log: NewLog | None = None
        self.is_open = False
        self.writer: JobConnection | None = None
        self.immutable_reader: JobConnection | None = None
        self.readers: list[JobConnection] = []
        self._long_lived_readers: list[JobConnection] = []

    async def open(self) -> None:
        """Take the file's lock and open the first connection. A failure, or cancellation, leaves nothing open.

        Raises like `DatabaseOpener.open_first`.
        """
        try:
            connection = await JobConnection.open(self._opener.open_first, self._thread_pools.write)
        except asyncio.CancelledError:
            # The connection was closed again, but the lock is still held.
            self._opener.release(is_clean=False)
            raise
        if self._opener.immutable_file is None:
            self.writer = connection
        else:
            # To the threads of readers: those of writers wait for the disk.
            connection.move_to(self._thread_pools.read)
            self.immutable_reader = connection
        self.is_open = True

    async def aclose(self) -> None:
        """Close the readers, then the writer, then release the lock.

        Raises:
            sqlite3.Error: A connection could not be closed; those still open can be closed again.
        """
        async with self._opening:
            for readers in (self._long_lived_readers, self.readers):
                while readers:
                    await readers[-1].aclose()
                    readers.pop()
            last = self.immutable_reader or self.writer
            if last is not None:
                await self._close_last(last)
            self._opener.release()  # a no-op if the connections were closed and the lock released before
            self.immutable_reader = self.writer = self._new_log = None
            self.is_open = False

    def __del__(self) -> None:
        """Close the connections of an owner that was lost, and release the lock, so that the next owner need not wait.

        While a thread still works on one of them, its effect is unknown and the lock stays held.
        """
        if not self.is_open or sys.is_finalizing():
            return
        # The writer last: not while a reader is open.
        connections = [
            *self._long_lived_readers,
            *self.readers,
            *filter(None, (self.immutable_reader, self.writer)),
        ]
        with suppress(sqlite3.Error, ValueError), ExitStack() as afterwards:
            # The garbage collector may have closed the writer before: it finalizes a cycle in any order.
            if self.writer is not None and self.writer.is_open and not self.writer.backlog:
                keeper = self._keeper(self.writer.opened())
                if keeper is not None:
                    afterwards.callback(keeper.close)
            if all(connection.abandon() for connection in connections):
                self._opener.release(is_clean=False)
        # Last, because it raises if warnings are errors.
        warnings.warn(
            f"{self._opener.options} was not closed: use 'async with', or close what opened it",
            ResourceWarning,
            stacklevel=1,
        )

    async def ensure_writer(self) -> JobConnection:
        """Return the writer; open it first if needed, after the reads of the immutable file. A failed call can be repeated."""
        async with self._opening:
            return await self._ensure_writer()

    async def apply_limits(self, database_bytes_max: int | None, durability: Durability) -> None:
        """Apply these limits to the writer, now and whenever it is opened; no transaction may be open."""
        async with self._opening:
            self._opener.apply_limits(database_bytes_max, durability)
            writer = self.writer
        # Not under the lock: the job may wait for a long write, and readers must be opened meanwhile.
        if writer is not None:
            with suppress(ValueError):  # closed meanwhile
                await writer.run(partial(set_limits, self._opener.options))

    @property
    def has_long_lived_readers(self) -> bool:
        """Whether a long-lived reader is open: a check of the whole database runs."""
        return bool(self._long_lived_readers)

    def reader(self) -> JobConnection | None:
        """Return the reader with the fewest jobs; None if all are busy and a new one should be opened."""
        reader = min(self.readers, key=lambda reader: reader.backlog, default=None)
        if reader is not None and reader.backlog and len(self.readers) < self._opener.options.readers_max:
            return None
        return reader

    async def new_reader(self) -> JobConnection:
        """Open and return a reader, or return one that was opened meanwhile."""
        async with self._opening:
            self._check_open()
            reader = self.reader()
            if reader is None:
                reader = await JobConnection.open(
                    partial(open_reader, self._opener.options), self._thread_pools.read
                )
                self.readers.append(reader)
            return reader

    @asynccontextmanager
    async def long_lived_reader(self) -> AsyncIterator[JobConnection]:
        """Open a reader for a long read of the whole database; no other read is sent to it or waits for it.

        The writer is opened before it and closed after it, so no immutable file is read while it is written to.
        """
        async with self._opening:
            await self._ensure_writer()
            reader = await JobConnection.open(
                partial(open_reader, self._opener.options), self._thread_pools.read
            )
            self._long_lived_readers.append(reader)
        try:
            yield reader
        finally:
            with anyio.CancelScope(shield=True):
                await self._close_reader(reader)

    def read_immutable(
        self, statements: Sequence[Statement], connection: sqlite3.Connection
    ) -> list[ReadOutcome]:
        """Run a read batch on the immutable reader, on a thread.

        If another process changed the file or has it open, the reader's cache may be wrong; then read with a new connection.
        """
        if self._opener.immutable_file is not None and self._opener.immutable_file.is_unchanged():
            return batch.read_batch(statements, connection)
        with closing(open_reader(self._opener.options)) as reader:
            return batch.read_batch(statements, reader)

    def make_log_durable(self, connection: sqlite3.Connection) -> None:
        """Make the name of the writer's log durable: after a commit and before it is acknowledged, and before a checkpoint.

        A job of the writer's connection calls it.
        """
        if self._new_log is not None:
            self._new_log.make_durable(connection)
            self._new_log = None

    def _keeper(self, connection: sqlite3.Connection) -> sqlite3.Connection | None:
        return None if self._new_log is None else self._new_log.keeper(self._opener.options, connection)

    async def _close_last(self, last: JobConnection) -> None:
        """Close the writer, or the immutable reader, and release the lock."""
        keeper = await last.run(self._keeper) if self._new_log is not None else None
        if keeper is None:
            await last.aclose(self._opener.release)
            return
        try:
            await last.aclose(partial(self._release_after, keeper))
        finally:
            keeper.close()

    def _release_after(self, keeper: sqlite3.Connection) -> None:
        keeper.close()
        self._opener.release()

    def _check_open(self) -> None:
        if not self.is_open:
            raise PersistenceConnectionError("the database was disconnected meanwhile")

    async def _close_reader(self, reader: JobConnection) -> None:
        async with self._opening:
            if reader in self._long_lived_readers:  # unless everything was closed meanwhile
                self._long_lived_readers.remove(reader)
                await reader.aclose()

    async def _ensure_writer(self) -> JobConnection:
        self._check_open()
        if self.writer is None:
            was_immutable = self.immutable_reader is not None
            await self._close_immutable_reader()
            try:
                self.writer = await JobConnection.open(self._open_deferred_writer, self._thread_pools.write)
            except Exception:
                if was_immutable:
                    await self._return_to_immutable()
                raise
        return self.writer

    async def _return_to_immutable(self) -> None:
        """Open the immutable reader again if the writer cannot be opened, so that reads still work, for example on a full disk."""
        with suppress(*DRIVER_ERRORS, OSError, TenantryError, _NotImmutableError):
            self.immutable_reader = await JobConnection.open(self._reopen_immutable, self._thread_pools.read)

    def _reopen_immutable(self) -> sqlite3.Connection:
        connection = self._opener.open_as_immutable(must_be_fenced=False)
        if connection is None:
            raise _NotImmutableError
        return connection

    def _open_deferred_writer(self) -> sqlite3.Connection:
        writer = self._opener.open_deferred_writer()
        assert self._opener.options.path is not None
        self._new_log = NewLog(self._opener.options.path)
        return writer

    async def _close_immutable_reader(self) -> None:
        reader, self.immutable_reader = self.immutable_reader, None
        if reader is None:
            return
        try:
            await reader.aclose()
        except BaseException:
            if reader.is_open:
                self.immutable_reader = reader
            raise
