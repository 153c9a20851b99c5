"""A tenant that several stores have open, and the operations that keep them out."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import psycopg
import pytest

from postgres_servers import Database, PostgresServer
from postgres_stores import Stores, admin, open_stores, rows, run, until
from stores import connected
from tenantry.errors import (
    CallTimeoutError,
    DatabaseCorruptError,
    PersistenceConnectionError,
    QueryError,
    SnapshotError,
    TenantOwnedElsewhereError,
    TransactionClosedError,
    UnsupportedByBackend,
)
from tenantry.sql.statements import Fetch
from tenantry.storage.postgres.connections.locks import tenant_key
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.store import PostgresStore
from tenantry.storage.protocol import Request
from tenantry.testing.conformance.store_check import keyed
from tenants import HANG_SECONDS

TABLE = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint)"


@pytest.fixture(scope="module")
def database(each_postgres_server: PostgresServer) -> Iterator[Database]:
    """A database for all tests; each test has its own tenant."""
    with each_postgres_server.database() as database:
        yield database


@pytest.fixture
async def stores(database: Database) -> AsyncIterator[Stores]:
    """Stores on one pool."""
    async with open_stores(database) as stores:
        yield stores


@pytest.fixture
async def store(stores: Stores) -> AsyncIterator[PostgresStore]:
    """A connected store with a table."""
    async with connected(stores.make(), TABLE) as store:
        yield store


def insert(row_id: int) -> Request:
    """Return a unit that inserts a row."""
    return (run("INSERT INTO t (id, n) VALUES (?, 0)", row_id),)


def schema_of(store: PostgresStore) -> str:
    """Return the schema's name."""
    return store._owner.schema


async def raise_epoch(database: Database, store: PostgresStore) -> None:
    """Do what an operation does that must keep others out."""
    await admin(database, f"UPDATE {schema_of(store)}.tenantry_owner SET epoch = epoch + 1")


async def test_a_store_claims_the_connection_of_its_last_batch(stores: Stores, store: PostgresStore):
    """A store is ready for its next batch if that connection is idle, and a store without a connection is always ready."""
    await store.write([insert(1)])
    assert store.claim_connection()
    async with stores.pool.connection(store._owner.uid, timeout_seconds=HANG_SECONDS):
        assert not store.claim_connection()
    assert store.claim_connection()
    await stores.pool.aclose()
    stores.pool.open()
    assert store.claim_connection()
    await store.write([insert(2)])
    assert await rows(store, "SELECT id FROM t ORDER BY id") == [(1,), (2,)]


async def test_writes_of_several_stores_have_one_order(stores: Stores, store: PostgresStore):
    """Stores that write at the same time lose nothing, and each read sees what was written before."""
    others = [stores.again(store) for _ in range(3)]
    for other in others:
        await other.connect()
    await store.write([insert(0)])
    unit = (
        run("UPDATE t SET n = n + 1 WHERE id = 0"),
        run("SELECT n FROM t WHERE id = 0", fetch=Fetch.ONE),
    )

    async def count(store: PostgresStore) -> list[int]:
        seen = []
        for _ in range(10):
            seen += [outcome[1][0] for outcome in await store.write([unit, unit])]
            assert (await rows(store, "SELECT n FROM t"))[0][0] >= seen[-1]
        return seen

    seen = await asyncio.gather(*map(count, [store, *others]))
    assert sorted(chain.from_iterable(seen)) == list(range(1, 81))
    for other in others:
        await other.disconnect()


async def test_other_stores_changes_are_seen(stores: Stores, store: PostgresStore):
    """The number changes with each commit of another store, and with none of its own."""
    other = stores.again(store)
    await other.connect()
    seen = [await other.changes_by_others()]
    assert await other.write([insert(1)]) == [[None]]
    assert await other.changes_by_others() == seen[0]
    for n in (2, 3):
        assert await store.write([insert(n)]) == [[None]]
        seen.append(await other.changes_by_others())
    transaction = await store.begin()
    await transaction.write(insert(4))
    await transaction.commit()
    seen.append(await other.changes_by_others())
    assert len(set(seen)) == len(seen)
    assert other.change_token() is None
    await other.disconnect()


