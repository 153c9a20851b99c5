"""Opens the connections of one database when they are needed, and chooses a connection for each job.

Theory of operation. A tenant that is only read needs no writer. A closed database (see `tenantry.storage.sqlite.connections.immutable`)
that is locked by this process cannot change. So the file is opened as immutable, without SQLite's own lock, log or shared memory.
Opening a tenant for one read takes 0.1 ms on ext4. With a write-ahead log, opening takes 1.4 ms, because two files are created and
removed. The first write waits for running reads, closes the immutable reader, and opens the writer. Later reads use other readers.
If the database is opened because of a write, the writer is opened at once, which saves the immutable reader and its reading of the schema.

    open for reading   one immutable reader, nothing else
    open for writing   the writer; readers, opened on the second read

Every read of the immutable file checks that the file is unchanged, so changes by other programs are seen.
A database that was not closed cleanly, has pending migrations, or has no owner is open for writing from the start.
"""

import asyncio
import sqlite3
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import anyio

from tenantry.config import Durability
from tenantry.errors import PersistenceConnectionError, TenantryError
from tenantry.forks import left_in_children
from tenantry.sql.statements import Statement
from tenantry.storage.protocol import ReadOutcome
from tenantry.storage.sqlite.connections.connection import JobConnection
from tenantry.storage.sqlite.connections.database_opener import DatabaseOpener
from tenantry.storage.sqlite.connections.native_openings import NativeOpenings
from tenantry.storage.sqlite.connections.opening import open_reader, set_limits
from tenantry.storage.sqlite.connections.thread_pool import ThreadPools
from tenantry.storage.sqlite.errors import DRIVER_ERRORS
from tenantry.storage.sqlite.statements import batch

if TYPE_CHECKING:
    from tenantry.storage.sqlite.connections.new_log import NewLog


class _NotImmutableError(Exception):
    """The database file cannot be opened as immutable."""


