"""Units that fail in a batch: their errors, and the others of the batch."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from postgres_servers import Database, PostgresServer
from postgres_stores import Stores, open_stores, rows, run
from stores import connected
from tenantry.errors import (
    ConstraintViolationError,
    DuplicateRecordError,
    IdempotencyConflictError,
    QueryError,
    TransactionClosedError,
)
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.postgres.statements.writes import FAILURES_TOGETHER_MAX, TRANSACTIONS_PER_TRIP_MAX
from tenantry.storage.postgres.store import PostgresStore
from tenantry.testing.conformance.store_check import keyed
from tenants import HANG_SECONDS

TABLE = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint)"
DEFERRED = (
    "CREATE TABLE child (id bigint PRIMARY KEY, parent bigint REFERENCES t DEFERRABLE INITIALLY DEFERRED)"
)


@pytest.fixture(scope="module")
def database(each_postgres_server: PostgresServer) -> Iterator[Database]:
    """A database for all tests; each test has its own tenant."""
    with each_postgres_server.database() as database:
        yield database


@pytest.fixture
async def stores(database: Database) -> AsyncIterator[Stores]:
    """Stores on one connection, so that a connection that a failure leaves in a wrong state is used again."""
    async with open_stores(database, connections_max=1) as stores:
        yield stores


@pytest.fixture
async def store(stores: Stores) -> AsyncIterator[PostgresStore]:
    """A connected store with tables."""
    async with connected(stores.make(), TABLE, DEFERRED) as store:
        yield store


def insert(row_id: object, n: object = 0, fetch: Fetch = Fetch.NONE) -> Statement:
    """Return a statement that inserts a row."""
    return run("INSERT INTO t (id, n) VALUES (?, ?)", row_id, n, fetch=fetch)


def orphan(row_id: int, parent: int) -> Statement:
    """Return a statement whose constraint is checked by the commit."""
    return run("INSERT INTO child (id, parent) VALUES (?, ?)", row_id, parent)


async def ids(store: PostgresStore, table: str = "t") -> list[int]:
    """Return the ids of all rows."""
    return [row[0] for row in await rows(store, f"SELECT id FROM {table} ORDER BY id")]


@pytest.mark.parametrize("failures", [1, FAILURES_TOGETHER_MAX - 1, FAILURES_TOGETHER_MAX, 8, 70])
async def test_failures_of_any_number_are_their_units_own(store: PostgresStore, failures: int):
    """However many units fail: each has its own error, the others are whole, and the results are in order."""
    count = run("SELECT count(*) FROM t", fetch=Fetch.ONE)
    good = [(insert(n), insert(-n), count) for n in range(1, 2 * failures + 1)]
    bad = [(insert(1000 + n), insert(1000 + n)) for n in range(failures)]
    requests = [unit for trio in zip(good[::2], bad, good[1::2], strict=True) for unit in trio]
    outcomes = await store.write(requests)
    assert all(isinstance(outcome, DuplicateRecordError) for outcome in outcomes[1::3])
    counts = [outcome[2][0] for n, outcome in enumerate(outcomes) if n % 3 != 1]
    assert counts == [2 * n for n in range(1, 2 * failures + 1)]
    assert await ids(store) == [n for n in range(-2 * failures, 2 * failures + 1) if n]


async def test_each_unit_alone_is_made_durable_at_the_end(store: PostgresStore):
    """In a transaction of its own a unit does not wait for the disk; with others it does."""
    setting = run("SELECT current_setting('synchronous_commit')", fetch=Fetch.ONE)
    assert await store.write([(insert(1), setting)]) == [[None, ("on",)]]
    bad = [(insert(1),)] * FAILURES_TOGETHER_MAX
    outcomes = await store.write([*bad, (insert(2), setting)])
    assert outcomes[-1] == [None, ("off",)]
    await store.apply_limits(database_bytes_max=None, durability="normal")
    assert await store.write([(insert(3), setting)]) == [[None, ("off",)]]


async def test_failed_commit_is_its_units_own(store: PostgresStore):
    """A deferred constraint fails only in the commit, which does not say whose it is: all units get transactions of their own."""
    requests = [
        (insert(1),),
        (orphan(1, 99),),
        (insert(2), orphan(2, 2)),
        (insert(1),),
        (insert(3), orphan(3, 98)),
        (insert(4),),
    ]
    outcomes = await store.write(requests)
    for position in (1, 4):
        assert isinstance(outcomes[position], ConstraintViolationError)
    assert isinstance(outcomes[3], DuplicateRecordError)
    assert [outcomes[0], outcomes[2], outcomes[5]] == [[None], [None, None], [None]]
    assert await ids(store) == [1, 2, 4]
    assert await ids(store, "child") == [2]


async def test_more_units_alone_than_one_trip_takes(store: PostgresStore):
    """The units go in several trips, and none is forgotten."""
    total = 2 * TRANSACTIONS_PER_TRIP_MAX + 5
    requests = [(orphan(1, -1),), *[(insert(n),) for n in range(total)]]
    outcomes = await store.write(requests)
    assert isinstance(outcomes[0], ConstraintViolationError)
    assert outcomes[1:] == [[None]] * total
    assert await ids(store) == list(range(total))


async def test_large_batch_is_cut(store: PostgresStore):
    """A batch of more bytes than one trip carries runs as several transactions, in order, and a failure is still its unit's own."""
    await store.write([(run("CREATE TABLE big (id bigint PRIMARY KEY, data bytea)"),)])
    data = bytes(3 * 1024 * 1024)
    requests = [(run("INSERT INTO big VALUES (?, ?)", n, data),) for n in (1, 2, 3, 3, 4, 5)]
    outcomes = await store.write(requests)
    assert isinstance(outcomes[3], DuplicateRecordError)
    assert [outcome for n, outcome in enumerate(outcomes) if n != 3] == [[None]] * 5
    assert await rows(store, "SELECT id, length(data) FROM big ORDER BY id") == [
        (n, len(data)) for n in range(1, 6)
    ]


