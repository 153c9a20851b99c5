"""Write batches under real failures: whoever fails is alone with it, and nothing is acknowledged that was not kept."""

import sqlite3
import warnings
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stores import COUNT_TO_A_BILLION, open_backend, open_store, read_rows, rows, run, small_disk
from tenantry.company import Message
from tenantry.errors import (
    ConstraintViolationError,
    DuplicateRecordError,
    QueryError,
    StorageFullError,
    TenantryError,
    TransactionClosedError,
)
from tenantry.sql.statements import Fetch, Statement, TupleRow
from tenantry.storage import PersistenceBackend
from tenantry.storage.protocol import WriteOutcome
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.statements import batch
from tenantry.storage.sqlite.store import SQLiteStore
from tenantry.testing.conformance.samples import make_message
from tenants import held_writer

pytestmark = pytest.mark.usefixtures("each_engine")

TABLES = [
    "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)",
    "CREATE TRIGGER refusing BEFORE INSERT ON t WHEN new.n < 0 BEGIN SELECT RAISE(ROLLBACK, 'below zero'); END",
    "CREATE TABLE child (t_id INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)",
]
ROW = "INSERT INTO t (id, n) VALUES (1, 0)"
FAIL_TRIGGERS = [
    "CREATE TRIGGER failing BEFORE INSERT ON t WHEN new.n > 100 BEGIN SELECT RAISE(FAIL, 'above hundred'); END",
    "CREATE TABLE many (n INTEGER)",
    "CREATE TRIGGER filling BEFORE INSERT ON many BEGIN INSERT OR FAIL INTO t (id) SELECT 60 UNION ALL SELECT new.n; END",
    "CREATE TABLE nesting (n INTEGER)",
    "CREATE TRIGGER nested BEFORE INSERT ON nesting BEGIN INSERT INTO t (id, n) SELECT 61, 1 UNION ALL SELECT 62, 101; END",
]
LOSES_TRANSACTION = {
    "or-rollback": run("INSERT OR ROLLBACK INTO t (id) VALUES (1)"),
    "raise-rollback": run("INSERT INTO t (id, n) VALUES (50, -1)"),
    "or-fail": run("INSERT OR FAIL INTO t (id) VALUES (50), (1)"),
    "raise-fail": run("INSERT INTO t (id, n) VALUES (50, 1), (51, 101)"),
    "or-fail-in-a-trigger": run("INSERT INTO many (n) VALUES (1)"),
    "raise-fail-in-a-trigger": run("INSERT INTO nesting (n) VALUES (1)"),
    "rows-nobody-asked-for": run("INSERT INTO t (id) VALUES (50) RETURNING id"),
    "unreadable-result": rows("INSERT INTO t (id) VALUES (50) RETURNING CAST(x'ff' AS TEXT)"),
}
"""Statements that fail and would take the batch's transaction, or rows of their own, with them."""

UNUSABLE: dict[str, Any] = {
    "too-large": (2**63,),
    "lone-surrogate": ("\ud800",),
    "an-object": (object(),),
    "a-list": ([1],),
    "none-of-a-sequence": 5,
    "too-many": (1, 2),
    "too-few": (),
    "a-generator": (n for n in [1]),
    "by-name": {"id": 1},
}
"""Parameters that the driver refuses."""


class Hostile:
    """A parameter that raises what it likes when it is bound."""

    def __conform__(self, _: object) -> object:  # sqlite3's own protocol
        """Fail in the middle of binding."""
        raise RuntimeError("hostile")


