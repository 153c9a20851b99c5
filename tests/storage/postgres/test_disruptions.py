"""Connections that are lost, servers that crash, and a failover, while several processes write to one tenant.

Nothing that was acknowledged is lost, nothing is stored twice, and no caller sees an error.
"""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

import disruptions
from disruptions import Disruptor, Entry, Load, Verdict, Write
from lossy_proxy import LossyProxy, lossy_proxy
from postgres_processes import PoolerProcess, PostgresProcess
from postgres_servers import Database, PostgresServer, private_replica, private_server, socket_url, url_of
from postgres_stores import Stores, open_stores
from tenantry.sql.statements import Statement
from tenantry.storage.postgres.statements.marks import Found, Mark, Marks
from tenantry.storage.postgres.store import PostgresStore

pytestmark = pytest.mark.unmeasured

INSERT = "INSERT INTO entries (writer, number) VALUES (?, ?)"


class Tenant:
    """A tenant with a table without a key, in which a row may be stored twice; and the stores of several processes on it.

    Attributes:
        stores: The connected stores.
        database: The database.
    """

    def __init__(self, stores: Sequence[PostgresStore], database: Database) -> None:
        self.stores = stores
        self.database = database

    @property
    def writes(self) -> list[Write]:
        """What writes through each store."""
        return [_write_of(store) for store in self.stores]

    def stored(self) -> list[Entry]:
        """Return the rows."""
        schema = self.stores[0]._owner.schema
        with psycopg.connect(self.database.direct_url) as connection:
            return connection.execute(f'SELECT writer, number FROM "{schema}".entries'.encode()).fetchall()


def _write_of(store: PostgresStore) -> Write:
    async def write(rows: Sequence[Entry]) -> Sequence[Any]:
        return await store.write([(Statement("entries.add", INSERT, row),) for row in rows])

    return write


@asynccontextmanager
async def tenant(database: Database, *, stores: int) -> AsyncIterator[Tenant]:
    """Give a tenant on a database that so many stores are connected to."""
    async with open_stores(database, connections_max=2 * stores) as opener:
        connected = await _connected(opener, stores)
        schema = connected[0]._owner.schema
        with psycopg.connect(database.direct_url) as connection:
            connection.execute(f'CREATE TABLE "{schema}".entries (writer int, number int)'.encode())
        try:
            yield Tenant(connected, database)
        finally:
            for store in connected:
                await store.disconnect()


async def _connected(opener: Stores, count: int) -> list[PostgresStore]:
    first = opener.make(())
    stores = [first, *(opener.again(first) for _ in range(count - 1))]
    for store in stores:
        await store.connect()
    return stores


class BlindMarks(Marks):
    """A store that guesses what became of a lost commit, as one without marks has to."""

    guess: bool

    async def look_for(self, marks: Collection[Mark], *_: object) -> Found:
        """Find the same for every commit."""
        return Found(is_owner=True, kept=[mark.number for mark in marks] if self.guess else [])


def blind(store: PostgresStore, *, guess: bool) -> None:
    """Let a store guess."""
    marks = BlindMarks(store._head)
    marks.guess = guess
    store._marks = store._writer._marks = marks


async def lose_answers(written: Tenant, proxy: LossyProxy, count: int) -> Verdict:
    """Write while the answers to commits are lost, and return what became of the rows."""
    load = Load(written.writes, rows_max=3)
    async with load.running():
        for number in range(count):
            proxy.is_armed = True
            await load.progress()
            assert proxy.lost > number
    return load.verdict(written.stored())


@asynccontextmanager
async def behind_a_lossy_proxy(database: Database) -> AsyncIterator[tuple[Tenant, LossyProxy]]:
    """Give a tenant whose one store reaches the server through a proxy that loses answers."""
    hosts = psycopg.conninfo.conninfo_to_dict(database.direct_url)
    async with lossy_proxy(Path(str(hosts["host"]))) as proxy:
        url = socket_url(proxy.directory, database=str(hosts["dbname"]))
        async with tenant(Database(url, database.direct_url), stores=1) as written:
            yield written, proxy


async def test_answers_that_are_lost(postgres_database: Database):
    """A commit whose answer was lost is found by its mark, and answered."""
    async with behind_a_lossy_proxy(postgres_database) as (written, proxy):
        disruptions.check(await lose_answers(written, proxy, 10))


async def test_answers_that_are_lost_without_marks(postgres_database: Database):
    """The control: a store that guesses stores the rows twice. So the test above would notice."""
    async with behind_a_lossy_proxy(postgres_database) as (written, proxy):
        blind(written.stores[0], guess=False)
        verdict = await lose_answers(written, proxy, 5)
    assert verdict.doubled > 0