async def test_keys_in_batches_with_failures(store: PostgresStore):
    """A unit with a key runs once, whatever happens beside it; a unit that fails stores no key."""
    returning = run("INSERT INTO t (id, n) VALUES (?, ?) RETURNING id, n", 7, 70, fetch=Fetch.ALL)
    outcomes = await store.write(
        [
            (insert(1),),
            keyed((insert(1),)),
            (orphan(1, 99),),
            keyed((returning,)),
            keyed((returning,)),
            keyed((insert(8),), payload_hash=b"other"),
            (insert(2),),
        ]
    )
    assert [outcomes[0], outcomes[6]] == [[None], [None]]
    assert isinstance(outcomes[1], DuplicateRecordError)
    assert isinstance(outcomes[2], ConstraintViolationError)
    assert outcomes[3:5] == [[[(7, 70)]], [[(7, 70)]]]
    assert isinstance(outcomes[5], IdempotencyConflictError)
    assert await ids(store) == [1, 2, 7]


async def test_units_with_and_without_keys_alone(store: PostgresStore):
    """After several failures units with keys and others get transactions of their own, in order."""
    count = run("SELECT count(*) FROM t", fetch=Fetch.ONE)
    units = [(insert(n), count) for n in range(6)]
    outcomes = await store.write(
        [(orphan(1, -1),), units[0], keyed(units[1]), units[2], units[3], keyed(units[1]), units[4], units[5]]
    )
    assert isinstance(outcomes[0], ConstraintViolationError)
    counts = [outcome[1][0] for outcome in outcomes[1:]]
    assert counts == [1, 2, 3, 4, 2, 5, 6]


async def test_key_of_a_failed_commit_is_not_stored(store: PostgresStore):
    """The key is in the unit's transaction, so it is rolled back with the unit and can be used again."""
    (outcome,) = await store.write([keyed((orphan(1, 99),))])
    assert isinstance(outcome, ConstraintViolationError)
    assert await store.write([keyed((insert(1), orphan(1, 1)))]) == [[None, None]]
    assert await rows(store, "SELECT count(*) FROM tenantry_idempotency") == [(1,)]


async def test_results_too_large_for_a_key_are_the_units_own_failure(store: PostgresStore):
    """Results that cannot be stored with the key fail their unit, and nothing of the unit stays."""
    large = run("INSERT INTO t (id, n) VALUES (1, 0) RETURNING repeat('x', 2000000)", fetch=Fetch.ALL)
    refused, written = await store.write([keyed((large,)), (insert(2),)])
    assert isinstance(refused, QueryError)
    assert written == [None]
    assert await ids(store) == [2]


async def test_key_inside_a_transaction(store: PostgresStore):
    """A unit with a key inside a transaction over several calls runs once, and its failure rolls only the unit back."""
    transaction = await store.begin()
    assert await transaction.write(keyed((insert(1, 5, Fetch.ROWCOUNT),))) == [1]
    assert await transaction.write(keyed((insert(1, 5, Fetch.ROWCOUNT),))) == [1]
    conflict = await transaction.write(keyed((insert(2),), payload_hash=b"other"))
    assert isinstance(conflict, IdempotencyConflictError)
    await transaction.commit()
    assert await store.write([keyed((insert(1, 5, Fetch.ROWCOUNT),))]) == [[1]]
    assert await ids(store) == [1]