@pytest.fixture(params=["file", "memory"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> SQLiteOptions:
    """A database in a file or in memory."""
    is_memory = request.param == "memory"
    return SQLiteOptions(path=None if is_memory else tmp_path / "a.db", is_read_by_writer=is_memory)


@pytest.fixture
async def store(options: SQLiteOptions) -> AsyncIterator[SQLiteStore]:
    """An open store with tables that can fail in most ways, and one row."""
    async with open_store(options, *TABLES, ROW) as opened:
        yield opened


@pytest.fixture
async def failing_store(options: SQLiteOptions) -> AsyncIterator[SQLiteStore]:
    """The same with triggers that fail, too."""
    async with open_store(options, *TABLES, *FAIL_TRIGGERS, ROW) as opened:
        yield opened


def insert(row_id: object) -> Statement:
    """Return a statement that adds a row."""
    return run("INSERT INTO t (id) VALUES (?)", row_id)


async def ids(store: SQLiteStore) -> list[int]:
    """Return the rows' ids."""
    return [row_id for (row_id,) in await read_rows(store, "SELECT id FROM t ORDER BY id")]


def errors(outcomes: list[WriteOutcome]) -> list[TenantryError]:
    """Return the outcomes, which are all errors."""
    assert all(isinstance(outcome, TenantryError) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, TenantryError)]


@pytest.mark.parametrize("statement", LOSES_TRANSACTION.values(), ids=LOSES_TRANSACTION.keys())
@pytest.mark.parametrize("unit", [1, 2], ids=["statement", "unit"])
async def test_the_innocent_run_again(failing_store: SQLiteStore, statement: Statement, unit: int):
    """A statement that takes the whole transaction with it fails alone: the others are kept, itself not in part."""
    guilty = (statement,) if unit == 1 else (insert(60), statement)
    outcomes = await failing_store.write(
        [(insert(2),), guilty, (insert(3), insert(4)), (insert(1),), (insert(5),)]
    )
    assert [outcomes[0], outcomes[2], outcomes[4]] == [[None], [None, None], [None]]
    assert isinstance(outcomes[1], QueryError | DuplicateRecordError)
    assert isinstance(outcomes[3], DuplicateRecordError)
    assert await ids(failing_store) == [1, 2, 3, 4, 5]


async def test_several_may_lose_the_transaction(failing_store: SQLiteStore):
    """Each of them fails alone, however many there are in one batch."""
    guilty = [(statement,) for statement in LOSES_TRANSACTION.values()]
    outcomes = await failing_store.write([(insert(2),), *guilty, (insert(3),), *guilty, (insert(4),)])
    assert [n for n, outcome in enumerate(outcomes) if outcome == [None]] == [0, 9, 18]
    assert await ids(failing_store) == [1, 2, 3, 4]


async def test_failed_commit_fails_all(store: SQLiteStore):
    """A COMMIT that fails keeps nothing, so nobody is told otherwise; who had failed before keeps the reason."""
    orphan = run("INSERT INTO child (t_id) VALUES (99)")
    outcomes = errors(await store.write([(insert(2),), (orphan,), (insert(1),), (insert(3), insert(4))]))
    assert [type(error) for error in outcomes] == [
        ConstraintViolationError,
        ConstraintViolationError,
        DuplicateRecordError,
        ConstraintViolationError,
    ]
    assert len(set(map(id, outcomes))) == len(
        outcomes
    )  # an instance belongs to the one caller that raises it
    assert await ids(store) == [1]
    assert await store.write([(insert(2),)]) == [[None]]


async def test_failed_commit_of_one_that_runs_again(store: SQLiteStore):
    """Run again alone, the one whose COMMIT fails is told so, and only it."""
    orphan = run("INSERT INTO child (t_id) VALUES (99)")
    outcomes = await store.write([(LOSES_TRANSACTION["or-rollback"],), (orphan,), (insert(2),)])
    assert isinstance(outcomes[1], ConstraintViolationError)
    assert outcomes[2] == [None]
    assert await ids(store) == [1, 2]
    assert await read_rows(store, "SELECT * FROM child") == []


async def test_failed_commit_of_a_transaction(store: SQLiteStore):
    """The transaction is rolled back and closed, and the writer is free again."""
    transaction = await store.begin()
    await transaction.write((insert(2),))
    await transaction.write((run("INSERT INTO child (t_id) VALUES (99)"),))
    with pytest.raises(ConstraintViolationError):
        await transaction.commit()
    with pytest.raises(TransactionClosedError):
        await transaction.write((insert(3),))
    assert await store.write([(insert(4),)]) == [[None]]
    assert await ids(store) == [1, 4]


@pytest.mark.parametrize("name", ["or-fail", "raise-fail", "unreadable-result"])
async def test_partial_statement_is_undone_in_a_transaction(failing_store: SQLiteStore, name: str):
    """A statement that fails and keeps rows is undone alone, and the transaction goes on."""
    transaction = await failing_store.begin()
    await transaction.write((insert(2),))
    assert isinstance(await transaction.write((LOSES_TRANSACTION[name],)), TenantryError)
    assert await transaction.write((insert(3),)) == [None]
    await transaction.commit()
    assert await ids(failing_store) == [1, 2, 3]


@pytest.mark.parametrize("name", ["or-rollback", "raise-rollback"])
async def test_transaction_that_sqlite_ended_never_becomes_autocommit(store: SQLiteStore, name: str):
    """Rolled back by SQLite itself, it raises at every later use, commit too, and gives the writer back."""
    transaction = await store.begin()
    await transaction.write((insert(2),))
    assert isinstance(await transaction.write((LOSES_TRANSACTION[name],)), TenantryError)
    with pytest.raises(TransactionClosedError):
        await transaction.write((insert(3),))
    with pytest.raises(TransactionClosedError):
        await transaction.read(rows("SELECT 1"))
    with pytest.raises(TransactionClosedError):
        await transaction.commit()
    assert await store.write([(insert(4),)]) == [[None]]
    assert await ids(store) == [1, 4]


@pytest.mark.parametrize("parameters", UNUSABLE.values(), ids=UNUSABLE.keys())
async def test_unusable_parameters_fail_their_own_caller(store: SQLiteStore, parameters: Any):
    """Whatever the driver raises for parameters, OverflowError and UnicodeEncodeError too, is one caller's QueryError."""
    bad = Statement("test.bad", "INSERT INTO t (id) VALUES (?)", parameters)
    outcomes = await store.write([(insert(2),), (bad,), (insert(3), bad), (insert(4),)])
    assert [outcomes[0], outcomes[3]] == [[None], [None]]
    for outcome in outcomes[1:3]:
        assert isinstance(outcome, QueryError)
        assert outcome.code
        assert not outcome.is_retryable
        assert outcome.__cause__ is not None
    (read,) = await store.read([bad._replace(sql="SELECT ?")])
    assert isinstance(read, QueryError)
    assert await ids(store) == [1, 2, 4]


async def test_hostile_parameter_fails_its_own_caller(store: SQLiteStore):
    """Code of a caller that raises in the middle of binding harms nobody else, in a batch and in a transaction."""
    outcomes = await store.write([(insert(2),), (insert(Hostile()),), (insert(3), insert(Hostile()))])
    assert outcomes[0] == [None]
    assert all(isinstance(outcome, QueryError) for outcome in outcomes[1:])
    transaction = await store.begin()
    assert isinstance(await transaction.write((insert(Hostile()),)), QueryError)
    assert isinstance(await transaction.read(rows("SELECT ?", Hostile())), QueryError)
    await transaction.commit()
    assert await ids(store) == [1, 2]


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "SELECT 1; COMMIT", "SELECT \0", "", "  ; -- nothing"])
async def test_text_that_is_not_one_statement(store: SQLiteStore, sql: str):
    """Several statements in one are refused, none at all does nothing; no driver's exception comes out."""
    outcomes = await store.write([(insert(2),), (run(sql),), (insert(3),)])
    assert [outcomes[0], outcomes[2]] == [[None], [None]]
    assert outcomes[1] == [None] or isinstance(outcomes[1], QueryError)
    assert await ids(store) == [1, 2, 3]


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("ATTACH ':memory:' AS other", "ATTACH"),
        ("DETACH main", "DETACH"),
        ("PRAGMA synchronous = OFF", "PRAGMA synchronous"),
        ("pragma query_only = 0", "PRAGMA query_only"),
        ("EXPLAIN PRAGMA query_only = ON", "PRAGMA query_only"),
        ("explain query plan pragma writable_schema(1)", "PRAGMA writable_schema"),
        ("PRAGMA page_size = 8192", "PRAGMA page_size"),
        ("PRAGMA wal_checkpoint", "PRAGMA wal_checkpoint"),
        ("SELECT * FROM pragma_optimize", "PRAGMA optimize"),
        ("CREATE TEMP TABLE t (id)", "temporary"),
        ("CREATE TEMPORARY TABLE IF NOT EXISTS t AS SELECT 1 AS id", "temporary"),
        ("CREATE TABLE temp.t (id)", "temporary"),
        ("CREATE VIRTUAL TABLE temp.t USING fts5 (id)", "temporary"),
        ("CREATE TEMP VIEW t AS SELECT 1 AS id", "temporary"),
        ("CREATE VIEW temp.t AS SELECT 1 AS id", "temporary"),
        ("CREATE TEMP TRIGGER hiding BEFORE INSERT ON t BEGIN SELECT RAISE(IGNORE); END", "temporary"),
        ("CREATE TRIGGER temp.hiding BEFORE INSERT ON t BEGIN SELECT RAISE(IGNORE); END", "temporary"),
        ("EXPLAIN CREATE TEMP TABLE t (id)", "temporary"),
        ("SELECT fts3_tokenizer('simple', x'4141414141414141')", "the function fts3_tokenizer"),
        ("SELECT LOAD_EXTENSION('mod_x')", "the function load_extension"),
        ("EXPLAIN COMMIT", "BEGIN, COMMIT or ROLLBACK"),
    ],
)
async def test_statements_about_the_connection_are_refused(store: SQLiteStore, sql: str, named: str):
    """A repository cannot reach another file, hide a table or change the connection, in any kind of call; others are served."""
    transaction = await store.begin()
    kinds = [await transaction.write((run(sql),)), await transaction.read(run(sql))]
    await transaction.rollback()
    written = await store.write([(run(sql),), (insert(2),), (insert(3), run(sql)), (insert(4),)])
    assert [written[1], written[3]] == [[None], [None]]
    for outcome in (*kinds, written[0], written[2], *await store.read([run(sql)])):
        assert isinstance(outcome, QueryError), outcome
        assert f"may not use {named}" in str(outcome)
        assert (outcome.code, outcome.is_retryable) == (None, False)
    assert await ids(store) == [1, 2, 4]
    assert await read_rows(store, "SELECT name FROM sqlite_temp_schema") == []


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("COMMIT", "share the connection; use tenant.transaction() for a transaction"),
        ("PRAGMA page_size = 8192", "share the connection"),
        ("CREATE TABLE tenantry_owner (id)", "this table holds tenantry's own data"),
        (
            'CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM "Schema_Migrations"; END',
            "this table holds tenantry's own data",
        ),
        ("ALTER TABLE t RENAME TO tenantry_idempotency", "this table holds tenantry's own data"),
    ],
)
async def test_a_refused_statement_is_told_why(store: SQLiteStore, sql: str, reason: str):
    """The error says why this statement is refused, and speaks of transactions only where the statement wanted one."""
    (outcome,) = await store.write([(run(sql),)])
    assert str(outcome).endswith(reason)


