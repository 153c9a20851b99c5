"""A connection to a PostgreSQL server on asyncio, which sends many statements in one round trip.

The connection stays in libpq's pipeline mode (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html) and uses only the
documented ``psycopg.pq`` API. psycopg's own pipeline takes three times the client's CPU time, because it makes a cursor and converts
types for each statement.

A caller queues statements with `Pipeline.send`, ends each implicit transaction with `Pipeline.sync`, and then waits for all results
with `Pipeline.results`. While the statements are sent, results are read: otherwise the buffers of both sides could fill, and both
sides would wait for ever. The event loop watches the socket of an idle connection too, so a server that closes the connection is
noticed before the next use.

libpq can wait for ever for a second error after a fatal error (https://github.com/yandex/odyssey/issues/514). So the results always have
a deadline. After the deadline the socket is closed.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import psycopg
from psycopg import pq

from tenantry.storage.postgres.connections.lost_connection import ConnectionLostError
from tenantry.storage.postgres.connections.prepared_statements import (
    DEALLOCATE_ALL,
    PreparedStatement,
    PreparedStatements,
)

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic
    from psycopg.pq.abc import PGconn, PGresult

OK: Final = frozenset([pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY])
"""The statuses of a statement's result that is not an error."""

_COPIES: Final = frozenset([pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH])
_STATEMENT: Final = object()  # marks the command of a caller's statement
_SYNC: Final = object()  # marks the end of a transaction
_INTERRUPTION_SECONDS_MAX: Final = 5.0
"""The longest wait for the end of an interrupted statement; afterwards the connection is closed."""
# The server reports with this warning that a commit is not yet on the synchronous replica; the function's name is in no language.
_REPLICA_NOT_AWAITED: Final = "SyncRepWaitForLSN"


def first_failure(results: Sequence["PGresult"]) -> "PGresult | None":
    """Return the first result that is an error; None if all statements succeeded."""
    if not results or results[-1].status in OK:
        return None  # after an error, all results of the transaction have another status
    return next(result for result in results if result.status not in OK)


