"""Connections to the server for work on threads: copies, restores, locks and other calls of the lifecycle.

These connections are separate from the pool's, which carry the calls of open tenants: a copy of a large tenant holds its connection
for minutes, and must not delay writes. Their number is limited too.

The connections are psycopg's blocking ones, because the other side of a copy is a SQLite file, whose driver blocks as well. Every
wait for the network has a deadline and ends when the caller is cancelled; the connection is then closed.
"""

import asyncio
import select
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import psycopg
from psycopg import conninfo
from psycopg.waiting import Ready

from tenantry.errors import PersistenceConnectionError
from tenantry.postgres_config import PostgresConfig, sentence_without_url
from tenantry.storage.postgres.connections.errors import server_errors
from tenantry.storage.postgres.connections.forked import disconnect_in_children
from tenantry.storage.postgres.connections.pool import FIRST_PAUSE_SECONDS, PAUSE_SECONDS_MAX
from tenantry.storage.postgres.connections.settings import connection_parameters
from tenantry.threads import CancelledWorkError, check_cancelled, run_in_thread

P = ParamSpec("P")
T = TypeVar("T")

IDLE_CONNECTIONS_MAX: Final = 4
"""The most idle connections of one kind that are kept, so that a burst of calls does not occupy the server's connections for ever."""

CANCEL_SECONDS_MAX: Final = 5.0
"""The longest time for asking the server to end a statement."""

STALLED_SECONDS_MAX: Final = 60.0
"""The longest wait for the next message of the server, unless a call has another limit."""

_CONNECT_SECONDS_MIN: Final = 2  # libpq's own minimum


class ThreadConnection(psycopg.Connection[tuple[Any, ...]]):
    """A blocking connection whose waits end after `stalled_seconds_max`, or when the work on the thread is cancelled."""

    stalled_seconds_max: float = STALLED_SECONDS_MAX
    opened_at_seconds: float = 0.0
    uses: int = 0

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """Run one exchange of messages with the server; see psycopg's `Connection.wait`."""
        try:
            return super().wait(_watched(gen, self.stalled_seconds_max), *args, **kwargs)
        except (CancelledWorkError, StalledError):
            # The server would notice the closed connection only at the statement's end, and would keep its locks until then.
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=CANCEL_SECONDS_MAX)
            self.close()
            raise


class StalledError(psycopg.OperationalError):
    """The server sent nothing for too long."""