@pytest.mark.parametrize(
    "sql", ["VACUUM", "VACUUM INTO '/nonexistent/copy.db'", "UPDATE sqlite_schema SET sql = ''"]
)
async def test_statements_that_sqlite_refuses(store: SQLiteStore, sql: str):
    """Nothing rebuilds, copies or rewrites the database behind the store, in a write or in a read."""
    for outcome in (*await store.write([(run(sql),)]), *await store.read([run(sql)])):
        assert isinstance(outcome, QueryError), outcome
    assert await ids(store) == [1]


async def test_the_same_text_is_refused_whoever_ran_it_before(store: SQLiteStore):
    """What the store itself has run on the connection, and what a tenant was refused before, is refused again."""
    for _ in range(3):
        for sql in (
            "BEGIN IMMEDIATE",
            "COMMIT",
            "ROLLBACK",
            "SAVEPOINT unit",
            "RELEASE unit",
            "PRAGMA query_only = ON",
        ):
            (outcome,) = await store.write([(run(sql),)])
            assert "may not use" in str(outcome)
    assert await store.write([(insert(2),)]) == [[None]]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("PRAGMA table_info(child)", [(0, "t_id", "INTEGER", 0, None, 0)]),
        ("PRAGMA encoding", [("UTF-8",)]),
        ("SELECT page_size FROM pragma_page_size", [(4096,)]),
        ("SELECT name FROM pragma_table_info('t')", [("id",), ("n",)]),
        ("SELECT t.id, c.name FROM t, pragma_table_info('t') AS c", [(1, "id"), (1, "n")]),
        ("SELECT * FROM pragma_foreign_key_check", []),
        ("EXPLAIN QUERY PLAN SELECT * FROM t", [(2, 0, 0, "SCAN t")]),
    ],
)
async def test_looking_at_the_schema_is_allowed(store: SQLiteStore, sql: str, expected: list[TupleRow]):
    """Pragmas that report, as statements or as tables, and query plans."""
    assert await read_rows(store, sql) == expected
    assert await store.write([(rows(sql),)]) == [[expected]]


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT ?1, ?2, ?3", ("a", "b", "c")),
        ("SELECT ?2 AS x, ?1, ?2 WHERE ?2 IS NOT NULL", ("b", "a")),
        ("SELECT ?2, ?, ?1", ("b", "a", "c")),
        ("SELECT ?, ?4, ?2", ("a", "c", None, "b")),
        ("SELECT '?9', ?1, \"id\" /* ?8 */ FROM t AS [?7] -- ?6", ("a",)),
        ("SELECT ?2, ?1", {"1": "a", "2": "b"}),
    ],
)
async def test_numbered_placeholders(store: SQLiteStore, sql: str, parameters: Any):
    """They mean what SQLite says they mean, also beside plain ones, on every version of Python and without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with closing(sqlite3.connect(":memory:")) as plain:
            plain.execute("CREATE TABLE t AS SELECT 1 AS id")
            expected = plain.execute(sql, parameters).fetchall()
    statement = Statement("test.numbered", sql, parameters, Fetch.ALL)
    for _ in range(2):
        assert await store.write([(statement,)]) == [[expected]]
        assert await store.read([statement]) == [expected]


@pytest.mark.parametrize("parameters", [(), (1,), (1, 2, 3), 5], ids=str)
async def test_numbered_placeholders_need_their_values(store: SQLiteStore, parameters: Any):
    """One value too few, one too many, and none of a sequence are the caller's own error."""
    (outcome,) = await store.write([(Statement("test.numbered", "SELECT ?2, ?1", parameters),)])
    assert isinstance(outcome, QueryError)
    assert not outcome.is_retryable