@pytest.mark.parametrize("request_of", [insert, lambda n: keyed(insert(n))], ids=["plain", "keyed"])
async def test_fenced_store_writes_nothing(
    database: Database, stores: Stores, store: PostgresStore, request_of: Callable[[int], Request]
):
    """After an operation has raised the epoch, no batch and no transaction of an older connection has an effect."""
    await raise_epoch(database, store)
    with pytest.raises(TenantOwnedElsewhereError) as raised:
        await store.write([request_of(1)])
    assert raised.value.tenant_id == store._owner.tenant_id
    with pytest.raises(TenantOwnedElsewhereError):
        await store.begin()
    assert await rows(store, "SELECT id FROM t") == []
    async with connected(stores.again(store)) as other:
        assert await other.write([request_of(1)]) == [[None]]
        assert await rows(other, "SELECT id FROM t") == [(1,)]


async def test_batch_that_waits_is_fenced(database: Database, store: PostgresStore):
    """A batch that waits for the owner's row while the epoch is raised writes nothing."""
    async with await psycopg.AsyncConnection.connect(database.direct_url) as other:
        await other.execute(f"UPDATE {schema_of(store)}.tenantry_owner SET epoch = epoch + 1".encode())
        writing = asyncio.ensure_future(store.write([insert(1)]))
        await waiting_for_a_lock(database)
        await other.commit()
    with pytest.raises(TenantOwnedElsewhereError):
        await writing
    assert await rows(store, "SELECT id FROM t") == []


async def waiting_for_a_lock(database: Database) -> None:
    """Wait until a connection waits for a lock."""
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await until(database, query)


async def test_locked_row_is_waited_for(database: Database, store: PostgresStore):
    """A batch waits for another process's transaction, and goes back into the line in between."""
    async with await psycopg.AsyncConnection.connect(database.direct_url) as other:
        await other.execute(f"SELECT FROM {schema_of(store)}.tenantry_owner FOR UPDATE".encode())
        writing = asyncio.ensure_future(store.write([insert(1)]))
        pids = set()
        query = (
            "SELECT count(*), max(xact_start) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock'"
        )
        while len(pids) < 2:
            ((waiting, since),) = await admin(database, query)
            if waiting:
                pids.add(since)
        assert not writing.done()
        await other.rollback()
    assert await writing == [[None]]


async def test_locked_table_is_waited_for(database: Database, store: PostgresStore):
    """Reads and writes wait for a table that another process changes, for longer than one wait; NOWAIT fails at once."""
    await store.write([insert(1)])
    nowait = run("SELECT n FROM t FOR UPDATE NOWAIT", fetch=Fetch.ALL)
    async with await psycopg.AsyncConnection.connect(database.direct_url) as other:
        await other.execute(f"SELECT FROM {schema_of(store)}.t FOR UPDATE".encode())
        (refused,) = await store.write([(nowait,)])
        assert isinstance(refused, QueryError)
        assert (refused.code, refused.is_transient) == ("55P03", True)
        await other.execute(f"LOCK TABLE {schema_of(store)}.t".encode())
        calls = [
            asyncio.ensure_future(store.read([run("SELECT id FROM t", fetch=Fetch.ALL)])),
            asyncio.ensure_future(store.write([insert(2)])),
        ]
        seen = set()
        query = (
            "SELECT pid, xact_start FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock'"
        )
        while len(seen) < 4:
            seen.update(await admin(database, query))
        assert not any(call.done() for call in calls)
        await other.rollback()
    assert await calls[0] in ([[(1,)]], [[(1,), (2,)]])
    assert await calls[1] == [[None]]


async def test_statement_that_takes_too_long_fails_alone(stores: Stores, store: PostgresStore):
    """The server ends a statement at its time limit, and the other units are committed."""
    other = stores.again(store, settings=dict(stores.settings) | {"statement_timeout": "100"})
    await other.connect()
    slow = run("SELECT pg_sleep(600)", fetch=Fetch.ALL)
    good, bad = await other.write([insert(1), (slow,)])
    assert good == [None]
    assert isinstance(bad, QueryError)
    assert (bad.code, bad.is_transient) == ("57014", True)
    (bad, found) = await other.read([slow, run("SELECT id FROM t", fetch=Fetch.ONE)])
    assert isinstance(bad, QueryError)
    assert found == (1,)
    await other.disconnect()


