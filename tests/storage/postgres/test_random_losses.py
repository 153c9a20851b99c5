"""Connections that end at random moments under a load of everything that a store can do, compared with a model.

A unit that was answered is stored once, a unit that failed is not stored, and no caller sees an error of the connection.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from lossy_proxy import LossyProxy, lossy_proxy
from postgres_servers import Database, PostgresServer, socket_url
from postgres_stores import open_stores
from tenantry.errors import DuplicateRecordError, PersistenceConnectionError, TransactionClosedError
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.postgres.store import PostgresStore
from tenantry.storage.protocol import KeyedRequest, Request
from tenants import HANG_SECONDS

ADD = "INSERT INTO entries (writer, number) VALUES (?, ?)"
TAKEN = "INSERT INTO taken VALUES (1)"
"""A statement that always fails."""

NOW = datetime(2026, 1, 31, tzinfo=UTC)


class Caller:
    """A caller that does everything that a store can do, and remembers what it was told.

    Attributes:
        stored: The numbers that must be stored once.
        absent: The numbers that must not be stored.
        losses: How often a transaction over several calls was lost; the caller is told.
    """

    def __init__(self, number: int, store: PostgresStore, choices: random.Random) -> None:
        self._number = number
        self._store = store
        self._choices = choices
        self._rows = 0
        self.stored: set[int] = set()
        self.absent: set[int] = set()
        self.losses = 0

    @property
    def schema(self) -> str:
        """The tenant's schema."""
        return self._store._owner.schema

    async def act(self) -> None:
        """Do one thing."""
        if self._choices.random() < 0.2:
            await self._transact()
        elif self._choices.random() < 0.1:
            await self._repeat_a_key()
        else:
            await self._write()

    def _add(self) -> tuple[int, Statement]:
        self._rows += 1
        return self._rows, Statement("entries.add", ADD, (self._number, self._rows))

    def _keyed(self, *statements: Statement) -> KeyedRequest:
        key = f"{self._number} {self._rows}"
        return KeyedRequest(
            statements, key=key, payload_hash=key.encode(), now=NOW, kept_since=NOW - timedelta(days=1)
        )

    async def _write(self) -> None:
        """Write a batch of units: of one or two rows, with and without a key, and some that fail."""
        requests: list[Request] = []
        rows: list[tuple[bool, list[int]]] = []
        for _ in range(self._choices.randrange(1, 8)):
            added = [self._add() for _ in range(self._choices.randrange(1, 3))]
            statements = [statement for _, statement in added]
            fails = self._choices.random() < 0.15
            if fails:
                statements.insert(
                    self._choices.randrange(len(statements) + 1), Statement("taken.add", TAKEN, ())
                )
            is_keyed = self._choices.random() < 0.2
            requests.append(self._keyed(*statements) if is_keyed else tuple(statements))
            rows.append((fails, [number for number, _ in added]))
        outcomes = await self._store.write(requests)
        for (fails, numbers), outcome in zip(rows, outcomes, strict=True):
            if fails:
                assert isinstance(outcome, DuplicateRecordError), outcome
                self.absent.update(numbers)
            else:
                assert not isinstance(outcome, Exception), outcome
                self.stored.update(numbers)

    async def _repeat_a_key(self) -> None:
        """Send a unit with a key twice."""
        number, statement = self._add()
        request = self._keyed(statement._replace(fetch=Fetch.ROWCOUNT))
        for _ in range(2):
            assert await self._store.write([request]) == [[1]]
        self.stored.add(number)

    async def _transact(self) -> None:
        """Write in a transaction of several calls. If its connection ends before the commit, nothing of it is stored."""
        number, statement = self._add()
        transaction = await self._store.begin()
        try:
            outcome = await transaction.write((statement,))
            if isinstance(outcome, Exception):
                raise outcome
            assert isinstance(await transaction.write((Statement("taken.add", TAKEN, ()),)), Exception)
            if self._choices.random() < 0.3:
                await transaction.rollback()
                self.absent.add(number)
                return
            await transaction.commit()
        except (PersistenceConnectionError, TransactionClosedError):
            self.losses += 1
            self.absent.add(number)
            await transaction.rollback()
        else:
            self.stored.add(number)


@asynccontextmanager
async def callers(
    database: Database, seed: int, count: int
) -> AsyncIterator[tuple[list[Caller], LossyProxy]]:
    """Give callers, each with a store of its own on one tenant, whose connections go through a proxy."""
    hosts = psycopg.conninfo.conninfo_to_dict(database.direct_url)
    async with lossy_proxy(Path(str(hosts["host"])), seed=seed) as proxy:
        url = socket_url(proxy.directory, database=str(hosts["dbname"]))
        async with open_stores(Database(url, database.direct_url), connections_max=2 * count) as opener:
            first = opener.make(())
            stores = [first, *(opener.again(first) for _ in range(count - 1))]
            for store in stores:
                await store.connect()
            with psycopg.connect(database.direct_url) as connection:
                connection.execute(f'SET search_path TO "{first._owner.schema}"'.encode())
                connection.execute("CREATE TABLE entries (writer int, number int)")
                connection.execute("CREATE TABLE taken (id int PRIMARY KEY)")
                connection.execute("INSERT INTO taken VALUES (1)")
            try:
                yield (
                    [
                        Caller(number, store, random.Random(f"{seed} {number}"))
                        for number, store in enumerate(stores)
                    ],
                    proxy,
                )
            finally:
                proxy.chance = 0
                for store in stores:
                    await store.disconnect()


async def lose(database: Database, *, seed: int, acts: int, chance: float) -> str:
    """Let callers act while connections end at random, compare what is stored with what they were told, and return the figures."""
    async with callers(database, seed, 3) as (acting, proxy):

        async def act(caller: Caller) -> None:
            for _ in range(acts):
                await caller.act()

        proxy.chance = chance
        async with asyncio.timeout(HANG_SECONDS * acts):
            await asyncio.gather(*(act(caller) for caller in acting))
        proxy.chance = 0
        schema = acting[0].schema
        with psycopg.connect(database.direct_url) as connection:
            rows = connection.execute(f'SELECT writer, number FROM "{schema}".entries'.encode()).fetchall()
    for number, caller in enumerate(acting):
        found = sorted(row for writer, row in rows if writer == number)
        assert found == sorted(caller.stored), f"seed {seed}"
        assert caller.absent.isdisjoint(found), f"seed {seed}"
    losses = sum(caller.losses for caller in acting)
    return f"seed {seed}: {len(rows)} rows, {proxy.lost} connections ended, {losses} transactions over several calls among them"


async def test_random_losses(postgres_database: Database):
    """A few things are done while connections end at random."""
    figures = await lose(postgres_database, seed=1, acts=12, chance=0.02)
    assert " 0 connections" not in figures


@pytest.mark.soak
async def test_many_random_losses(postgres_server: PostgresServer):
    """Many things, with many seeds and chances."""
    first = int(os.environ.get("SOAK_SEED", random.randrange(10**6)))
    for seed in range(first, first + 10):
        with postgres_server.database() as database:
            # With more losses a batch would not always end before its deadline.
            chance = random.Random(seed).choice([0.003, 0.01, 0.02])
            print(await lose(database, seed=seed, acts=100, chance=chance), flush=True)  # noqa: T201  # a soak's figures