class ThreadConnections:
    """Opens, limits and keeps the connections of one kind of work.

    Args:
        config: The settings of the database.
        connections_max: The largest number of connections at the same time.
        wait_seconds_max: The longest wait for a connection while all are in use; None for a wait until one is returned.
        stalled_seconds_max: The longest wait for the server's next message; see `ThreadConnection`.

    Raises:
        SettingsError: The URL has an option that libpq does not know.
    """

    def __init__(
        self,
        config: PostgresConfig,
        *,
        connections_max: int,
        wait_seconds_max: float | None,
        stalled_seconds_max: float = STALLED_SECONDS_MAX,
    ) -> None:
        self._config = config
        self._parameters = connection_parameters(config)
        self._turns = asyncio.Semaphore(connections_max)
        self._connections_max = connections_max
        self._wait_seconds_max = wait_seconds_max
        self._stalled_seconds_max = stalled_seconds_max
        self._idle: list[ThreadConnection] = []
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self._idle)} idle of {self._connections_max} connections>"

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[ThreadConnection]:
        """Lend a connection with autocommit for the block; only one thread may use the connection at a time.

        A connection that is not idle after the block is closed.

        Raises:
            PersistenceConnectionError: The server cannot be reached, or no connection became free in time.
        """
        try:
            async with asyncio.timeout(self._wait_seconds_max):
                await self._turns.acquire()
        except TimeoutError as error:
            raise PersistenceConnectionError(
                f"all {self._connections_max} connections for lifecycle calls to the database {self._config.address} were in use for "
                f"{self._wait_seconds_max:g} seconds: try again"
            ) from error
        try:
            connection = self._idle_one()
            if connection is None:
                connection = await self._open_one()
            connection.stalled_seconds_max = self._stalled_seconds_max
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            if self._may_keep(connection):
                self._idle.append(connection)
            else:
                connection.close()
        finally:
            self._turns.release()

    async def run(
        self,
        doing: str,
        work: Callable[Concatenate[ThreadConnection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run blocking work with a connection on a thread; the driver's errors become ours, with `doing` in the message.

        A cancelled caller waits until the work has ended, which is soon: the connection is closed at its next wait.
        """
        async with self.connection() as connection:
            return await on_thread(doing, connection, work, *args, **kwargs)

    def open(self) -> None:
        """Keep returned connections from now on; idempotent."""
        self._is_closed = False

    def close(self) -> None:
        """Close the idle connections; the others are closed when their work ends. Idempotent."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    def _may_keep(self, connection: ThreadConnection) -> bool:
        """Return whether a returned connection is kept for the next call.

        The server's process keeps memory for each schema that it has used. So a connection also ends after many uses, and with age.
        """
        connection.uses += 1
        return (
            not self._is_closed
            and _is_idle(connection)
            and len(self._idle) < IDLE_CONNECTIONS_MAX
            and connection.uses < self._config.tenants_per_connection_max
            and time.monotonic() - connection.opened_at_seconds < self._config.connection_age_seconds_max
        )

    def _idle_one(self) -> ThreadConnection | None:
        """Return an idle connection that the server has not closed."""
        while self._idle:
            connection = self._idle.pop()
            if not _has_ended(connection):
                return connection
            connection.close()
        return None

    async def _open_one(self) -> ThreadConnection:
        """Open a connection; while the server restarts or fails over, try again until the time for connecting is over."""
        now = asyncio.get_running_loop().time
        deadline_seconds = now() + self._config.connect_timeout_seconds
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            opened: list[ThreadConnection] = []
            try:
                return await run_in_thread(self._connect, opened)
            except PersistenceConnectionError:
                if self._is_closed or now() + pause_seconds >= deadline_seconds:
                    raise
            except asyncio.CancelledError:
                for connection in opened:
                    connection.close()  # nobody gets the connection
                raise
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)

    def _connect(self, opened: list[ThreadConnection]) -> ThreadConnection:
        """Open a connection, and add it to the list for a caller who is cancelled meanwhile."""
        seconds = str(max(_CONNECT_SECONDS_MIN, round(self._config.connect_timeout_seconds)))
        parameters = {"connect_timeout": seconds} | self._parameters
        try:
            connection = ThreadConnection.connect(
                conninfo.make_conninfo("", **parameters), autocommit=True, prepare_threshold=None
            )
        except psycopg.Error as error:
            # The chain would show the parameters in a debugger's traceback.
            raise PersistenceConnectionError(
                f"cannot connect to the database {self._config.address}: {sentence_without_url(self._config, str(error))}",
                code=error.sqlstate,
            ) from None
        opened.append(connection)
        disconnect_in_children(connection)
        connection.opened_at_seconds = time.monotonic()
        return connection


def _has_ended(connection: ThreadConnection) -> bool:
    """Return whether the server has closed an idle connection. Its last message may arrive before the end does."""
    arrived = select.poll()
    try:
        arrived.register(connection.pgconn.socket, select.POLLIN)
        while arrived.poll(0):
            connection.pgconn.consume_input()
    except psycopg.Error:
        return True
    return False


async def on_thread(
    doing: str,
    connection: ThreadConnection,
    work: Callable[Concatenate[ThreadConnection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run blocking work with a connection on a thread. An error that is no error of one statement closes the connection."""

    def run() -> T:
        with server_errors(doing):
            return work(connection, *args, **kwargs)

    try:
        return await run_in_thread(run)
    except BaseException:
        connection.close()
        raise


def _is_idle(connection: ThreadConnection) -> bool:
    return not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def _watched(gen: Generator[Any, Any, T], stalled_seconds_max: float) -> Generator[Any, Any, T]:
    """Pass a wait of psycopg through. psycopg resumes the generator every 0.1 seconds while nothing arrives."""
    ready: Any = None
    since_seconds = None
    while True:
        try:
            wanted = gen.send(ready)
        except StopIteration as done:
            value: T = done.value
            return value
        ready = yield wanted
        if ready != Ready.NONE:
            since_seconds = None
            continue
        check_cancelled()
        now_seconds = time.monotonic()
        if since_seconds is None:
            since_seconds = now_seconds
        elif now_seconds - since_seconds > stalled_seconds_max:
            raise StalledError(
                f"the server sent nothing for {stalled_seconds_max:g} seconds; the connection was closed"
            )
