"""A bounded pool of connections to one database, for the stores of all its tenants.

A caller first gets a *place*, in the order of arrival, and then a connection: the home of its tenant (`idle_connections`), the one that
was used last, or a new one. So few connections are opened while few suffice. A released place goes to the caller that waits longest,
who may have gone; then the next one is asked.

A broken connection is replaced when a caller needs it: the caller tries again, with growing pauses, until the caller's deadline. If the
server has no room for another connection, these callers share the open connections: a connection that is returned goes to the one that
waits longest. Without this order, busy tenants would always take it first.
Connections also end after they have served many tenants or reached an age, because nothing else frees what the server's process
remembers about each schema (``DISCARD ALL`` does not).

A transaction over several calls holds its connection while its caller does something else. So these transactions hold at most half of
the connections, and the others are left for batches, which end by themselves.

Decisions are made without suspending. Only opening a connection suspends.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Self, TypeAlias

from tenantry.errors import PersistenceConnectionError
from tenantry.postgres_config import PostgresConfig
from tenantry.storage.postgres.connections.connecting import connect
from tenantry.storage.postgres.connections.idle_connections import IdleConnections, PooledConnection
from tenantry.storage.postgres.connections.pipeline import Pipeline
from tenantry.storage.postgres.connections.settings import connection_parameters
from tenantry.storage.protocol import ConnectionCounts

FIRST_PAUSE_SECONDS: Final = 0.05
PAUSE_SECONDS_MAX: Final = 1.0
AGE_JITTER: Final = 0.1
"""The part of the age by which connections end earlier at random, so that those opened together do not end together."""

Connect: TypeAlias = Callable[[float], Awaitable[Pipeline]]
"""Opens a connection within a number of seconds. Raises PersistenceConnectionError."""


class ConnectionPool:
    """The connections to one database.

    Args:
        config: The settings of the database.
        connect: Opens a connection; see `of`.
        connections_max: The largest number of connections.
        monotonic: The clock of ages and deadlines, in seconds.
        randomness: A random number from 0 to 1, for pauses and ages.
    """

    def __init__(
        self,
        config: PostgresConfig,
        connect: Connect,
        *,
        connections_max: int,
        monotonic: Callable[[], float] = time.monotonic,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._connect = connect
        self._connections_max = connections_max
        self._now = monotonic
        self._random = randomness
        self._idle = IdleConnections()
        self._used: set[PooledConnection] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        # The callers that have a place and could not open a connection.
        self._openers: deque[asyncio.Future[PooledConnection]] = deque()
        self._places_taken = 0
        self._transactions_max = max(1, connections_max // 2)
        self._transactions = asyncio.Semaphore(self._transactions_max)
        self._is_closed = False
        self._opened_total = self._failed_total = self._broken_total = self._recycled_total = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def of(
        cls, config: PostgresConfig, *, connections_max: int, session: Mapping[str, str] | None = None
    ) -> Self:
        """Return a pool without connections.

        Args:
            config: The settings of the database.
            connections_max: The largest number of connections.
            session: The server's settings for each new session; see `connection_parameters`.

        Raises:
            SettingsError: The URL has an option that libpq does not know.
        """
        parameters = connection_parameters(config, session)
        return cls(config, partial(connect, config, parameters), connections_max=connections_max)

    def __repr__(self) -> str:
        counts = self.counts()
        state = "closed, " if self._is_closed else ""
        return (
            f"<{type(self).__name__}: {state}{counts.in_use} of {counts.connections_max} in use, {counts.idle} idle, "
            f"{counts.waiting} waiting>"
        )

    def counts(self) -> ConnectionCounts:
        """Return the numbers of connections and callers."""
        return ConnectionCounts(
            connections_max=self._connections_max,
            in_use=self._places_taken,
            idle=sum(one.pipeline.is_open for one in self._idle),
            waiting=len(self._waiters),
            opened_total=self._opened_total,
            failed_total=self._failed_total,
            broken_total=self._broken_total,
            recycled_total=self._recycled_total,
        )

    @asynccontextmanager
    async def connection(
        self, tenant_uid: str | None = None, *, timeout_seconds: float, is_retried: bool = True
    ) -> AsyncIterator[Pipeline]:
        """Give a connection for the block. Afterwards a connection that is not ready for the next caller is closed.

        Args:
            tenant_uid: The tenant whose schema is used; None if no tenant's is.
            timeout_seconds: The longest time until there is a connection: for the place, and for opening it again and again.
            is_retried: Whether a connection that cannot be opened is tried again until then.

        Raises:
            PersistenceConnectionError: There was no connection in time, or the pool is closed.
        """
        deadline = self._now() + timeout_seconds
        await self._take_place(deadline, timeout_seconds)
        try:
            used = await self._open_connection(tenant_uid, deadline, is_retried=is_retried)
            self._used.add(used)
            if tenant_uid is not None:
                self._idle.use(used, tenant_uid)
            try:
                yield used.pipeline
            finally:
                self._used.discard(used)
                self._keep_or_close(used)
        finally:
            self._give_place()

    @asynccontextmanager
    async def transaction(
        self, tenant_uid: str | None = None, *, timeout_seconds: float
    ) -> AsyncIterator[Pipeline]:
        """Give a connection for a transaction over several calls; see `connection`. At most half of the connections are in use for these.

        Raises:
            PersistenceConnectionError: There was no connection in time, or the pool is closed.
        """
        deadline = self._now() + timeout_seconds
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._transactions.acquire()
        except TimeoutError:
            raise PersistenceConnectionError(
                f"{self._transactions_max} transactions over several calls were open in the database {self._config.address} for "
                f"{timeout_seconds:g} s, which is half of connections_max: do slow work outside of transactions, or raise connections_max"
            ) from None
        try:
            left_seconds = max(0.0, deadline - self._now())
            async with self.connection(tenant_uid, timeout_seconds=left_seconds) as pipeline:
                yield pipeline
        finally:
            self._transactions.release()

    def claim(self, tenant_uid: str) -> bool:
        """Claim the tenant's home for the next caller; return whether it is idle. Return true for a tenant without a home.

        The home is the connection that the tenant used last; see `idle_connections`.
        """
        return self._idle.claim(tenant_uid, self._now())

    def open(self) -> None:
        """Accept callers, also after `aclose`; idempotent. A new pool accepts callers."""
        self._is_closed = False

    def aclose_nowait(self) -> None:
        """Close all connections and refuse all callers. A caller that uses a connection loses it."""
        self._is_closed = True
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(self._closed_error())
        for one in (*self._idle, *self._used):
            one.pipeline.close()
        self._idle.clear()

    async def aclose(self) -> None:
        """Close the pool until `open`; idempotent. The callers have ended: the stores are disconnected first."""
        self.aclose_nowait()

    def abandon(self) -> None:
        """Close the pool from any thread and without waiting, if its event loop may be closed."""
        loop = self._loop
        if loop is None or loop.is_closed():
            self._is_closed = True
            for one in (*self._idle, *self._used):
                # Without its loop a connection has nobody to watch its socket.
                one.pipeline.connection.pgconn.finish()
            self._idle.clear()
        else:
            loop.call_soon_threadsafe(self.aclose_nowait)

    # -- places

    async def _take_place(self, deadline: float, timeout_seconds: float) -> None:
        if self._is_closed:
            raise self._closed_error()
        self._loop = asyncio.get_running_loop()
        if self._places_taken < self._connections_max and not self._waiters:
            self._places_taken += 1
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(max(0.0, deadline - self._now())):
                await waiter
        except TimeoutError:
            self._refuse(waiter)
            raise PersistenceConnectionError(
                f"all {self._connections_max} connections to the database {self._config.address} were in use for "
                f"{timeout_seconds:g} s: raise connections_max, if the server has room for more"
            ) from None
        except asyncio.CancelledError:
            self._refuse(waiter)
            raise

    def _refuse(self, waiter: "asyncio.Future[None]") -> None:
        """Leave the queue; a place that was handed over in the same moment goes to the next caller."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._give_place()
        elif waiter in self._waiters:
            self._waiters.remove(waiter)

    def _give_place(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._places_taken -= 1

    # -- connections

    async def _open_connection(
        self, tenant_uid: str | None, deadline: float, *, is_retried: bool
    ) -> PooledConnection:
        """Return an idle connection, or open one; after a failure try again until the deadline."""
        pause = FIRST_PAUSE_SECONDS
        if self._openers and self._used:
            # The server has just refused others, and they come first.
            await self._wait_for_returned(min(pause, deadline - self._now()))
        while True:
            if self._is_closed:
                raise self._closed_error()
            if (idle := self._take_idle(tenant_uid)) is not None:
                return idle
            left = max(deadline - self._now(), FIRST_PAUSE_SECONDS)
            try:
                pipeline = await self._connect(min(left, self._config.connect_timeout_seconds))
            except PersistenceConnectionError as error:
                self._failed_total += 1
                if self._idle:
                    continue  # returned while this caller tried
                pause_now = pause * (0.5 + self._random())
                if not is_retried or not error.is_retryable or self._now() + pause_now >= deadline:
                    raise
                await self._wait_for_returned(pause_now)
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
                continue
            self._opened_total += 1
            if self._is_closed:
                pipeline.close()  # the pool was closed while the connection was opened
                raise self._closed_error()
            age = self._config.connection_age_seconds_max * (1 - AGE_JITTER * self._random())
            return PooledConnection(pipeline, self._now() + age)

    async def _wait_for_returned(self, seconds: float) -> None:
        """Wait until a connection is returned, for at most a time. The connection is then the next idle one."""
        returned: asyncio.Future[PooledConnection] = asyncio.get_running_loop().create_future()
        self._openers.append(returned)
        try:
            await asyncio.wait([returned], timeout=seconds)
        except asyncio.CancelledError:
            if returned.done():
                self._keep_or_close(returned.result())
            raise
        finally:
            if not returned.done():
                self._openers.remove(returned)
        if returned.done() and self._may_serve(returned.result()):
            self._idle.add(returned.result())

    def _take_idle(self, tenant_uid: str | None) -> PooledConnection | None:
        tenants_max = self._config.tenants_per_connection_max
        while (found := self._idle.pop(tenant_uid, self._now())) is not None:
            if (
                tenant_uid is not None
                and len(found.tenants) >= tenants_max
                and tenant_uid not in found.tenants
            ):
                self._recycled_total += 1
                self._close(found)
            elif self._may_serve(found):
                return found
        return None

    def _keep_or_close(self, used: PooledConnection) -> None:
        if self._may_serve(used):
            if self._openers:
                self._openers.popleft().set_result(used)
                return
            self._idle.add(used)
        # The connection that has been idle the longest may not be used again for a long time.
        while (oldest := next(iter(self._idle), None)) is not None and not self._may_serve(oldest):
            self._idle.remove(oldest)

    def _may_serve(self, one: PooledConnection) -> bool:
        """Return whether the connection may serve another caller; close it if not."""
        if self._is_closed:
            pass
        elif not one.pipeline.is_reusable:
            self._broken_total += 1
        elif self._now() >= one.ends_at:
            self._recycled_total += 1
        else:
            return True
        self._close(one)
        return False

    def _close(self, one: PooledConnection) -> None:
        one.pipeline.close()
        self._idle.forget(one)

    def _closed_error(self) -> PersistenceConnectionError:
        return PersistenceConnectionError(
            f"the connections to the database {self._config.address} are closed", is_retryable=False
        )