class Pipeline:
    """One connection in pipeline mode. Only one task may use the connection at a time.

    Attributes:
        connection: The connection as psycopg's object; see `outside`.
        backend_pid: The process id of the server's process.
    """

    def __init__(self, connection: psycopg.AsyncConnection, *, is_prepared: bool = True) -> None:
        """Put a connection into pipeline mode.

        Args:
            connection: A connection with autocommit, which nobody else uses.
            is_prepared: Whether statements are prepared. A pooler in transaction mode may not know prepared statements.
        """
        self.connection = connection
        self._pgconn: PGconn = connection.pgconn
        self.backend_pid = self._pgconn.backend_pid
        self._socket = self._pgconn.socket  # libpq forgets the number when it loses the connection
        self._is_prepared = is_prepared
        self._prepared = PreparedStatements()
        self._path = b""  # the search path for which statements are prepared
        # One entry for each command that was sent: `_STATEMENT`, `_SYNC`, a preparation, or None for a deallocation.
        self._commands: deque[object] = deque()
        self._failed_preparation: PGresult | None = None  # or a failed deallocation
        self._syncs_due = 0
        self._parts: list[list[PGresult]] = [[]]
        self._waiter: asyncio.Future[None] | None = None
        self._lost: ConnectionLostError | None = None
        self._fatal: str | None = None
        self._is_commit_doubtful = False
        self._is_watching = False
        self._loop = asyncio.get_running_loop()
        connection.add_notice_handler(self._take_notice)
        self._pgconn.enter_pipeline_mode()
        self._watch()

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as is known."""
        return self._lost is None

    @property
    def is_reusable(self) -> bool:
        """Whether the connection is open, outside a transaction, and without results that nobody has read."""
        return (
            self._lost is None
            and not self._commands
            and not self._syncs_due
            and self._pgconn.transaction_status == pq.TransactionStatus.IDLE
        )

    def send(
        self, sql: bytes, values: Sequence[bytes | None] = (), formats: Sequence[int] | None = None
    ) -> None:
        """Queue one statement with placeholders ``$1``. It has one result in `results`.

        Args:
            sql: The statement.
            values: The value of each placeholder as the server's text format; None for NULL.
            formats: 1 for each value that is binary, and 0 for a text; None if all are texts.

        Raises:
            ConnectionLostError: The connection is closed.
        """
        try:
            if not self._is_prepared:
                self._pgconn.send_query_params(sql, values, param_formats=formats)
            else:
                name = self._prepared.name(self._path, sql) or self._prepare(sql)
                self._pgconn.send_query_prepared(name, values, param_formats=formats)
        except psycopg.OperationalError as error:
            raise self._fail(error) from error
        self._commands.append(_STATEMENT)

    def send_path(self, sql: bytes, path: bytes) -> None:
        """Queue the statement that sets the search path, with the path as its value. It has one result in `results`.

        Later statements are prepared for this path, until the next call; see `PreparedStatements`. The names only save time: a statement
        that runs with another path has the right result too, because the server compares the paths.

        Raises:
            ConnectionLostError: The connection is closed.
        """
        self._path = b""  # this statement uses no table
        self.send(sql, [path])
        self._path = path

    def sync(self) -> None:
        """End the implicit transaction: the server commits it, or rolls it back if one of its statements failed."""
        try:
            self._pgconn.pipeline_sync()
        except psycopg.OperationalError as error:
            raise self._fail(error) from error
        self._commands.append(_SYNC)
        self._syncs_due += 1
        self._prepared.end_transaction()

    async def results(self, timeout_seconds: float) -> list[list["PGresult"]]:
        """Send everything that was queued, and return the results: for each `sync` one list with one result for each statement.

        After a failed statement all later results up to the `sync` have the status ``PIPELINE_ABORTED``. If the commit itself fails, the
        list has one more result, which is the commit's error.

        Cancellation interrupts the running statement on the server, and waits a few seconds for its end. Then the transactions may be
        committed or rolled back, and the connection is reusable, or closed if the server did not answer.

        Raises:
            ConnectionLostError: The connection ended, or the results did not arrive in time; the connection is closed.
        """
        if self._lost is not None:
            raise self._lost_again()
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(timeout_seconds, self._time_out, timeout_seconds)
        try:
            self._flush()
            if self._syncs_due and self._lost is None:
                await self._waiter
        except asyncio.CancelledError:
            await self._interrupt()
            raise
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
            self._waiter = None
        if self._lost is not None:
            raise self._lost_again()
        parts, self._parts = self._parts[:-1], [[]]
        return parts

    def forget(self, sql: bytes) -> bool:
        """Prepare a statement again before its next use with the last path; return whether the statement was prepared."""
        return self._prepared.forget(self._path, sql)

    def forget_all(self) -> None:
        """Prepare all statements again before their next use."""
        self._prepared.forget_all()

    @asynccontextmanager
    async def outside(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """Leave pipeline mode for the block, for COPY and for psycopg's own methods. The connection has autocommit.

        An error in the block closes the connection.

        Raises:
            ConnectionLostError: The connection is closed.
        """
        if self._lost is not None:
            raise self._lost_again()
        self._unwatch()
        try:
            self._pgconn.exit_pipeline_mode()
        except psycopg.OperationalError as error:
            raise self._fail(error) from error
        try:
            yield self.connection
        except BaseException:
            self.close()
            raise
        try:
            self._pgconn.enter_pipeline_mode()
        except psycopg.OperationalError as error:
            self._fail(error)  # the block has done its work, so only the next use raises
        else:
            self._watch()

    def close(self) -> None:
        """Close the socket; a no-op if it is closed. The server rolls back a transaction that is not committed."""
        if self._lost is None:
            self._lose(ConnectionLostError("the connection was closed"))

    async def _interrupt(self) -> None:
        """Cancel the running statement, and read the remaining results.

        Nobody waits for the results any more. A caller who waited would be told about a commit that is not yet on a synchronous
        replica, because the server ends the wait for the replica too.
        """
        try:
            with anyio.CancelScope(shield=True):
                async with asyncio.timeout(_INTERRUPTION_SECONDS_MAX):
                    await self.connection.cancel_safe(timeout=_INTERRUPTION_SECONDS_MAX)
                    self._waiter = self._loop.create_future()
                    if self._syncs_due and self._lost is None:
                        await self._waiter
        except (psycopg.Error, TimeoutError):
            self.close()
        except BaseException:
            self.close()
            raise
        self._parts = [[]]

    def _prepare(self, sql: bytes) -> bytes:
        # In a failed transaction the server refuses everything but a rollback, and a refusal would keep the rollback from running.
        has_failed = self._pgconn.transaction_status == pq.TransactionStatus.INERROR
        if self._prepared.must_deallocate and not has_failed:
            self._pgconn.send_query_params(DEALLOCATE_ALL, None)
            self._commands.append(None)
            self._prepared.begin_deallocation()
        prepared = self._prepared.add(self._path, sql)
        self._pgconn.send_prepare(prepared.name, sql)
        self._commands.append(prepared)
        return prepared.name

    # -- reading and writing

    def _watch(self) -> None:
        self._loop.add_reader(self._socket, self._on_readable)
        self._is_watching = True

    def _unwatch(self) -> None:
        if self._is_watching:
            self._is_watching = False
            if not self._loop.is_closed():
                self._loop.remove_reader(self._socket)
                self._loop.remove_writer(self._socket)

    def _flush(self) -> None:
        try:
            if self._pgconn.flush() == 1:
                self._loop.add_writer(self._socket, self._on_writable)
        except psycopg.OperationalError as error:
            self._fail(error)

    def _on_writable(self) -> None:
        try:
            if self._pgconn.flush() == 0:
                self._loop.remove_writer(self._socket)
        except psycopg.OperationalError as error:
            self._fail(error)

    def _on_readable(self) -> None:
        try:
            self._pgconn.consume_input()
            self._take_results()
        except psycopg.OperationalError as error:
            self._fail(error)
            return
        if not self._syncs_due and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take_results(self) -> None:
        pgconn = self._pgconn
        # Without a due result `get_result` returns None for ever. `is_busy` is called in any case, because it reads notices.
        while not pgconn.is_busy() and self._syncs_due:
            result = pgconn.get_result()
            if result is None:
                if pgconn.status != pq.ConnStatus.OK:
                    raise psycopg.OperationalError("the connection was closed")
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                self._commands.popleft()
                self._syncs_due -= 1
                self._parts.append([])
            elif result.status in _COPIES:
                raise psycopg.OperationalError("a statement began a COPY, which a pipeline cannot carry")
            else:
                self._take(result)
        if self._is_commit_doubtful:
            raise psycopg.OperationalError("the commit is not known to be on the synchronous replica")

    def _take(self, result: "PGresult") -> None:
        if self._commands[0] is _SYNC:
            self._parts[-1].append(result)  # the error of the commit
            return
        command = self._commands.popleft()
        if command is _STATEMENT:
            failed, self._failed_preparation = self._failed_preparation, None
            self._parts[-1].append(result if failed is None else failed)
        elif isinstance(command, PreparedStatement):
            if result.status in OK:
                self._prepared.confirm(command)
            elif self._failed_preparation is None:
                self._failed_preparation = result
        elif result.status not in OK:
            self._prepared.fail_deallocation()
            self._failed_preparation = result

    # -- losing the connection

    def _take_notice(self, notice: "Diagnostic") -> None:
        if notice.source_function == _REPLICA_NOT_AWAITED:
            self._is_commit_doubtful = True  # libpq is in use while it calls this method
        elif notice.severity_nonlocalized in {"FATAL", "PANIC"}:
            self._fatal = notice.sqlstate  # an idle connection is told about its end by a notice

    def _time_out(self, timeout_seconds: float) -> None:
        lost = ConnectionLostError(
            f"the server did not answer within {timeout_seconds:g} s; the connection was closed"
        )
        self._lose(lost)

    def _fail(self, error: psycopg.OperationalError) -> ConnectionLostError:
        for result in reversed(self._parts[-1]):
            if result.status == pq.ExecStatus.FATAL_ERROR:
                self._fatal = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode() or None
                break
        text = next(iter(str(error).strip().splitlines()), type(error).__name__)
        lost = ConnectionLostError(f"the connection ended: {text}", code=self._fatal)
        lost.__cause__ = error
        return self._lose(lost)

    def _lose(self, lost: ConnectionLostError) -> ConnectionLostError:
        if self._lost is not None:
            return self._lost_again()
        *lost.received, lost.unfinished = self._parts
        self._lost = lost
        self._unwatch()
        self._pgconn.finish()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return lost

    def _lost_again(self) -> ConnectionLostError:
        assert self._lost is not None
        return self._lost.for_another_caller()
