"""A process that connects again: whatever lies on its older connections must not run beside its repetition.

A unit that was sent may lie unread when its sender connects again and repeats it. The repetition looks for the unit's mark, finds none,
and runs. If the first attempt were then read, it would run too. So a new connection ends the older connections of its process.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from peers import Pair, open_pair, texts
from raw_peers import RawPeer, frame, hello, raw_peer, socket_of, uid_of, with_limits, write
from tenantry.errors import TransactionClosedError
from tenantry.tenancy.peers.connections.messages import Done
from tenantry.tenancy.peers.serving.served_connection import ServedConnection
from tenants import until

CALLS_MAX = 4
FILLERS = range(1, CALLS_MAX + 1)
"""The numbers of the calls that fill an older connection, so that the owner reads no more of it."""

UNIT = CALLS_MAX + 1
"""The number of the unit that is sent and repeated."""


@pytest.fixture
async def pair(data_dir: Path) -> AsyncIterator[Pair]:
    """Two registries; the owner takes few calls of a connection at a time."""
    async with open_pair(data_dir) as opened:
        with_limits(opened.owner, calls_max=CALLS_MAX)
        yield opened


def waiting(pair: Pair) -> int:
    """Return the number of writes in the tenant's mailbox."""
    statistics = pair.own.statistics()
    assert statistics is not None
    return statistics.write.mailbox_requests


async def written_twice(pair: Pair, path: Path) -> list[Any]:
    """Send a unit that lies unread, connect again, and repeat the unit; return what is in the table then."""
    token, uid = os.urandom(16), await uid_of(pair.owner)
    async with raw_peer(path) as older, raw_peer(path) as newer:
        await older.greet(token)
        async with pair.own.transaction():
            # The transaction occupies the writer: these calls wait in the mailbox, and the owner reads nothing after them.
            older.send(*(frame(number, write(uid, number)) for number in FILLERS))
            older.send(frame(UNIT, write(uid, UNIT)))
            await until(lambda: waiting(pair) >= CALLS_MAX)
            await newer.greet(token)
            newer.send(frame(UNIT, write(uid, UNIT, is_repeated=True)))
            await until(lambda: waiting(pair) == 1 or waiting(pair) == CALLS_MAX + 1)
        assert isinstance(await newer.answer_to(UNIT), Done)
        await read_all(older)
    return await texts(pair.own)


async def read_all(older: RawPeer) -> None:
    """Let the owner answer whatever it has read of the older connection, and whatever it reads then."""
    for _ in (*FILLERS, UNIT):
        try:
            await older.answer()
        except (EOFError, asyncio.IncompleteReadError):
            return


async def test_an_unread_unit_runs_once(pair: Pair):
    """The new connection ends the older one with its unread bytes, and with its calls that wait in the mailbox."""
    assert await written_twice(pair, socket_of(pair.owner)) == [UNIT]


async def test_without_the_rule_it_would_run_twice(pair: Pair, data_dir: Path):
    """The control: the same bytes, where a new connection leaves the older ones alone."""
    async with listening(pair, data_dir / "peers" / "control") as path:
        found = await written_twice(pair, path)
    assert found.count(UNIT) == 2


async def test_the_repetition_comes_with_the_greeting(pair: Pair):
    """A process that does not wait for the owner's greeting gains nothing: its first attempt is taken out of the mailbox at once."""
    token, uid = os.urandom(16), await uid_of(pair.owner)
    path = socket_of(pair.owner)
    async with raw_peer(path) as older, raw_peer(path) as newer:
        await older.greet(token)
        async with pair.own.transaction():
            older.send(frame(1, write(uid, 1)))
            await until(lambda: waiting(pair) == 1)
            newer.send(frame(0, hello(token)), frame(1, write(uid, 1, is_repeated=True)))
            await newer.answer_to(0)
            assert waiting(pair) == 1
        assert isinstance(await newer.answer_to(1), Done)
    assert await texts(pair.own) == [1]


async def test_a_transaction_of_an_older_connection_is_rolled_back(pair: Pair):
    """The older connection's transaction ends with it, and the process's next writes do not wait for the transaction's deadline."""
    token, uid = pair.other._parts.peers._sent_units.token, await uid_of(pair.owner)

    async def write_inside() -> None:
        async with pair.forwarded.transaction() as tx:
            await tx.execute("INSERT INTO notes (text) VALUES ('inside')")
            async with raw_peer(socket_of(pair.owner)) as newer:
                await newer.greet(token)
                newer.send(frame(1, write(uid, 10**6)))
                assert isinstance(await newer.answer_to(1), Done)
            await tx.execute("INSERT INTO notes (text) VALUES ('after')")

    with pytest.raises(TransactionClosedError, match="rolled back"):
        await write_inside()
    assert await texts(pair.own) == [10**6]


@asynccontextmanager
async def listening(pair: Pair, path: Path) -> AsyncIterator[Path]:
    """Let the owner listen at another socket too, where new connections leave the older connections alone."""

    def accept() -> ServedConnection:
        connection = pair.owner._parts.peers._accept(bytes)
        connection._on_greeted = lambda _: None
        return connection

    server = await asyncio.get_running_loop().create_unix_server(accept, path)
    try:
        yield path
    finally:
        server.close()