async def test_busy_database_fails_all_and_is_retryable(tmp_path: Path):
    """Another process's write lock fails the batch after the busy timeout, before anything was done."""
    options = SQLiteOptions(path=tmp_path / "a.db", busy_timeout_seconds=0.0)
    async with open_store(options, *TABLES) as store:
        with held_writer(tmp_path / "a.db"):
            for error in errors(await store.write([(insert(2),), (insert(3),)])):
                assert isinstance(error, QueryError)
                assert (error.code, error.is_retryable) == ("SQLITE_BUSY", True)
            with pytest.raises(QueryError) as caught:
                await store.begin()
            assert caught.value.is_retryable
        assert await store.write([(insert(4),)]) == [[None]]
        assert await ids(store) == [4]


def test_interrupted_read_batch_stops():
    """Once a statement was interrupted nobody waits for the rest of the batch: it is not begun."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.create_function("stop", 0, connection.interrupt)
    statements = [
        rows("SELECT 1"),
        rows(f"{COUNT_TO_A_BILLION} WHERE stop() IS NULL"),
        rows(COUNT_TO_A_BILLION),
    ]
    outcomes = batch.read_batch(statements, connection)
    assert {getattr(outcome, "code", None) for outcome in outcomes} == {"SQLITE_INTERRUPT"}
    assert not connection.in_transaction
    connection.close()


def test_snapshot_that_cannot_be_had_fails_every_read():
    """Without a read transaction there is nothing to read from: each caller is told."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("BEGIN")
    outcomes = batch.read_batch([rows("SELECT 1"), rows("SELECT 2")], connection)
    assert [type(outcome) for outcome in outcomes] == [QueryError, QueryError]
    connection.close()