async def test_failed_commit_of_a_transaction(store: PostgresStore):
    """A commit that fails raises the constraint's error, and the transaction has ended."""
    transaction = await store.begin()
    assert await transaction.write((orphan(1, 99),)) == [None]
    with pytest.raises(ConstraintViolationError):
        await transaction.commit()
    with pytest.raises(TransactionClosedError):
        await transaction.write((insert(1),))
    await transaction.rollback()
    assert await store.write([(insert(2),)]) == [[None]]
    assert await ids(store, "child") == []


@pytest.mark.parametrize("steps", range(8))
async def test_cancelled_rollback_of_a_transaction(store: PostgresStore, steps: int):
    """However far a rollback has come when asyncio cancels it: the next write gets the writer and the only connection."""
    transaction = await store.begin()
    assert await transaction.write((insert(1),)) == [None]
    rollback = asyncio.create_task(transaction.rollback())
    for _ in range(steps):
        await asyncio.sleep(0)
    rollback.cancel()
    await asyncio.wait([rollback])
    if steps == 0:  # the rollback has not begun
        await transaction.rollback()
    async with asyncio.timeout(HANG_SECONDS):
        assert await store.write([(insert(2),)]) == [[None]]
        await (await store.begin()).rollback()
    assert await ids(store) == [2]


async def test_duplicates_name_their_key(store: PostgresStore):
    """A duplicate names the columns of the key, or the index if it has expressions."""
    await store.write(
        [
            (
                run('CREATE TABLE named (a text, "B" text, UNIQUE (a, "B"), CHECK (a <> \'bad\'))'),
                run("CREATE UNIQUE INDEX named_lower ON named (lower(a))"),
                run("ALTER TABLE named ALTER a SET NOT NULL"),
            )
        ]
    )
    unit = lambda a, b: (run("INSERT INTO named VALUES (?, ?)", a, b),)  # noqa: E731
    ok, same, folded, missing, checked = await store.write(
        [unit("x", "y"), unit("x", "y"), unit("X", "z"), unit(None, "z"), unit("bad", "z")]
    )
    assert ok == [None]
    assert isinstance(same, DuplicateRecordError)
    assert (same.constraint, same.columns) == ("named.a, named.B", ("named.a", "named.B"))
    assert isinstance(folded, DuplicateRecordError)
    assert (folded.constraint, folded.columns) == ("named_lower", ())
    assert isinstance(missing, ConstraintViolationError)
    assert missing.constraint == "named.a"
    assert isinstance(checked, ConstraintViolationError)
    assert checked.constraint == "named_a_check"
    assert not any("x" in str(error).replace("named_lower", "").split(" ") for error in (same, folded))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (("a\0b",), "NUL"),
        (("\ud800",), "UTF-8"),
        ((object(),), "type object"),
        (([1],), "type list"),
        ((), "takes 1 values, but 0 were given"),
        ((1, 2), "takes 1 values, but 2 were given"),
        (("x" * 200_000,), "54000"),
    ],
)
async def test_values_that_cannot_be_stored(
    store: PostgresStore, parameters: tuple[object, ...], message: str
):
    """Each is refused with the reason, alone, and nothing of its unit is stored."""
    await store.write([(run("CREATE TABLE texts (v text PRIMARY KEY)"),)])
    if message == "54000":
        # A text that does not compress: an index cannot have it.
        (value,) = (
            await rows(store, "SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) AS n")
        )[0]
        parameters = (value,)
    bad, good = await store.write(
        [(insert(1), run("INSERT INTO texts VALUES (?)", *parameters)), (insert(2),)]
    )
    assert isinstance(bad, QueryError)
    assert message in str(bad)
    assert good == [None]
    assert await ids(store) == [2]


async def test_changed_tables_do_not_fail_prepared_statements(store: PostgresStore, stores: Stores):
    """A statement that was prepared for other columns, in the same schema or in another tenant's, is prepared again."""
    every = run("SELECT * FROM t ORDER BY id", fetch=Fetch.ALL)
    save = run("INSERT INTO t (id, n) VALUES (?, ?)", 2**40, "7")
    for _ in range(2):
        assert await store.write([(insert(1, 1),)]) != []
        assert await store.read([every]) == [[(1, 1)]]
        assert await store.write([(every,)]) == [[[(1, 1)]]]
    await store.write([(run("ALTER TABLE t ADD COLUMN more text"),)])
    assert await store.read([every, every]) == [[(1, 1, None)]] * 2
    await store.write([(run("ALTER TABLE t DROP COLUMN more"),)])
    assert await store.write([(insert(2), every)]) == [[None, [(1, 1), (2, 0)]]]
    transaction = await store.begin()
    await transaction.write((run("ALTER TABLE t ADD COLUMN again text"),))
    assert await transaction.read(every) == [(1, 1, None), (2, 0, None)]
    await transaction.rollback()
    # Another tenant's tables have the same names and other types.
    async with connected(stores.make(), "CREATE TABLE t (id integer PRIMARY KEY, n text)") as other:
        assert await other.write([(insert(1, "text"),)]) == [[None]]
        assert await store.write([(insert(3, 3),)]) == [[None]]
        assert await other.write([(insert(2, "text"),)]) == [[None]]
        assert await store.write([(save,)]) == [[None]]
        assert await other.read([every]) == [[(1, "text"), (2, "text")]]


