"""The pool of connections: bounded, in the order of arrival, and whole again after the server was away."""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain, repeat

import psycopg
import pytest

from postgres_servers import Database, PostgresServer, private_server, url_of
from tenantry import PersistenceConnectionError, PostgresConfig
from tenantry.storage.postgres.connections.connecting import connect
from tenantry.storage.postgres.connections.idle_connections import CLAIM_SECONDS_MAX
from tenantry.storage.postgres.connections.pipeline import Pipeline
from tenantry.storage.postgres.connections.pool import FIRST_PAUSE_SECONDS, ConnectionPool
from tenantry.storage.postgres.connections.settings import connection_parameters
from tenants import HANG_SECONDS, until

SECRET = "horse-battery"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


@asynccontextmanager
async def opened(url: str, *, connections_max: int = 2, clock: Clock | None = None, **settings: float):
    """Give a pool, which is closed after the block."""
    config = PostgresConfig(url=url, **settings)
    pool = (
        ConnectionPool.of(config, connections_max=connections_max)
        if clock is None
        else ConnectionPool(
            config,
            lambda seconds: connect(config, connection_parameters(config), seconds),
            connections_max=connections_max,
            monotonic=clock,
            randomness=lambda: 0.0,
        )
    )
    try:
        yield pool
    finally:
        await pool.aclose()


@pytest.fixture
async def pool(postgres_database: Database) -> AsyncIterator[ConnectionPool]:
    """A pool of two connections."""
    async with opened(postgres_database.url) as made:
        yield made


async def backend_of(pool: ConnectionPool, tenant_uid: str | None = None) -> int:
    """Return the id of the server's process that serves the next caller."""
    async with pool.connection(tenant_uid, timeout_seconds=HANG_SECONDS) as pipeline:
        pipeline.send(b"SELECT pg_backend_pid()")
        pipeline.sync()
        ((result,),) = await pipeline.results(HANG_SECONDS)
        return int(result.get_value(0, 0) or 0)


async def test_the_connection_that_was_used_last_is_used_next(pool: ConnectionPool):
    """Few connections are used while few suffice."""
    async with pool.connection(timeout_seconds=HANG_SECONDS) as first:
        async with pool.connection(timeout_seconds=HANG_SECONDS) as second:
            assert repr(pool) == "<ConnectionPool: 2 of 2 in use, 0 idle, 0 waiting>"
        assert await backend_of(pool) == second.backend_pid
    assert await backend_of(pool) == first.backend_pid
    assert repr(pool) == "<ConnectionPool: 0 of 2 in use, 2 idle, 0 waiting>"
    assert pool.counts().opened_total == 2


async def test_callers_are_served_in_their_order(pool: ConnectionPool):
    """A place goes to the caller that waits longest; a caller that has gone is passed over."""
    served: list[int] = []

    async def call(number: int) -> None:
        async with pool.connection(timeout_seconds=HANG_SECONDS):
            served.append(number)

    async with (
        pool.connection(timeout_seconds=HANG_SECONDS),
        pool.connection(timeout_seconds=HANG_SECONDS),
    ):
        calls = [asyncio.create_task(call(number)) for number in range(5)]
        await asyncio.sleep(0)
        assert pool.counts().waiting == 5
        calls[1].cancel()
        await asyncio.sleep(0)
        assert pool.counts().waiting == 4
    await asyncio.gather(*calls, return_exceptions=True)
    assert served == [0, 2, 3, 4]
    assert pool.counts().in_use == 0


async def test_a_caller_that_goes_when_it_is_handed_a_place(pool: ConnectionPool):
    """The place goes to the next caller."""

    async def call() -> None:
        async with pool.connection(timeout_seconds=HANG_SECONDS):
            pass

    async with pool.connection(timeout_seconds=HANG_SECONDS):
        async with pool.connection(timeout_seconds=HANG_SECONDS):
            gone, served = asyncio.create_task(call()), asyncio.create_task(call())
            await asyncio.sleep(0)
        gone.cancel()
        await served
    assert gone.cancelled()
    assert pool.counts().in_use == 0