def test_unit_that_cannot_be_undone_takes_the_transaction():
    """Half a unit is never committed: where its savepoint is gone, everything is rolled back and the rest run again."""

    class Forgetful(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql.startswith("ROLLBACK TO"):
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *args)

    connection = sqlite3.connect(":memory:", isolation_level=None, factory=Forgetful)
    connection.execute(TABLES[0])
    requests = [(insert(1),), (insert(2), insert(1)), (insert(3),)]
    outcomes = batch.write_batch(requests, lambda _: None, connection)
    assert [outcomes[0], outcomes[2]] == [[None], [None]]
    assert isinstance(outcomes[1], DuplicateRecordError)
    assert connection.execute("SELECT id FROM t").fetchall() == [(1,), (3,)]
    connection.close()


async def save_until_it_fails(backend: PersistenceBackend, acknowledged: list[Message]) -> str:
    """Save large messages, keep those that were acknowledged, and return what ended it."""
    while True:
        message = make_message("x" * 20_000)
        try:
            await backend.messages.save(message)
        except TenantryError as error:
            return f"{type(error).__name__}, {'retryable' if error.is_retryable else 'for good'}"
        acknowledged.append(message)


@pytest.mark.parametrize("wal_mode", [True, False], ids=["wal", "rollback-journal"])
async def test_full_disk_loses_nothing(tmp_path: Path, wal_mode: bool):  # noqa: FBT001  # a parameter of the test
    """On a full disk writes fail as `StorageFullError`, reads go on, and with space again all that was said is there."""
    with small_disk(tmp_path / "disk", "2m") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(512 * 1024))
        acknowledged: list[Message] = []
        async with open_backend(disk / "a.db", wal_mode=wal_mode) as backend:
            assert await save_until_it_fails(backend, acknowledged) == "StorageFullError, retryable"
            assert len(acknowledged) > 10
            with pytest.raises(StorageFullError):
                await backend.messages.save_many([make_message("y" * 20_000) for _ in range(10)])
            assert list(await backend.messages.get_history("general"))[::-1] == acknowledged
            filler.unlink()
            acknowledged.append(make_message("again"))
            await backend.messages.save(acknowledged[-1])
        async with open_backend(disk / "a.db", wal_mode=wal_mode) as backend:
            assert list(await backend.messages.get_history("general"))[::-1] == acknowledged