async def test_values_have_the_same_five_types(store: PostgresStore):
    """Each type of column returns int, float, str, bytes or None."""
    await store.write(
        [
            (
                run(
                    "CREATE TABLE kinds (b boolean, i int, big bigint, f double precision, n numeric, t text, j jsonb, u uuid, y bytea, "
                    "at timestamptz, d date)"
                ),
            )
        ]
    )
    values = (
        *(True, 1, 2**62, 0.1, "12.50", "é☃", '{"a": 1}', "00000000-0000-0000-0000-0000000000ff", b"\0\xff"),
        *("2026-01-31T09:30:00.5+01:00", "2026-01-31"),
    )
    insert_all = run(f"INSERT INTO kinds VALUES ({', '.join('?' * 11)})", *values)
    nothing = run(f"INSERT INTO kinds VALUES ({', '.join('?' * 11)})", *[None] * 11)
    assert await store.write([(insert_all, nothing)]) == [[None, None]]
    first, second = await rows(store, "SELECT * FROM kinds ORDER BY i NULLS LAST")
    assert first == (
        *(1, 1, 2**62, 0.1, 12.5, "é☃", '{"a": 1}', b"\0" * 15 + b"\xff", b"\0\xff"),
        *("2026-01-31T08:30:00.500000Z", "2026-01-31"),
    )
    assert second == (None,) * 11
    found = await rows(store, "SELECT sum(big), sum(n), count(*), 'infinity'::timestamptz FROM kinds")
    assert found == [(2**62, 12.5, 2, "infinity")]
    assert [type(value) for value in found[0]] == [int, float, int, str]


async def test_a_functions_temporary_table_hides_no_table(store: PostgresStore):
    """A function's temporary table stays on the connection, which later serves other tenants."""
    body = "BEGIN CREATE TEMP TABLE t AS SELECT 9 AS id, 9 AS value; RETURN 1; END"
    made, *_ = await store.write(
        [(run(f"CREATE FUNCTION make() RETURNS int LANGUAGE plpgsql AS '{body}'"),), (insert(1),)]
    )
    assert made == [None]
    await store.write([(run("SELECT make()", fetch=Fetch.ALL),)])
    await store.write([(insert(2),)])
    assert await ids(store) == [1, 2]


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "SET search_path TO public",
            "RESET ALL",
            "DISCARD ALL",
            "COPY t TO STDOUT",
            "LISTEN x",
            "NOTIFY x",
        ),
        *(
            "PREPARE p AS SELECT 1",
            "DEALLOCATE ALL",
            "DECLARE c CURSOR FOR SELECT 1",
            "VACUUM",
            "DO $$BEGIN COMMIT; END$$",
        ),
        *("CALL p()", "SELECT set_config('search_path', 'public', false)", "CREATE TEMP TABLE x (a int)"),
        *(
            "UPDATE tenantry_owner SET epoch = 9",
            'DELETE FROM "tenantry_batches"',
            "DROP TABLE schema_migrations",
        ),
        *(
            "WITH gone AS (DELETE FROM tenantry_owner RETURNING 1) SELECT * FROM gone",
            "/*/* */ SELECT 1 */ COMMIT",
        ),
        *(
            "SELECT pg_advisory_lock(1)",
            "SELECT * INTO TEMP x FROM t",
            "CREATE TABLE pg_temp.t (a int)",
            'SELECT * INTO "pg_temp".x FROM t',
            "SELECT U&\"set\\005fconfig\"('search_path', 'public', false)",
            'UPDATE U&"tenantry\\005fowner" SET epoch = 9',
            "INSERT INTO t VALUES (8, 8); INSERT INTO t VALUES (9, 9)",
        ),
    ],
)
async def test_statements_that_reach_further_are_refused(store: PostgresStore, sql: str):
    """A statement that would change the connection, the transaction or tenantry's own tables is refused, alone."""
    rows_of = Fetch.ALL if sql.startswith(("SELECT", "WITH")) and "INTO" not in sql else Fetch.NONE
    good, bad = await store.write([(insert(1),), (insert(2), run(sql, fetch=rows_of))])
    assert good == [None]
    assert isinstance(bad, QueryError)
    assert isinstance((await store.read([run(sql, fetch=rows_of)]))[0], QueryError)
    assert await ids(store) == [1]
    assert await rows(store, "SELECT epoch FROM tenantry_owner") == [(1,)]