async def test_no_place_in_time(pool: ConnectionPool):
    """The error names the limit."""
    async with (
        pool.connection(timeout_seconds=HANG_SECONDS),
        pool.connection(timeout_seconds=HANG_SECONDS),
    ):
        with pytest.raises(
            PersistenceConnectionError, match=r"all 2 connections .* raise connections_max"
        ) as refused:
            async with pool.connection(timeout_seconds=0):
                pass
    assert refused.value.is_retryable
    assert pool.counts()[1:4] == (0, 2, 0)


async def test_a_connection_in_a_transaction_is_not_kept(pool: ConnectionPool):
    """The next caller never continues the transaction of another caller, nor reads another's results."""
    async with pool.connection(timeout_seconds=HANG_SECONDS) as pipeline:
        pipeline.send(b"BEGIN")
        pipeline.sync()
        await pipeline.results(HANG_SECONDS)
    assert not pipeline.is_open
    async with pool.connection(timeout_seconds=HANG_SECONDS) as pipeline:
        pipeline.send(b"SELECT 1")
        pipeline.sync()
    assert not pipeline.is_open
    assert pool.counts().broken_total == 2


async def test_an_error_of_the_caller_keeps_the_connection(pool: ConnectionPool):
    """A failed statement does not cost a connection."""
    with pytest.raises(LookupError):
        async with pool.connection(timeout_seconds=HANG_SECONDS):
            raise LookupError
    assert pool.counts().idle == 1


async def test_a_terminated_connection_is_replaced(pool: ConnectionPool, postgres_server: PostgresServer):
    """A connection that broke while nobody used it is not given to a caller."""
    backend = await backend_of(pool)
    with psycopg.connect(postgres_server.base_url) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", (backend,))
    await until(lambda: pool.counts().idle == 0)
    assert await backend_of(pool) != backend
    assert pool.counts().opened_total == 2


async def test_a_server_that_comes_back():
    """A caller waits while the server is away, and is served as soon as the server is back."""
    with private_server() as server:
        server.start()
        async with opened(url_of(server)) as pool:
            await backend_of(pool)
            server.stop("immediate")
            await until(lambda: pool.counts().idle == 0)
            waiting = asyncio.create_task(backend_of(pool))
            await until(lambda: pool.counts().failed_total > 0)
            server.launch()
            assert await waiting > 0


async def test_a_server_that_stays_away():
    """The caller's deadline counts, and the error says what the server said."""
    async with opened("postgresql://app:horse-battery@/d?host=/nonexistent") as pool:
        with pytest.raises(
            PersistenceConnectionError, match=r"cannot connect .*app@/nonexistent/d.*No such file"
        ) as refused:
            async with pool.connection(timeout_seconds=0.2):
                pass
        assert pool.counts()[1:4] == (0, 0, 0)
        assert pool.counts().failed_total > 1
    assert refused.value.is_retryable
    assert SECRET not in str(refused.value)


async def test_old_connections_end(postgres_database: Database):
    """A connection ends at its age when it is returned, when it is taken, or when another one is returned."""
    clock = Clock()
    async with opened(postgres_database.url, clock=clock, connection_age_seconds_max=60) as pool:
        async with pool.connection(timeout_seconds=HANG_SECONDS):
            bottom = await backend_of(pool)
        first = await backend_of(pool)
        assert bottom != first
        clock.now += 61
        assert await backend_of(pool) not in {bottom, first}
        assert pool.counts().recycled_total == 2
        assert pool.counts().idle == 1


async def test_connections_end_after_many_tenants(postgres_database: Database):
    """A connection serves the tenants that it knows, and no more than the limit."""
    async with opened(postgres_database.url, tenants_per_connection_max=2) as pool:
        first = await backend_of(pool, "a")
        assert [await backend_of(pool, uid) for uid in ("b", "a", "b")] == [first] * 3
        assert await backend_of(pool) == first
        assert await backend_of(pool, "c") != first
        assert pool.counts().recycled_total == 1


async def test_a_tenant_returns_to_the_connection_that_it_used_last(pool: ConnectionPool):
    """The server's process there has the tenant's tables and plans in memory; other callers use the connection that was used last."""
    async with pool.connection("a", timeout_seconds=HANG_SECONDS) as home:
        other = await backend_of(pool, "b")
    assert await backend_of(pool) == home.backend_pid
    assert [await backend_of(pool, uid) for uid in ("b", "a", "b")] == [other, home.backend_pid, other]
    assert await backend_of(pool) == other