class Connections:
    """The connections of one database; the module's docstring describes them."""

    def __init__(self, opener: DatabaseOpener, thread_pools: ThreadPools) -> None:
        self._opener = opener
        self._thread_pools = thread_pools
        self._native = NativeOpenings(opener, thread_pools.read.engine)
        self._opening = asyncio.Lock()
        self._new_log: NewLog | None = None
        self.is_open = False
        self.is_left_to_parent = False
        """Whether the database was open when this process was forked."""
        self.writer: JobConnection | None = None
        self.immutable_reader: JobConnection | None = None
        self.readers: list[JobConnection] = []
        self._long_lived_readers: list[JobConnection] = []
        _all_databases.add(self)

    async def open(self, *, is_for_write: bool = False) -> None:
        """Lock the file and open the first connection. A failure or cancellation leaves nothing open or locked.

        `is_for_write` says that the first call is a write.

        Raises the errors of `DatabaseOpener.open_first`.
        """
        try:
            connection = await JobConnection.open(
                partial(self._opener.open_first, is_for_write=is_for_write),
                self._thread_pools.write,
                self._native.closed(is_for_write=is_for_write),
            )
        except asyncio.CancelledError:
            # `JobConnection.open` closed the connection, but the file's lock is still held.
            self._opener.release(is_clean=False)
            raise
        if self._opener.immutable_file is None:
            self.writer, self._new_log = connection, self._opener.new_log
        else:
            # Reads do not run on the threads of writers, which wait for the disk.
            connection.move_to(self._thread_pools.read)
            self.immutable_reader = connection
        self._use_engine(connection)
        self.is_open = True

    async def aclose(self) -> None:
        """Close the readers, then the writer, then release the lock.

        Raises:
            sqlite3.Error: A connection could not be closed. Call `aclose` again to close the remaining connections.
        """
        async with self._opening:
            for readers in (self._long_lived_readers, self.readers):
                while readers:
                    await readers[-1].aclose(closing=self._native.closing)
                    readers.pop()
            last = self.immutable_reader or self.writer
            if last is not None:
                await self._close_last(last)
            self._opener.release()  # releasing a released lock is a no-op
            self.immutable_reader = self.writer = self._new_log = None
            self.is_open = False

    def __del__(self) -> None:
        """Close connections that their owner did not close, and release the lock, so that the next owner need not wait.

        The lock stays held while a thread still uses a connection, because the effect of that thread's job is unknown.
        """
        if not self.is_open or sys.is_finalizing():
            return
        # The writer is closed last, after all readers.
        connections = [
            *self._long_lived_readers,
            *self.readers,
            *filter(None, (self.immutable_reader, self.writer)),
        ]
        with suppress(sqlite3.Error, ValueError):
            # The garbage collector finalizes a cycle in any order, so the collector may have closed the writer already.
            before = None if self._new_log is None else self._new_log.before_closing
            if all(
                connection.abandon(before if connection is self.writer else None)
                for connection in connections
            ):
                self._opener.release(is_clean=False)
        # The warning comes last, because `warn` raises an exception if warnings are errors.
        warnings.warn(
            f"{self._opener.options} was not closed: use 'async with', or close its store",
            ResourceWarning,
            stacklevel=1,
        )

    def leave_in_child(self) -> None:
        """Let a forked child have nothing open: the connections and the lock are the parent's."""
        self.is_left_to_parent, self.is_open = self.is_open, False
        self.immutable_reader = self.writer = self._new_log = None
        self.readers.clear()
        self._long_lived_readers.clear()

    async def ensure_writer(self) -> JobConnection:
        """Return the writer. Open the writer if needed, after all reads of the immutable file. A failed call can be repeated."""
        async with self._opening:
            return await self._ensure_writer()

    async def apply_limits(self, database_bytes_max: int | None, durability: Durability) -> None:
        """Apply these limits to the open writer and to every writer opened later; no transaction may be open."""
        async with self._opening:
            self._opener.apply_limits(database_bytes_max, durability)
            writer = self.writer
        # The lock is released before this job, which may wait for a long write, so that readers can be opened in the meantime.
        if writer is not None:
            with suppress(ValueError):  # the writer was closed in the meantime
                await writer.run(partial(set_limits, self._opener.options))

    @property
    def has_long_lived_readers(self) -> bool:
        """Whether a long-lived reader is open, for example because a check of the whole database runs."""
        return bool(self._long_lived_readers)

    def reader(self) -> JobConnection | None:
        """Return the reader with the fewest jobs; None if all readers are busy and a new reader should be opened."""
        reader = min(self.readers, key=lambda reader: reader.backlog, default=None)
        if reader is not None and reader.backlog and len(self.readers) < self._opener.options.readers_max:
            return None
        return reader

    async def new_reader(self) -> JobConnection:
        """Open a reader and return it, or return an idle reader that was opened in the meantime."""
        async with self._opening:
            self._check_open()
            reader = self.reader()
            if reader is None:
                reader = await JobConnection.open(
                    partial(open_reader, self._opener.options),
                    self._thread_pools.read,
                    self._native.reader(),
                )
                self._use_engine(reader)
                self.readers.append(reader)
            return reader

    @asynccontextmanager
    async def long_lived_reader(self) -> AsyncIterator[JobConnection]:
        """Open a reader for a long read of the whole database. Other reads do not use this reader or wait for it.

        The writer is opened first and closed last, so the file is never read as immutable while a writer is open.
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
        self, statements: Sequence[Statement], opened: Callable[[], sqlite3.Connection]
    ) -> list[ReadOutcome]:
        """Run a read batch on the immutable reader, on a thread.

        If another process changed or opened the file, the reader's cache may be wrong, so the batch runs on a new connection.
        `opened` returns the reader's connection. It may open the file, so it is called only if the file is unchanged.
        """
        if self._opener.immutable_file is not None and self._opener.immutable_file.is_unchanged():
            return batch.read_batch(statements, opened())
        with closing(open_reader(self._opener.options)) as reader:
            return batch.read_batch(statements, reader)

    def make_log_durable(self, connection: sqlite3.Connection) -> None:
        """Make the name of the writer's log durable.

        A job of the writer calls this method after a commit, before the commit is acknowledged, and before a checkpoint.
        """
        new_log = self._new_log  # the event loop may set it to None at any time, see `note_commit_of_engine`
        if new_log is not None:
            new_log.make_durable(connection)
            self._new_log = None

    @property
    def may_write_in_engine(self) -> bool:
        """Whether a batch of the engine may write: `make_log_durable` has nothing to do any more, or the engine does it."""
        new_log = self._new_log  # a job may set it to None at any time, see `make_log_durable`
        return new_log is None or new_log.is_left_to_engine

    def note_commit_of_engine(self) -> None:
        """Record that the engine has committed, and has made the log durable."""
        self._new_log = None

    def _use_engine(self, connection: JobConnection) -> None:
        """Let the engine run batches on a connection, unless hooks of schema packs have changed the connection."""
        if self._opener.options.connect_hooks:
            return
        is_immutable = connection is self.immutable_reader
        file = self._opener.immutable_file if is_immutable else None
        connection.use_engine(self._opener.token, None if file is None else file.identity)

    async def _close_last(self, last: JobConnection) -> None:
        """Close the writer, or the immutable reader, and release the lock."""
        before = None if self._new_log is None else self._new_log.before_closing
        await last.aclose(self._opener.release, self._native.closing_last, before)

    def _check_open(self) -> None:
        if not self.is_open:
            raise PersistenceConnectionError("the database was disconnected in the meantime")

    async def _close_reader(self, reader: JobConnection) -> None:
        async with self._opening:
            if reader in self._long_lived_readers:  # `aclose` may have closed the reader
                self._long_lived_readers.remove(reader)
                await reader.aclose()

    async def _ensure_writer(self) -> JobConnection:
        self._check_open()
        if self.writer is None:
            was_immutable = self.immutable_reader is not None
            await self._close_immutable_reader()
            try:
                self.writer = await JobConnection.open(
                    self._opener.open_deferred_writer,
                    self._thread_pools.write,
                    self._native.deferred_writer(),
                )
                self._new_log = self._opener.new_log
                self._use_engine(self.writer)
            except Exception:
                if was_immutable:
                    await self._return_to_immutable()
                raise
        return self.writer

    async def _return_to_immutable(self) -> None:
        """Open the immutable reader again after the writer failed to open, so that reads still work on a full disk."""
        with suppress(*DRIVER_ERRORS, OSError, TenantryError, _NotImmutableError):
            self.immutable_reader = await JobConnection.open(self._reopen_immutable, self._thread_pools.read)
            self._use_engine(self.immutable_reader)

    def _reopen_immutable(self) -> sqlite3.Connection:
        connection = self._opener.open_as_immutable(must_be_fenced=False)
        if connection is None:
            raise _NotImmutableError
        return connection

    async def _close_immutable_reader(self) -> None:
        reader, self.immutable_reader = self.immutable_reader, None
        if reader is None:
            return
        try:
            await reader.aclose(closing=self._native.closing)
        except BaseException:
            if reader.is_open:
                self.immutable_reader = reader
            raise


_all_databases: Final[WeakSet[Connections]] = left_in_children()
