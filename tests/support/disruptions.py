"""Callers that write without pause, and what happens to their server meanwhile: nothing may be lost, doubled or refused.

Import it by name (``tests/support`` is on pytest's path): ``from disruptions import Load``.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import psycopg

from postgres_processes import PostgresProcess
from postgres_servers import Database, url_of
from tenants import HANG_SECONDS

Entry = tuple[int, int]
"""A row that is written: the caller's number, and the number of the caller's row."""

Write = Callable[[Sequence[Entry]], Awaitable[Sequence[Any]]]
"""Writes the rows, each as a request of its own, and returns the outcomes; an error may be raised or be an outcome."""


class Verdict(NamedTuple):
    """What became of the rows.

    Attributes:
        acknowledged: The number of rows that callers were told to be stored.
        lost: Acknowledged and not stored.
        doubled: Stored more than once.
        unacknowledged: Stored, and no caller was told.
        errors: What callers were told instead.
    """

    acknowledged: int
    lost: int
    doubled: int
    unacknowledged: int
    errors: Sequence[BaseException]


def check(verdict: Verdict) -> None:
    """Raise unless every row was acknowledged, and is stored once."""
    assert [*verdict.errors][:3] == []
    assert verdict[1:4] == (0, 0, 0)
    assert verdict.acknowledged > 0


class Load:
    """Callers that write rows, each caller in its order and one batch after the other.

    Attributes:
        longest_pause_seconds: The longest time without an acknowledgement to any caller, since `forget_pauses`.

    Args:
        writes: For each caller, what writes its rows.
        rows_max: The number of rows of a batch.
    """

    def __init__(self, writes: Sequence[Write], *, rows_max: int = 10) -> None:
        self._writes = writes
        self._rows_max = rows_max
        self._acknowledged: set[Entry] = set()
        self._errors: list[BaseException] = []
        self._counts = [0] * len(writes)
        self._acknowledgement = asyncio.Event()
        self._last_at = time.monotonic()
        self.longest_pause_seconds = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write during the block. Afterwards each caller has its last answer."""
        is_over = asyncio.Event()
        tasks = [
            asyncio.create_task(self._call(caller, write, is_over))
            for caller, write in enumerate(self._writes)
        ]
        try:
            yield
        finally:
            is_over.set()
            async with asyncio.timeout(HANG_SECONDS):
                await asyncio.gather(*tasks)

    async def progress(self, batches: int = 2) -> None:
        """Wait until each caller has been answered so many times more."""
        goals = [count + batches for count in self._counts]
        async with asyncio.timeout(HANG_SECONDS):
            while any(count < goal for count, goal in zip(self._counts, goals, strict=True)):
                self._acknowledgement.clear()
                await self._acknowledgement.wait()

    def forget_pauses(self) -> None:
        """Measure pauses anew."""
        self._last_at, self.longest_pause_seconds = time.monotonic(), 0.0

    def verdict(self, stored: Sequence[Entry]) -> Verdict:
        """Compare what callers were told with what is stored."""
        return Verdict(
            acknowledged=len(self._acknowledged),
            lost=len(self._acknowledged - set(stored)),
            doubled=len(stored) - len(set(stored)),
            unacknowledged=len(set(stored) - self._acknowledged),
            errors=self._errors,
        )

    async def _call(self, caller: int, write: Write, is_over: asyncio.Event) -> None:
        first = 0
        while not is_over.is_set():
            rows = [(caller, number) for number in range(first, first + self._rows_max)]
            first += self._rows_max
            try:
                outcomes = await write(rows)
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller was told so
                outcomes = [error] * len(rows)
            for row, outcome in zip(rows, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    self._errors.append(outcome)
                else:
                    self._acknowledged.add(row)
            self._note_answer(caller)

    def _note_answer(self, caller: int) -> None:
        now = time.monotonic()
        self.longest_pause_seconds = max(self.longest_pause_seconds, now - self._last_at)
        self._last_at = now
        self._counts[caller] += 1
        self._acknowledgement.set()


class Disruptor:
    """What can happen to a server that serves a load.

    Args:
        server: The server, which the test has started.
        database: The database of the load.
    """

    def __init__(self, server: PostgresProcess, database: Database) -> None:
        self._server = server
        self._database = database

    async def terminate_all(self) -> None:
        """End all connections to the database, as an administrator does."""
        await self._ask("pg_terminate_backend(pid)")

    async def kill_one(self) -> None:
        """Kill a process of the server that runs a statement. The server then ends all the others, and recovers."""
        with suppress(IndexError, ProcessLookupError):
            os.kill((await self._ask("pid"))[0], signal.SIGKILL)

    async def restart(self, how: str) -> None:
        """Stop and start the server; ``immediate`` is a crash."""
        self._server.stop(how)
        self._server.launch()
        await asyncio.to_thread(self._server.wait_until_ready)

    async def _ask(self, expression: str) -> list[Any]:
        """Return the expression's value for each connection to the database, the running ones first."""
        administrators = await psycopg.AsyncConnection.connect(url_of(self._server), autocommit=True)
        async with administrators as connection:
            cursor = await connection.execute(
                f"SELECT {expression} FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() "
                "ORDER BY state = 'active' DESC".encode(),
                (psycopg.conninfo.conninfo_to_dict(self._database.direct_url)["dbname"],),
            )
            return [value for (value,) in await cursor.fetchall()]


def is_synchronous(connection: psycopg.Connection[Any]) -> bool:
    """Return whether a replica gets each commit before it is acknowledged."""
    return connection.execute("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'").rowcount > 0


async def make_synchronous(connection: psycopg.Connection[Any], replica: str) -> None:
    """Let a replica of the server get each commit before it is acknowledged, and wait until it does."""
    connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{replica}'".encode())
    connection.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(HANG_SECONDS):
        while not is_synchronous(connection):  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.01)