async def disrupt(server: PostgresProcess, database: Database, *, times: int) -> dict[str, float]:
    """Disrupt a server that four stores write to, and return the longest pause of each kind of disruption in seconds.

    Args:
        server: The server.
        database: The database.
        times: How many crashes of one process, immediate restarts and fast restarts there are; twice as many terminations.
    """
    happening = Disruptor(server, database)
    kinds = {
        "terminate": happening.terminate_all,
        "kill -9": happening.kill_one,
        "immediate": lambda: happening.restart("immediate"),
        "fast": lambda: happening.restart("fast"),
    }
    pauses = dict.fromkeys(kinds, 0.0)
    async with tenant(database, stores=4) as written:
        load = Load(written.writes)
        async with load.running():
            for kind in [*kinds, "terminate"] * times:
                await load.progress()
                load.forget_pauses()
                await kinds[kind]()
                await load.progress()
                pauses[kind] = max(pauses[kind], load.longest_pause_seconds)
        verdict = load.verdict(written.stored())
    disruptions.check(verdict)
    print(  # noqa: T201  # the figures of a soak
        f"{5 * times} disruptions, {verdict.acknowledged} rows, longest pauses in seconds: {pauses}"
    )
    return pauses


async def test_disruptions(own_server: PostgresProcess, own_database: Database):
    """Connections are terminated, a process is killed, and the server is restarted, under load."""
    await disrupt(own_server, own_database, times=1)


async def test_a_pooler_that_is_killed(own_server: PostgresProcess, own_database: Database):
    """A pooler in transaction mode is killed and started again, and behind it connections are terminated."""
    happening = Disruptor(own_server, own_database)
    with PoolerProcess(own_server.socket_directory) as pooler:
        pooler.start()
        name = psycopg.conninfo.conninfo_to_dict(own_database.direct_url)["dbname"]
        url = socket_url(pooler.directory, pooler.port, database=str(name))
        pooled = Database(f"{url}&tenantry_pooled=true", own_database.direct_url)
        async with tenant(pooled, stores=4) as written:
            load = Load(written.writes)
            async with load.running():
                for _ in range(3):
                    await load.progress()
                    pooler.kill()
                    pooler.start()
                    await load.progress()
                    await happening.terminate_all()
                await load.progress()
            disruptions.check(load.verdict(written.stored()))


@pytest.mark.soak
@pytest.mark.parametrize("version", [15, 16, 18])
async def test_many_disruptions(version: int):
    """Twenty disruptions of each version."""
    with private_server(version) as server:
        server.start()
        with PostgresServer(url_of(server)).database() as database:
            await disrupt(server, database, times=4)


async def test_failover():
    """The primary crashes, and its synchronous replica takes over: the stores find it, and it has everything."""
    with private_server() as primary:
        primary.start()
        with private_replica(primary, "second") as replica:
            replica.start()
            with psycopg.connect(url_of(primary), autocommit=True) as connection:
                await disruptions.make_synchronous(connection, "second")
            both = Database(url_of(primary, replica), url_of(primary))
            async with tenant(both, stores=4) as written:
                load = Load(written.writes)
                async with load.running():
                    await load.progress()
                    load.forget_pauses()
                    primary.stop("immediate")
                    replica.promote()
                    await load.progress(10)
                written.database = Database(both.url, url_of(replica))
                verdict = load.verdict(written.stored())
    disruptions.check(verdict)
    print(  # noqa: T201  # the figures of a soak
        f"failover, {verdict.acknowledged} rows, longest pause in seconds: {load.longest_pause_seconds:.2f}"
    )


HOLDER = textwrap.dedent(
    """
    import asyncio, os, sys
    from postgres_servers import Database
    from postgres_stores import open_stores
    from tenantry.storage.postgres.owner import Owner

    async def hold(url, *owner):
        async with open_stores(Database(url, url)) as stores:
            store = stores.make((), owner=Owner(*owner), is_new=False)
            await store.connect()
            await store.begin()
            print("held", flush=True)
            await asyncio.Event().wait()

    asyncio.run(hold(*sys.argv[1:]))
    """
)


async def test_a_holder_that_is_killed(postgres_database: Database):
    """A process is killed while its transaction has the tenant's row: others write as soon as the server notices."""
    async with tenant(postgres_database, stores=1) as written:
        path = os.pathsep.join(filter(None, sys.path))
        holder = subprocess.Popen(  # noqa: ASYNC220  # it returns at once
            [sys.executable, "-c", HOLDER, postgres_database.url, *written.stores[0]._owner],
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
        )
        with holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            load = Load(written.writes)
            async with load.running():
                holder.send_signal(signal.SIGKILL)
                await load.progress()
        disruptions.check(load.verdict(written.stored()))
