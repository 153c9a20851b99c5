"""Connections that end at the worst moment: a batch is found committed or runs again, and nothing is lost or doubled."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from postgres_proxy import Fault, Proxy, open_proxy
from postgres_servers import Database, PostgresServer, private_server, url_of
from postgres_stores import Stores, admin, open_stores, rows, run, until
from stores import connected
from tenantry.errors import (
    CallTimeoutError,
    ConstraintViolationError,
    DuplicateRecordError,
    PersistenceConnectionError,
    ResultLostError,
    TransactionClosedError,
)
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.postgres.store import PostgresStore
from tenantry.testing.conformance.store_check import keyed

TABLE = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint)"
DEFERRED = (
    "CREATE TABLE child (id bigint PRIMARY KEY, parent bigint REFERENCES t DEFERRABLE INITIALLY DEFERRED)"
)
BATCH = b"tenantry_test_batch"
"""A text in the parameters of the batches that the proxy loses."""

BOTH = [pytest.param(Fault.LOST, id="lost"), pytest.param(Fault.ANSWER_LOST, id="answer-lost")]


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A database for all tests; each test has its own tenant."""
    with postgres_server.database() as database:
        yield database


@pytest.fixture
async def proxy(database: Database) -> AsyncIterator[Proxy]:
    """A proxy in front of the database."""
    async with open_proxy(database.url) as proxy:
        proxy.marker = BATCH
        yield proxy


@pytest.fixture
async def stores(database: Database, proxy: Proxy) -> AsyncIterator[Stores]:
    """Stores whose connections go through the proxy."""
    async with open_stores(Database(proxy.url, database.direct_url), connections_max=4) as stores:
        yield stores


@pytest.fixture
async def store(stores: Stores) -> AsyncIterator[PostgresStore]:
    """A connected store with tables."""
    async with connected(stores.make(), TABLE, DEFERRED) as store:
        yield store


def marked() -> Statement:
    """Return a statement that the proxy recognizes in a batch."""
    return run("INSERT INTO t (id, n) SELECT 0, 0 WHERE ? = ''", BATCH.decode())


def insert(row_id: int, fetch: Fetch = Fetch.NONE) -> Statement:
    """Return a statement that inserts a row, which fails if it runs twice."""
    return run("INSERT INTO t (id, n) VALUES (?, 0)", row_id, fetch=fetch)


def orphan(row_id: int) -> Statement:
    """Return a statement whose constraint fails in the commit."""
    return run("INSERT INTO child VALUES (?, -1)", row_id)


async def ids(store: PostgresStore) -> list[int]:
    """Return the ids of all rows."""
    return [row[0] for row in await rows(store, "SELECT id FROM t ORDER BY id")]


@pytest.mark.parametrize("fault", BOTH)
async def test_batch_takes_effect_once(store: PostgresStore, proxy: Proxy, fault: Fault):
    """Whether the batch or its answer was lost: the batch has one effect, and the callers get no error."""
    for start in (1, 3):
        proxy.faults = [fault]
        assert await store.write([(insert(start), marked()), (insert(start + 1),)]) == [[None, None], [None]]
        assert proxy.faults == []
    assert await ids(store) == [1, 2, 3, 4]


async def test_several_losses_in_a_row(store: PostgresStore, proxy: Proxy):
    """A batch may be lost several times, and its answer too."""
    proxy.faults = [Fault.LOST, Fault.LOST, Fault.ANSWER_LOST]
    assert await store.write([(insert(1), marked())]) == [[None, None]]
    assert proxy.faults == []
    assert await ids(store) == [1]


async def test_lost_results_are_not_invented(store: PostgresStore, proxy: Proxy):
    """A committed unit whose result did not arrive says that it was done; a unit without a result needs none; a lost batch returns one."""
    count = Fetch.ROWCOUNT
    proxy.faults = [Fault.ANSWER_LOST]
    plain, counted = await store.write([(insert(1), marked()), (insert(2, count),)])
    assert plain == [None, None]
    assert isinstance(counted, ResultLostError)
    assert not counted.is_retryable
    proxy.faults = [Fault.LOST]
    assert await store.write([(insert(3, count), marked())]) == [[1, None]]
    proxy.faults = [Fault.END_CUT]
    assert await store.write([(insert(4, count), marked())]) == [[1, None]]
    assert await ids(store) == [1, 2, 3, 4]


@pytest.mark.parametrize("fault", BOTH)
async def test_unit_with_a_key_keeps_its_results(store: PostgresStore, proxy: Proxy, fault: Fault):
    """The results of a unit with a key are known before the commit, and are returned although the commit's answer was lost."""
    proxy.marker = b"COMMIT"
    proxy.faults = [fault]
    unit = keyed((insert(1, Fetch.ROWCOUNT),))
    assert await store.write([unit, (insert(2, Fetch.ROWCOUNT),)]) == [[1], [1]]
    assert proxy.faults == []
    assert await store.write([unit]) == [[1]]
    assert await ids(store) == [1, 2]