async def test_a_tenant_whose_connection_is_in_use_moves(pool: ConnectionPool):
    """It does not wait while another connection is idle, and afterwards it returns to that one."""
    async with pool.connection("a", timeout_seconds=HANG_SECONDS) as home:
        await backend_of(pool, "b")
    assert await backend_of(pool, "a") == home.backend_pid
    async with pool.connection("c", timeout_seconds=HANG_SECONDS) as last:
        assert last.backend_pid == home.backend_pid
        moved = await backend_of(pool, "a")
        assert moved != home.backend_pid
    assert await backend_of(pool) == home.backend_pid
    assert await backend_of(pool, "a") == moved


async def test_a_tenant_that_reads_beside_its_write_keeps_its_connection(pool: ConnectionPool):
    """A second connection at the same time does not become the tenant's home."""
    async with pool.connection("a", timeout_seconds=HANG_SECONDS) as home:
        assert await backend_of(pool, "a") != home.backend_pid
    assert await backend_of(pool, "b") == home.backend_pid
    assert await backend_of(pool, "a") == home.backend_pid


async def test_a_claimed_connection_waits_for_its_tenant(postgres_database: Database):
    """Only one tenant claims a connection, others take another idle one, and the claim ends when the connection is used or later."""
    clock = Clock()
    async with opened(postgres_database.url, clock=clock) as pool:
        assert pool.claim("a")  # it has no home yet
        async with pool.connection("b", timeout_seconds=HANG_SECONDS) as other:
            home = await backend_of(pool, "a")
            assert not pool.claim("b")
        assert await backend_of(pool, "c") == other.backend_pid
        async with pool.connection("c", timeout_seconds=HANG_SECONDS):
            assert await backend_of(pool, "d") == home
        assert pool.claim("a")
        assert pool.claim("a")
        assert not pool.claim("d")
        assert await backend_of(pool, "d") == other.backend_pid
        assert await backend_of(pool, "a") == home
        async with pool.connection("c", timeout_seconds=HANG_SECONDS):
            assert pool.claim("a")
            assert await backend_of(pool, "d") == home  # the other one is in use
        assert pool.claim("a")
        clock.now += CLAIM_SECONDS_MAX
        assert pool.claim("d")


async def test_a_closed_connection_is_nobodys_home(pool: ConnectionPool):
    """Its tenants take any connection."""
    async with pool.connection("a", timeout_seconds=HANG_SECONDS) as home:
        other = await backend_of(pool, "b")
        home.close()
    assert pool.claim("a")
    assert await backend_of(pool, "a") == other
    assert pool.counts().opened_total == 2


async def test_closing_while_a_connection_is_opened(postgres_database: Database):
    """A connection that was opened too late is closed, and its caller is refused."""
    config = PostgresConfig(url=postgres_database.url)
    is_opened, may_go_on, made = asyncio.Event(), asyncio.Event(), []

    async def connect_slowly(seconds: float) -> Pipeline:
        made.append(await connect(config, connection_parameters(config), seconds))
        is_opened.set()
        await may_go_on.wait()
        return made[0]

    pool = ConnectionPool(config, connect_slowly, connections_max=1)
    waiting = asyncio.create_task(backend_of(pool))
    await is_opened.wait()
    await pool.aclose()
    may_go_on.set()
    with pytest.raises(PersistenceConnectionError, match="are closed"):
        await waiting
    assert not made[0].is_open
    assert pool.counts().in_use == 0


async def test_closing(pool: ConnectionPool):
    """Who waits is told, who uses a connection loses it, and nobody gets one any more."""

    async def call() -> None:
        async with pool.connection(timeout_seconds=HANG_SECONDS):
            pass

    async with (
        pool.connection(timeout_seconds=HANG_SECONDS) as used,
        pool.connection(timeout_seconds=HANG_SECONDS),
    ):
        waiting = asyncio.create_task(call())
        await asyncio.sleep(0)
        await pool.aclose()
        await pool.aclose()
        with pytest.raises(PersistenceConnectionError, match="are closed"):
            await waiting
        assert not used.is_open
    with pytest.raises(PersistenceConnectionError, match="are closed") as refused:
        await call()
    assert not refused.value.is_retryable
    assert repr(pool) == "<ConnectionPool: closed, 0 of 2 in use, 0 idle, 0 waiting>"
    pool.open()
    await call()
    assert pool.counts().idle == 1


