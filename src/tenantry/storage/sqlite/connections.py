"""The connections of one database: opened as they are needed, and which one a job goes to.

Theory of operation. Who only reads needs no writer. A database whose owner closed it cleanly is one file, with no
write-ahead log beside it, and nobody but this process may change it: so it is opened *at rest*, as a file that does not change
(SQLite's ``immutable``, https://www.sqlite.org/uri.html#uriimmutable), without a lock, a log or shared memory. That is what
a tenant costs that is opened for a look (measured on ext4: 0.1 ms, against 1.4 ms for a database with a write-ahead log,
whose two files are made and removed again). The first write waits for the reads that run, closes it, and opens the writer;
from then on there are readers beside the writer.

    at rest   one read-only connection, no writer, nothing else
    awake     the writer; readers, opened on the second read

Every look at rest checks that the file is still at rest: what somebody did to it by hand, with SQLite's own shell for
example, is seen. A database that was not closed cleanly, has migrations to come or no owner is awake from the start.
"""

import asyncio
import sqlite3
import sys
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from tenantry.config import Durability
from tenantry.errors import MigrationError, PersistenceConnectionError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.statements import Statement
from tenantry.storage.protocol import ReadOutcome
from tenantry.storage.sqlite import batch, migrator
from tenantry.storage.sqlite.connection import JobConnection
from tenantry.storage.sqlite.database_file import has_log
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, is_damage, is_full
from tenantry.storage.sqlite.new_log import NewLog
from tenantry.storage.sqlite.opening import (
    RestingFile,
    SQLiteOptions,
    open_at_rest,
    open_reader,
    open_writer,
    prepare_directory,
    set_limits,
)
from tenantry.storage.sqlite.ownership import OWNER_SQL, FileOwnership
from tenantry.storage.sqlite.thread_pool import ThreadPools

_SUMMARY: Final = f"SELECT * FROM ({OWNER_SQL}), ({migrator.SUMMARY_SQL})"  # noqa: S608  # our own statements
"""All that is to be known of a database at rest: one statement, since after each Python waits for its turn among threads."""


class _NotAtRestError(Exception):
    """The file cannot be opened at rest."""