@pytest.mark.parametrize("fault", [*BOTH, pytest.param(Fault.ANSWER_CUT, id="answer-cut")])
async def test_units_alone_take_effect_once(store: PostgresStore, proxy: Proxy, fault: Fault):
    """The transactions of single units are found one by one: those that failed fail, and the others have one effect."""
    units = [
        (orphan(1),),
        (insert(1), marked()),
        (orphan(2), insert(1)),
        (insert(2),),
        (insert(3), orphan(3)),
        (insert(4),),
    ]
    # The first attempt has a duplicate, and the second one fails in the commit. The third one has a transaction for each unit.
    proxy.faults = [Fault.PASSED, Fault.PASSED, fault]
    outcomes = await store.write(units)
    assert proxy.faults == []
    assert isinstance(outcomes[0], ConstraintViolationError)
    assert isinstance(outcomes[2], DuplicateRecordError)
    assert isinstance(outcomes[4], ConstraintViolationError)
    assert [outcomes[1], outcomes[3], outcomes[5]] == [[None, None], [None], [None]]
    assert await ids(store) == [1, 2, 4]


async def test_late_batch_cannot_run_any_more(store: PostgresStore, proxy: Proxy):
    """A batch that reaches the server after the store has looked for it is refused, so it cannot run twice."""
    proxy.faults = [Fault.LATE]
    add = run("INSERT INTO t (id, n) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = t.n + 1")
    assert await store.write([(add, marked())]) == [[None, None]]
    proxy.release.set()
    await proxy.delivered.wait()
    assert await rows(store, "SELECT id, n FROM t") == [(1, 1)]
    assert await store.write([(add,)]) == [[None]]
    assert await rows(store, "SELECT id, n FROM t") == [(1, 2)]


async def test_lost_look(store: PostgresStore, proxy: Proxy):
    """The look for a batch may be lost too; the results of the batch are never confused with those of the look."""
    for row_id, fault in ((1, Fault.LOST), (2, Fault.ANSWER_LOST), (3, Fault.END_CUT)):
        proxy.marker = BATCH
        proxy.faults = [Fault.ANSWER_LOST]
        writing = asyncio.ensure_future(
            store.write([(insert(row_id, Fetch.ROWCOUNT),), (insert(-row_id), marked())])
        )
        while proxy.faults:  # noqa: ASYNC110  # the event loop runs the proxy
            await asyncio.sleep(0)
        proxy.marker = b"tenantry_batches"
        proxy.faults = [fault]
        counted, plain = await writing
        assert isinstance(counted, ResultLostError)
        assert plain == [None, None]
        assert proxy.faults == []
    assert await ids(store) == [-3, -2, -1, 1, 2, 3]


async def test_reads_run_again(store: PostgresStore, proxy: Proxy):
    """A read whose connection is lost runs again."""
    await store.write([(insert(1),)])
    proxy.faults = [Fault.LOST, Fault.ANSWER_LOST]
    select = run("SELECT id FROM t WHERE ? <> ''", BATCH.decode(), fetch=Fetch.ALL)
    assert await store.read([select]) == [[(1,)]]
    assert proxy.faults == []


async def test_lost_transaction_is_rolled_back(store: PostgresStore, proxy: Proxy):
    """A transaction over several calls ends with its connection, and the next one works."""
    transaction = await store.begin()
    await transaction.write((insert(1),))
    proxy.faults = [Fault.LOST]
    with pytest.raises(TransactionClosedError):
        await transaction.write((marked(),))
    with pytest.raises(TransactionClosedError):
        await transaction.read(run("SELECT 1", fetch=Fetch.ONE))
    await transaction.rollback()
    assert await store.write([(insert(2),)]) == [[None]]
    assert await ids(store) == [2]


async def test_lost_commit_of_a_transaction_is_looked_up(store: PostgresStore, proxy: Proxy):
    """A commit whose answer was lost is found; a commit that never arrived raises, and nothing is written."""
    proxy.marker = b"COMMIT"
    transaction = await store.begin()
    await transaction.write((insert(1),))
    proxy.faults = [Fault.ANSWER_LOST]
    await transaction.commit()
    transaction = await store.begin()
    await transaction.write((insert(2),))
    proxy.faults = [Fault.LOST]
    with pytest.raises(PersistenceConnectionError, match="rolled back"):
        await transaction.commit()
    assert await store.write([(insert(3),)]) == [[None]]
    assert await ids(store) == [1, 3]