async def test_abandoned_while_its_loop_runs(pool: ConnectionPool):
    """Another thread may abandon the pool: its loop closes the connections."""
    async with pool.connection(timeout_seconds=HANG_SECONDS) as pipeline:
        pass
    thread = threading.Thread(target=pool.abandon)
    thread.start()
    thread.join()
    await until(lambda: not pipeline.is_open)


def test_abandoned_after_its_loop(postgres_database: Database):
    """Without its event loop a pool still closes its sockets."""
    made = []

    async def use() -> None:
        pool = ConnectionPool.of(PostgresConfig(url=postgres_database.url), connections_max=2)
        async with pool.connection(timeout_seconds=HANG_SECONDS) as pipeline:
            made.append((pool, pipeline))

    asyncio.run(use())
    ((pool, pipeline),) = made
    pool.abandon()
    assert pipeline.connection.closed
    ConnectionPool.of(PostgresConfig(url=postgres_database.url), connections_max=2).abandon()


async def test_through_every_server(each_postgres_database: Database):
    """Each version takes the parameters, and so does a pooler."""
    async with opened(each_postgres_database.url) as pool:
        assert await backend_of(pool) > 0


@asynccontextmanager
async def one_for_two(postgres_database: Database) -> AsyncIterator[ConnectionPool]:
    """Give a pool of two connections, of which the server permits one, and which never tries again to open the other one."""
    role = f"role_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_database.direct_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1".encode())
        config = PostgresConfig(url=f"{postgres_database.url}&user={role}")
        # The first number is for the connection's age, the others make pauses of half a minute.
        randomness = chain([0.0], repeat(HANG_SECONDS / 2 / FIRST_PAUSE_SECONDS)).__next__
        pool = ConnectionPool(
            config,
            lambda seconds: connect(config, connection_parameters(config), seconds),
            connections_max=2,
            randomness=randomness,
        )
        try:
            yield pool
        finally:
            await pool.aclose()
            admin.execute(f"DROP ROLE {role}".encode())


async def test_a_full_server_serves_the_caller_that_waits_longest(postgres_database: Database):
    """A caller that cannot open a connection gets the next connection that another caller returns."""
    order = []

    async def use(name: str) -> None:
        async with pool.connection(timeout_seconds=HANG_SECONDS):
            order.append(name)

    async with one_for_two(postgres_database) as pool:
        async with pool.connection(timeout_seconds=HANG_SECONDS):
            quiet = asyncio.create_task(use("quiet"))
            await until(lambda: pool.counts().failed_total == 1)
        await asyncio.gather(use("busy"), quiet)
        assert order == ["quiet", "busy"]
        assert pool.counts()[1:5] == (0, 1, 0, 1)


@pytest.mark.parametrize("when", ["it waits", "it was just served"])
async def test_a_caller_of_a_full_server_that_goes_away(postgres_database: Database, when: str):
    """A caller that is cancelled while it waits leaves the connection to the others, even if the connection was just given to it."""
    async with one_for_two(postgres_database) as pool:
        async with pool.connection(timeout_seconds=HANG_SECONDS) as first:
            quiet = asyncio.create_task(backend_of(pool))
            await until(lambda: pool.counts().failed_total == 1)
            if when == "it waits":
                quiet.cancel()
                await asyncio.wait([quiet])
        quiet.cancel()
        await asyncio.wait([quiet])
        assert quiet.cancelled()
        assert pool.counts()[1:5] == (0, 1, 0, 1)
        assert await backend_of(pool) == first.backend_pid


async def test_a_full_server_and_a_pool_that_closes(postgres_database: Database):
    """A connection that was just given to a waiting caller is closed with the pool."""
    async with one_for_two(postgres_database) as pool:
        async with pool.connection(timeout_seconds=HANG_SECONDS) as first:
            quiet = asyncio.create_task(backend_of(pool))
            await until(lambda: pool.counts().failed_total == 1)
        await pool.aclose()
        with pytest.raises(PersistenceConnectionError, match="closed"):
            await quiet
        assert not first.is_open