class Connections:
    """See the module.

    Args:
        options: The path and how to open it.
        thread_pools: The threads that work for it.
        planner: Which migrations are pending.
        known_version: How many migrations the code knows.
        ownership: The file's lock and epoch, None for a database that has one user by agreement.
        log: For what is odd about the file.
    """

    def __init__(
        self,
        options: SQLiteOptions,
        thread_pools: ThreadPools,
        *,
        planner: migrator.Planner,
        known_version: int,
        ownership: FileOwnership | None,
        log: EventLog,
    ) -> None:
        self._options = options
        self._thread_pools = thread_pools
        self._planner = planner
        self._known_version = known_version
        self._ownership = ownership
        self._log = log
        self._opening = asyncio.Lock()
        self._resting_file: RestingFile | None = None
        self._new_log: NewLog | None = None
        self.plan: migrator.Plan | MigrationError | None = None
        """What to migrate, or why the file was refused and is left as it is; None if that is still to be found out."""
        self.is_open = False
        self.writer: JobConnection | None = None
        self.at_rest: JobConnection | None = None
        self.readers: list[JobConnection] = []
        self._guests: list[JobConnection] = []

    async def open(self) -> None:
        """Take the file's lock and open the first connection. A failure, or cancellation, leaves nothing open.

        Raises:
            sqlite3.Error, OSError: SQLite, or the system, refuses.
            DatabaseCorruptError, DataDirectoryError: The file is not what it should be.
            TenantOwnedElsewhereError: Another owner has it open.
        """
        try:
            connection = await JobConnection.open(self._open, self._thread_pools.write)
        except asyncio.CancelledError:
            # The connection was closed again, but the lock is not the connection's.
            self._release(is_clean=False)
            raise
        if self._resting_file is None:
            self.writer = connection
        else:
            # Where reads are, and not where writes wait for the disk.
            connection.move_to(self._thread_pools.read)
            self.at_rest = connection
        self.is_open = True

    async def aclose(self) -> None:
        """Close the readers, then the writer, then give the lock back.

        Raises:
            sqlite3.Error: One would not close; what is still open can be closed again.
        """
        async with self._opening:
            for readers in (self._guests, self.readers):
                while readers:
                    await readers[-1].aclose()
                    readers.pop()
            last = self.at_rest or self.writer
            if last is not None:
                await self._close_last(last)
            self._release()  # of one that was closed before, or of none
            self.at_rest = self.writer = self._new_log = None
            self.is_open = False

    def __del__(self) -> None:
        """Close the connections of an owner that was lost, and release the lock, so that the next owner need not wait.

        While a thread still works on one of them its effect is unknown, and the lock stays held.
        """
        if not self.is_open or sys.is_finalizing():
            return
        # The writer last, as ever: not while a reader is open.
        connections = [*self._guests, *self.readers, *filter(None, (self.at_rest, self.writer))]
        with suppress(sqlite3.Error, ValueError), ExitStack() as afterwards:
            # The garbage collector may have closed the writer before: it takes what refers to each other in any order.
            if self.writer is not None and self.writer.is_open and not self.writer.backlog:
                keeper = self._keeper(self.writer.opened())
                if keeper is not None:
                    afterwards.callback(keeper.close)
            if all(connection.abandon() for connection in connections):
                self._release(is_clean=False)
        # At the end: where warnings are errors it raises.
        warnings.warn(
            f"{self._options} was not closed: use 'async with', or close what opened it",
            ResourceWarning,
            stacklevel=1,
        )

    async def awake(self) -> JobConnection:
        """Return the writer, opened if need be, once the reads at rest have ended.

        Raises:
            PersistenceConnectionError: Not open.
            sqlite3.Error, OSError, TenantryError: As `open`; the next call tries again.
        """
        async with self._opening:
            return await self._awake()

    async def limit(self, database_bytes_max: int | None, durability: Durability) -> None:
        """Give the writer these limits, now and whenever it is opened; no transaction may be open.

        Raises:
            sqlite3.Error: The open writer has not got them.
        """
        async with self._opening:
            self._options = replace(
                self._options, database_bytes_max=database_bytes_max, durability=durability
            )
            writer = self.writer
        # Not under the lock: the job may wait for a long write, and readers are opened meanwhile.
        if writer is not None:
            with suppress(ValueError):  # closed meanwhile
                await writer.run(partial(set_limits, self._options))

    @property
    def has_guests(self) -> bool:
        """Whether a check of the whole database runs."""
        return bool(self._guests)

    def reader(self) -> JobConnection | None:
        """Return the reader with the least to do; None if a new one should be opened, because all have something to do."""
        reader = min(self.readers, key=lambda reader: reader.backlog, default=None)
        if reader is not None and reader.backlog and len(self.readers) < self._options.readers_max:
            return None
        return reader

    async def new_reader(self) -> JobConnection:
        """Return a reader, a new one unless others opened enough meanwhile.

        Raises:
            PersistenceConnectionError: Not open.
            sqlite3.Error, OSError: It cannot be opened.
        """
        async with self._opening:
            self._check_open()
            reader = self.reader()
            if reader is None:
                reader = await JobConnection.open(
                    partial(open_reader, self._options), self._thread_pools.read
                )
                self.readers.append(reader)
            return reader

    @asynccontextmanager
    async def guest(self) -> AsyncIterator[JobConnection]:
        """Open a reader for a long look at the whole database: no read of others is sent to it, and none waits for it.

        The writer is there before and closes after it, so a database is never read as at rest while somebody writes to it.

        Raises:
            PersistenceConnectionError: Not open.
            sqlite3.Error, OSError, TenantryError: It cannot be opened.
        """
        async with self._opening:
            await self._awake()
            guest = await JobConnection.open(partial(open_reader, self._options), self._thread_pools.read)
            self._guests.append(guest)
        try:
            yield guest
        finally:
            with anyio.CancelScope(shield=True):
                await self._see_off(guest)

    def read_at_rest(
        self, statements: Sequence[Statement], connection: sqlite3.Connection
    ) -> list[ReadOutcome]:
        """Run a read batch on the connection at rest, on a thread.

        If somebody has changed the file or has it open, what the connection knows of it may be wrong: then on a new one.
        """
        if self._resting_file is not None and self._resting_file.is_at_rest():
            return batch.read_batch(statements, connection)
        with closing(open_reader(self._options)) as reader:
            return batch.read_batch(statements, reader)

    def make_log_durable(self, connection: sqlite3.Connection) -> None:
        """Make the name of the writer's log durable: after a commit, before anyone is told of it, and before a checkpoint.

        A job of the writer's connection calls it.

        Raises:
            PersistenceConnectionError: The disk failed.
        """
        if self._new_log is not None:
            self._new_log.make_durable(connection)
            self._new_log = None

    def _keeper(self, connection: sqlite3.Connection) -> sqlite3.Connection | None:
        return None if self._new_log is None else self._new_log.keeper(self._options, connection)

    async def _close_last(self, last: JobConnection) -> None:
        """Close the writer, or the connection at rest, and give the lock back."""
        keeper = await last.run(self._keeper) if self._new_log is not None else None
        if keeper is None:
            await last.aclose(self._release)
            return
        try:
            await last.aclose(partial(self._release_after, keeper))
        finally:
            keeper.close()

    def _release_after(self, keeper: sqlite3.Connection) -> None:
        keeper.close()
        self._release()

    def _check_open(self) -> None:
        if not self.is_open:
            raise PersistenceConnectionError("the database was disconnected meanwhile")

    async def _see_off(self, guest: JobConnection) -> None:
        async with self._opening:
            if guest in self._guests:  # unless everything was closed meanwhile
                self._guests.remove(guest)
                await guest.aclose()

    async def _awake(self) -> JobConnection:
        self._check_open()
        if self.writer is None:
            was_at_rest = self.at_rest is not None
            await self._end_rest()
            try:
                self.writer = await JobConnection.open(self._open_woken_writer, self._thread_pools.write)
            except Exception:
                if was_at_rest:
                    await self._rest_again()
                raise
        return self.writer

    async def _rest_again(self) -> None:
        """Return to rest if the writer cannot be opened, for example on a full disk, so that reads still work."""
        with suppress(*DRIVER_ERRORS, OSError, TenantryError, _NotAtRestError):
            self.at_rest = await JobConnection.open(self._reopen_at_rest, self._thread_pools.read)

    def _reopen_at_rest(self) -> sqlite3.Connection:
        connection = self._open_at_rest(must_be_fenced=False)
        if connection is None:
            raise _NotAtRestError
        return connection

    async def _end_rest(self) -> None:
        at_rest, self.at_rest = self.at_rest, None
        if at_rest is None:
            return
        try:
            await at_rest.aclose()
        except BaseException:
            if at_rest.is_open:
                self.at_rest = at_rest
            raise

    def _open(self) -> sqlite3.Connection:
        """Open the first connection, on a thread."""
        prepare_directory(self._options)
        if self._ownership is None:
            try:
                return open_writer(self._options, self._known_version, self._log)
            except DRIVER_ERRORS as error:
                if not is_damage(error):
                    raise
                # SQLite says damage too when the disk failed to read once. (Of a tenant it is looked into by its opener.)
                return open_writer(self._options, self._known_version, self._log)
        self._ownership.acquire()
        try:
            assert self._options.path is not None
            at_rest = self._open_at_rest()
            if at_rest is not None:
                return at_rest
            self._ownership.check_log(self._options.path)  # a database at rest has none
            return self._open_writer_or_at_rest()
        except BaseException:
            # Nothing was changed under this lock, so whether the last owner closed cleanly is still to be found out.
            self._release(is_clean=False)
            raise

    def _open_writer_or_at_rest(self) -> sqlite3.Connection:
        """Open the writer; on a full disk the file at rest instead, so that it can be read.

        A past owner that may be alive is fenced off in the first write's own transaction then. What it writes until then is seen.
        """
        try:
            return self._open_planned_writer()
        except DRIVER_ERRORS as error:
            connection = self._open_at_rest(must_be_fenced=False) if is_full(error) else None
            if connection is None:
                raise
            return connection

    def _open_at_rest(self, *, must_be_fenced: bool = True) -> sqlite3.Connection | None:
        """Open the file at rest; None if it is not at rest, or must not stay so."""
        self._resting_file = self.plan = None
        if self._ownership is None or (must_be_fenced and not self._ownership.is_fenced):
            return None
        found = open_at_rest(self._options)
        if found is None:
            return None
        connection, resting_file = found
        try:
            uid, epoch, owner, file_version, applied_json = connection.execute(_SUMMARY).fetchone()
            plan = migrator.plan_from_summary(self._planner, file_version, applied_json)
            self._ownership.recognize(uid, epoch, owner)
        except (sqlite3.Error, TypeError, ValueError, TenantryError):
            plan = None  # The writer will meet it too, and say it as it should be said.
        if plan is None or plan.pending:
            connection.close()
            return None
        self.plan, self._resting_file = plan, resting_file
        return connection

    def _open_planned_writer(self) -> sqlite3.Connection:
        path = self._options.path
        assert path is not None
        was_log_left = has_log(path)
        connection = open_writer(self._options, self._known_version, self._log)
        try:
            self._plan_and_claim(connection, None if was_log_left else path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_woken_writer(self) -> sqlite3.Connection:
        """Open the writer of a database at rest, on a thread.

        Without a claim: who owns the file now is compared with what was seen then, in each transaction.
        """
        if self._ownership is not None and self._options.path is not None:
            self._ownership.note(self._options.path)
        assert self._options.path is not None
        writer = open_writer(self._options, self._known_version, self._log, is_log_synced=False)
        self._new_log = NewLog(self._options.path)
        return writer

    def _plan_and_claim(self, connection: sqlite3.Connection, noted: Path | None) -> None:
        """Plan, then claim: a database that is refused is not touched. `noted` is the file for which a log is begun."""
        assert self._ownership is not None
        try:
            self.plan = migrator.plan(self._planner, connection)
        except MigrationError as error:
            self.plan = error
        else:
            self._ownership.claim(connection, noted)

    def _release(self, *, is_clean: bool = True) -> None:
        if self._ownership is not None:
            self._ownership.release(is_clean=is_clean)