async def test_lost_commit_is_looked_up_before_the_next_write(store: PostgresStore, proxy: Proxy):
    """A write that waits for the transaction does not overwrite its mark, so a commit whose answer was lost is not reported as undone."""
    proxy.marker = b"COMMIT"
    for first in range(0, 10, 2):
        transaction = await store.begin()
        await transaction.write((insert(first),))
        waiting = store.write([(insert(first + 1),)])
        proxy.faults = [Fault.ANSWER_LOST]
        await transaction.commit()
        assert await waiting == [[None]]
    assert await ids(store) == list(range(10))


async def test_commit_that_cannot_be_looked_up_is_of_unknown_effect(
    database: Database, stores: Stores, proxy: Proxy
):
    """If the owner's row stays locked after a lost commit, the error says that the effect is unknown, and later writes run."""
    async with connected(stores.make(), TABLE) as first:
        store = stores.again(first, call_timeout_seconds=0.5)
        await store.connect()
        proxy.marker = b"COMMIT"
        transaction = await store.begin()
        await transaction.write((insert(1),))
        async with await psycopg.AsyncConnection.connect(database.direct_url) as other:
            locked = asyncio.ensure_future(
                other.execute(f"SELECT FROM {first._owner.schema}.tenantry_owner FOR UPDATE")
            )
            pid = other.info.backend_pid
            await until(
                database, f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
            )
            proxy.faults = [Fault.ANSWER_LOST]
            with pytest.raises(CallTimeoutError, match="whether the transaction was committed") as raised:
                await transaction.commit()
            assert raised.value.was_started
            await locked
        assert await store.write([(insert(2),)]) == [[None]]
        assert await ids(store) == [1, 2]
        await store.disconnect()


async def test_silent_server_has_a_deadline(stores: Stores, proxy: Proxy):
    """If the server does not answer, the call ends at its deadline and says that its effect is unknown; later calls work."""
    async with connected(stores.make(call_timeout_seconds=5.0), TABLE) as first:
        store = stores.again(first, call_timeout_seconds=0.5)
        await store.connect()
        async with await psycopg.AsyncConnection.connect(proxy.url) as other:
            await other.execute(f"SELECT FROM {first._owner.schema}.tenantry_owner FOR UPDATE")
            # The batch waits for the owner's row, which another connection keeps.
            with pytest.raises(CallTimeoutError) as raised:
                await store.write([(insert(1),)])
            assert raised.value.was_started
            # The call needs another connection, and its deadline may pass while that is opened.
            with pytest.raises((CallTimeoutError, PersistenceConnectionError)):
                await store.begin()
        assert await store.write([(insert(2),)]) == [[None]]
        assert await ids(store) == [2]
        await store.disconnect()


async def test_terminated_connections_under_load(database: Database, stores: Stores):
    """While callers write, the server ends all connections again and again: nothing is lost or doubled, and no caller gets an error."""
    async with connected(stores.make(), "CREATE TABLE log (id bigint, writer int)") as first:
        others = [stores.again(first) for _ in range(2)]
        for other in others:
            await other.connect()
        stop = asyncio.Event()
        written: list[int] = []
        numbers = iter(range(1_000_000))

        async def keep_writing(store: PostgresStore, writer: int) -> None:
            while not stop.is_set():
                batch = [next(numbers) for _ in range(5)]
                outcomes = await store.write(
                    [(run("INSERT INTO log VALUES (?, ?)", n, writer),) for n in batch]
                )
                assert outcomes == [[None]] * 5
                written.extend(batch)

        writers = [asyncio.create_task(keep_writing(store, n)) for n, store in enumerate([first, *others])]
        for _ in range(10):
            before = len(written)
            await admin(
                database,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
            )
            # The event loop runs the writers.
            while len(written) < before + 50 and not any(task.done() for task in writers):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        stop.set()
        await asyncio.gather(*writers)
        found = [row[0] for row in await rows(first, "SELECT id FROM log ORDER BY id")]
        assert found == sorted(written)
        for other in others:
            await other.disconnect()


async def test_commit_that_did_not_wait_for_its_replica_is_not_acknowledged():
    """The server reports a commit whose wait for a synchronous replica was cancelled as done. The caller goes on waiting."""
    with private_server() as server:
        server.start()
        url = url_of(server)
        database = Database(url, url)
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        async with open_stores(database) as stores, connected(stores.make(), TABLE) as store:
            await admin(database, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            await admin(database, "SELECT pg_reload_conf()")
            await until(database, "SHOW synchronous_standby_names", lambda found: found == [("nobody",)])
            writing = asyncio.ensure_future(store.write([(insert(1),)]))
            first = await until(database, waiting)
            await admin(database, f"SELECT pg_cancel_backend({first[0][0]})")
            # Now the look for the batch waits for the replica, on another connection.
            await until(database, waiting, lambda found: found not in ([], first))
            assert not writing.done()
            await admin(database, "ALTER SYSTEM SET synchronous_standby_names = ''")
            await admin(database, "SELECT pg_reload_conf()")
            assert await writing == [[None]]
            assert await ids(store) == [1]
