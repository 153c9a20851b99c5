"""Connections that break under load while both processes live: nothing is lost, nothing is done twice, no caller notices."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from peers import Pair, open_pair, texts
from tenantry.errors import TransactionClosedError
from tenantry.tenancy.peers.connections.frames import FrameConnection
from tenants import until

pytestmark = pytest.mark.unmeasured

CALLERS = 16
WRITES = 30
BREAKS = 20


@pytest.fixture
async def pair(data_dir: Path) -> AsyncIterator[Pair]:
    """Two registries; the tenant stays where it is."""
    async with open_pair(data_dir, handed_over_after_calls=10**6) as opened:
        await opened.own.execute(
            "CREATE TABLE counts (caller INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT"
        )
        await opened.own.execute_many("INSERT INTO counts VALUES (?, 0)", [(one,) for one in range(CALLERS)])
        yield opened


def _shut(connection: FrameConnection) -> None:
    """Break a connection from outside, as a kernel does: what was sent is lost or not."""
    descriptor = connection.fileno()
    if descriptor is not None:
        with socket.socket(fileno=os.dup(descriptor)) as same:
            same.shutdown(socket.SHUT_RDWR)


BREAKERS: dict[str, Callable[[Pair], None]] = {
    "the owner's end": lambda pair: [one.end() for one in list(pair.owner._parts.peers._accepted)] and None,
    "the other end": lambda pair: (
        [one.end() for one in list(pair.other._parts.peers._owners.values())] and None
    ),
    "the kernel": lambda pair: [_shut(one) for one in list(pair.owner._parts.peers._accepted)] and None,
}


@pytest.mark.parametrize("break_all", BREAKERS.values(), ids=BREAKERS)
async def test_under_load(pair: Pair, break_all: Callable[[Pair], None]):
    """Each caller adds 1 to its row, and is told each number exactly once."""
    done = 0

    async def count(caller: int) -> list[Any]:
        nonlocal done
        told = []
        for _ in range(WRITES):
            add = "UPDATE counts SET n = n + 1 WHERE caller = ? RETURNING n"
            told.append(await pair.forwarded.fetch_value(add, (caller,)))
            assert (
                await pair.forwarded.fetch_value("SELECT n FROM counts WHERE caller = ?", (caller,))
                == told[-1]
            )
            done += 1
        return told

    counting = [asyncio.create_task(count(caller)) for caller in range(CALLERS)]
    for number in range(BREAKS):
        await until(lambda at=number * CALLERS: done > at or all(one.done() for one in counting))  # type: ignore[misc]
        break_all(pair)
    assert await asyncio.gather(*counting) == [[*range(1, WRITES + 1)]] * CALLERS
    # The marks of units whose results have arrived are removed with the next unit.
    await pair.forwarded.execute("INSERT INTO notes (text) VALUES ('last')")
    assert await pair.own.fetch_value("SELECT count(*) FROM notes") == 1


async def test_transactions_under_load(pair: Pair):
    """A transaction whose connection breaks is kept or refused, and its caller knows which."""
    done = 0

    async def count(caller: int) -> int:
        nonlocal done
        kept = 0
        for _ in range(WRITES):
            try:
                async with pair.forwarded.transaction() as tx:
                    await tx.execute("UPDATE counts SET n = n + 1 WHERE caller = ?", (caller,))
                kept += 1
            except TransactionClosedError:
                pass
            done += 1
        return kept

    counting = [asyncio.create_task(count(caller)) for caller in range(CALLERS)]
    for number in range(BREAKS):
        await until(lambda at=number * CALLERS: done > at or all(one.done() for one in counting))  # type: ignore[misc]
        BREAKERS["the kernel"](pair)
    kept = await asyncio.gather(*counting)
    rows = await pair.own.fetch_all("SELECT n FROM counts ORDER BY caller")
    assert [row.n for row in rows] == kept
    assert sum(kept) > 0


async def test_an_idle_connection(pair: Pair):
    """A connection that broke while nobody used it is made again, without an error."""
    for break_all in BREAKERS.values():
        await pair.forwarded.execute("INSERT INTO notes (text) VALUES (1)")
        break_all(pair)
        await pair.forwarded.execute("INSERT INTO notes (text) VALUES (2)")
    assert await texts(pair.own) == [1, 2] * 3