async def test_deadlock_runs_again(database: Database, store: PostgresStore):
    """A batch that the server ends because of a deadlock runs again, and nobody gets an error."""
    await store.write([insert(1)])
    schema = schema_of(store)
    async with await psycopg.AsyncConnection.connect(database.direct_url) as other:
        await other.execute(
            f"SET deadlock_timeout = '10s'; SELECT FROM {schema}.t WHERE id = 1 FOR UPDATE".encode()
        )
        writing = asyncio.ensure_future(store.write([(run("UPDATE t SET n = n + 1 WHERE id = 1"),)]))
        await waiting_for_a_lock(database)
        await other.execute(f"SELECT FROM {schema}.tenantry_owner FOR UPDATE".encode())
        await other.commit()
    assert await writing == [[None]]
    assert await rows(store, "SELECT n FROM t") == [(1,)]


async def test_store_without_a_schema(database: Database, stores: Stores, store: PostgresStore):
    """After the schema was renamed, nothing is written or read, and no store can connect."""
    await admin(database, f"ALTER SCHEMA {schema_of(store)} RENAME TO {schema_of(store)}_away")
    with pytest.raises(TenantOwnedElsewhereError):
        await store.write([insert(1)])
    with pytest.raises(TenantOwnedElsewhereError):
        await store.read([run("SELECT * FROM t", fetch=Fetch.ALL)])
    for use in (store.begin, store.migrate, store.changes_by_others, store.check_integrity):
        with pytest.raises(TenantOwnedElsewhereError):
            await use()
    with pytest.raises(TenantOwnedElsewhereError):
        await stores.again(store).connect()
    assert await admin(database, f"SELECT count(*) FROM {schema_of(store)}_away.t") == [(0,)]


async def test_operation_keeps_stores_out(database: Database, stores: Stores, store: PostgresStore):
    """While an operation holds the tenant's lock, a store that connects is refused, and afterwards it connects."""
    other = stores.again(store)
    async with await psycopg.AsyncConnection.connect(database.direct_url) as operation:
        await operation.execute("SELECT pg_advisory_xact_lock(%s)", [tenant_key(store._owner.uid)])
        with pytest.raises(TenantOwnedElsewhereError):
            await other.connect()
        assert not other.is_connected
    await other.connect()
    await other.disconnect()


async def test_schema_of_another_tenant_is_refused(stores: Stores, store: PostgresStore):
    """A store does not connect to a schema whose owner has another key."""
    for is_new in (False, True):
        other = stores.make(owner=Owner(schema_of(store), "uid-other", "other"), is_new=is_new)
        with pytest.raises(DatabaseCorruptError):
            await other.connect()
        assert not other.is_connected


async def test_schema_is_created_once(stores: Stores):
    """Stores that create the same schema at the same time all connect to it, and to a name that needs quotes."""
    owner = Owner('tenant "acme".1', "uid-acme", "acme")
    made = [stores.make(owner=owner) for _ in range(4)]
    await asyncio.gather(*(store.connect() for store in made))
    for store in made:
        await store.migrate()
        assert await store.write([(run("SELECT 1", fetch=Fetch.ONE),)]) == [[(1,)]]
        await store.disconnect()


async def test_old_marks_are_removed(database: Database, stores: Stores, store: PostgresStore):
    """A store that connects removes the marks of stores that have not written for long."""
    await store.write([insert(1)])
    assert await admin(database, f"SELECT count(*) FROM {schema_of(store)}.tenantry_batches") == [(1,)]
    await admin(database, f"UPDATE {schema_of(store)}.tenantry_batches SET at = now() - interval '2 days'")
    async with connected(stores.again(store)):
        pass
    assert await admin(database, f"SELECT count(*) FROM {schema_of(store)}.tenantry_batches") == [(0,)]
    assert await store.write([insert(2)]) == [[None]]


async def test_cancelled_batch_does_not_run_on(database: Database, store: PostgresStore):
    """A cancelled batch is interrupted on the server and has no effect, and the next one does not wait for it."""
    sleep = run("SELECT pg_sleep(600)", fetch=Fetch.ALL)
    for call in (
        lambda: store.write([insert(1), (sleep,)]),
        lambda: store.read([sleep]),
    ):
        running = asyncio.ensure_future(call())
        await sleeping(database, 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await sleeping(database, 0)
    assert await store.write([insert(2)]) == [[None]]
    assert await rows(store, "SELECT id FROM t") == [(2,)]


async def sleeping(database: Database, count: int) -> None:
    """Wait until so many connections sleep."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )
    await until(database, query, lambda found: found == [(count,)])


async def test_cancelled_call_rolls_its_transaction_back(database: Database, store: PostgresStore):
    """A cancelled statement of a transaction ends the transaction, and the store can be used."""
    transaction = await store.begin()
    await transaction.write(insert(1))
    running = asyncio.ensure_future(transaction.write((run("SELECT pg_sleep(600)", fetch=Fetch.ALL),)))
    await sleeping(database, 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(TransactionClosedError):
        await transaction.write(insert(2))
    assert await store.write([insert(3)]) == [[None]]
    assert await rows(store, "SELECT id FROM t") == [(3,)]


async def test_idle_transaction_is_ended_by_the_server(stores: Stores, store: PostgresStore):
    """A transaction whose process hangs is ended by the server, so that other processes can write."""
    async with connected(stores.again(store, transaction_timeout_seconds=-4.9)) as other:
        # The transaction keeps the owner's row until the server ends it after 0.1 s.
        transaction = await other.begin()
        assert await store.write([insert(1)]) == [[None]]
        with pytest.raises(TransactionClosedError):
            await transaction.write(insert(2))
        assert await other.write([insert(3)]) == [[None]]


async def test_replica_is_not_written(stores: Stores, store: PostgresStore):
    """A server that has become read-only is left at once, and the batch ends at its deadline without an effect."""
    settings = dict(stores.settings) | {"transaction_read_only": "on"}
    async with connected(stores.again(store)):
        other = stores.again(store, settings=settings, call_timeout_seconds=0.3)
        await other.connect()
        # The deadline may pass while one more connection is opened, and then the error says so.
        for call in (partial(other.write, [insert(1)]), other.begin):
            with pytest.raises((CallTimeoutError, PersistenceConnectionError)):
                await call()
        await other.disconnect()
    assert await rows(store, "SELECT id FROM t") == []


async def test_damage_is_looked_for(database: Database, store: PostgresStore):
    """A sound schema passes, with and without the extension that compares indexes."""
    await store.write([insert(n) for n in range(100)])
    await store.check_integrity()
    await store.check_integrity(is_thorough=True)
    if await admin(database, "SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'"):
        await admin(database, "CREATE EXTENSION IF NOT EXISTS amcheck")
        await store.check_integrity(is_thorough=True)


async def test_size_cannot_be_limited(store: PostgresStore):
    """The limit is refused and changes nothing."""
    with pytest.raises(UnsupportedByBackend):
        await store.apply_limits(database_bytes_max=1_000_000, durability="normal")
    setting = run("SELECT current_setting('synchronous_commit')", fetch=Fetch.ONE)
    assert await store.write([(setting,)]) == [[("on",)]]


async def test_closing_ends_a_copy(stores: Stores, tmp_path: Path):
    """A copy that runs when its store is closed raises, and says to try again."""
    started = asyncio.Event()

    async def endless_copy(_path: Path) -> None:
        started.set()
        await asyncio.Event().wait()

    store = stores.make()
    store._copy = endless_copy
    await store.connect()
    copying = asyncio.ensure_future(store.copy_to(tmp_path / "copy.db"))
    await started.wait()
    await store.disconnect()
    with pytest.raises(SnapshotError):
        await copying


async def test_role_limits_a_tenants_statements(database: Database, stores: Stores):
    """With a role the statements of a tenant cannot reach another schema, and tenantry's own statements still work."""
    await admin(database, "DROP ROLE IF EXISTS tenantry_test_role")
    await admin(database, "CREATE ROLE tenantry_test_role")
    async with connected(stores.make(), TABLE) as store, connected(stores.make(), TABLE) as other:
        await other.write([insert(1)])
        schema = schema_of(store)
        await admin(database, f"GRANT USAGE, CREATE ON SCHEMA {schema} TO tenantry_test_role")
        await admin(database, f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO tenantry_test_role")
        async with connected(stores.again(store, role="tenantry_test_role")) as limited:
            reach = run(f"SELECT * FROM {schema_of(other)}.t", fetch=Fetch.ALL)
            refused, written = await limited.write([(reach,), insert(1)])
            assert isinstance(refused, QueryError)
            assert refused.code == "42501"
            assert written == [None]
            assert isinstance((await limited.read([reach]))[0], QueryError)
        assert await rows(store, "SELECT id FROM t") == [(1,)]
    await admin(database, "DROP OWNED BY tenantry_test_role")
    await admin(database, "DROP ROLE tenantry_test_role")
