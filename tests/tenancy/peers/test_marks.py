"""The marks of forwarded units, in one database: a unit that is repeated runs once, and its results are the same again."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stores import open_store, read_rows, rows, run
from tenantry.errors import (
    ConstraintViolationError,
    DuplicateRecordError,
    QueryError,
    ResultLostError,
    StorageFullError,
    TenantError,
    TransactionClosedError,
)
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.protocol import MarkedRequest, WriteOutcome
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.statements.marks import KEPT_SECONDS, RESULTS_BYTES_MAX
from tenantry.storage.sqlite.store import SQLiteStore
from tenants import held_writer, query

SENDER = b"a" * 16
OTHER_SENDER = b"b" * 16
TABLES = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, n ANY)",
    "CREATE TABLE child (t_id INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)",
)
ADD = rows("INSERT INTO t (n) VALUES ('x') RETURNING id")
FAILS = run("INSERT INTO t (id) VALUES (1), (1)")
LOSES_TRANSACTION = run("INSERT OR ROLLBACK INTO t (id) VALUES (1)")
ORPHAN = run("INSERT INTO child (t_id) VALUES (99)")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The database."""
    return tmp_path / "marked.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    """An open store with a table."""
    async with open_store(SQLiteOptions(path=path, busy_timeout_seconds=0.01), *TABLES) as opened:
        yield opened


def marked(*statements: Statement, number: int = 1, **fields: Any) -> MarkedRequest:
    """Return a forwarded unit."""
    return MarkedRequest(
        statements or (ADD,), **{"sender": SENDER, "number": number, "answered_to": 0, **fields}
    )


def repeated(*statements: Statement, number: int = 1, **fields: Any) -> MarkedRequest:
    """Return a forwarded unit that may have run before."""
    return marked(*statements, number=number, is_repeated=True, **fields)


def look_up(number: int = 1) -> MarkedRequest:
    """Return a request for the mark of a transaction."""
    return repeated(rows("SELECT 1"), number=number, is_look_up=True)


async def outcome(store: SQLiteStore, request: Sequence[Statement]) -> WriteOutcome:
    """Return the outcome of a unit in a batch of its own."""
    (only,) = await store.write([tuple(request) if not isinstance(request, tuple) else request])
    return only


async def ids(store: SQLiteStore) -> list[int]:
    """Return the rows' ids."""
    return [row_id for (row_id,) in await read_rows(store, "SELECT id FROM t ORDER BY id")]


def stored_marks(path: Path) -> list[tuple[bytes, int]]:
    """Return the senders and largest numbers of the rows of marks."""
    return [
        (sender, number) for sender, number in query(path, "SELECT sender, number FROM tenantry_forwarded")
    ]


class TestRepeats:
    """A unit that is sent again."""

    async def test_it_has_run(self, store: SQLiteStore):
        """Its results are those of the first time, and nothing is written."""
        first = await outcome(store, marked())
        assert first == [[(1,)]]
        for _ in range(2):
            assert await outcome(store, repeated()) == first
        assert await ids(store) == [1]

    async def test_it_has_not_run(self, store: SQLiteStore):
        """It runs, and leaves a mark."""
        for _ in range(2):
            assert await outcome(store, repeated()) == [[(1,)]]
        assert await ids(store) == [1]

    async def test_it_failed(self, store: SQLiteStore):
        """A unit that failed left no mark, so it runs again."""
        assert isinstance(await outcome(store, marked(ADD, FAILS)), DuplicateRecordError)
        assert await outcome(store, repeated(ADD)) == [[(1,)]]
        assert await ids(store) == [1]

    async def test_several_in_a_batch(self, store: SQLiteStore, path: Path):
        """Each unit of a batch is found by its number and its sender, in one row for each sender."""
        first = await store.write(
            [marked(number=5), (ADD,), marked(number=7), marked(number=6, sender=OTHER_SENDER)]
        )
        assert sorted(stored_marks(path)) == [(SENDER, 7), (OTHER_SENDER, 6)]
        again = await store.write(
            [repeated(number=7), repeated(number=6, sender=OTHER_SENDER), repeated(number=5)]
        )
        assert again == [first[2], first[3], first[0]]
        assert len(await ids(store)) == 4
        assert await outcome(store, repeated(number=6)) == [[(5,)]]  # a number belongs to its sender

    async def test_beside_units_that_fail(self, store: SQLiteStore):
        """Units that fail leave no mark, and their neighbours do, even if SQLite rolled the whole batch back."""
        assert await outcome(store, (run("INSERT INTO t (id) VALUES (1)"),)) == [None]
        first = await store.write(
            [
                marked(number=1),
                marked(FAILS, number=2),
                marked(LOSES_TRANSACTION, number=3),
                marked(ADD, ADD, number=4),
            ]
        )
        assert [first[0], first[3]] == [[[(2,)]], [[(3,)], [(4,)]]]
        assert [type(one) for one in first[1:3]] == [DuplicateRecordError, DuplicateRecordError]
        again = await store.write(
            [
                repeated(ADD, ADD, number=4),
                repeated(FAILS, number=2),
                repeated(LOSES_TRANSACTION, number=3),
                repeated(),
            ]
        )
        assert [again[0], again[3]] == [first[3], first[0]]
        assert [type(one) for one in again[1:3]] == [DuplicateRecordError, DuplicateRecordError]
        assert await ids(store) == [1, 2, 3, 4]

    async def test_a_unit_alone(self, store: SQLiteStore):
        """A unit that runs again alone, because its batch was rolled back, has its mark."""
        await store.write([(run("INSERT INTO t (id) VALUES (1)"),)])
        first = await store.write([(LOSES_TRANSACTION,), marked(), repeated(number=2)])
        assert first[1:] == [[[(2,)]], [[(3,)]]]
        assert await store.write([repeated(), repeated(number=2)]) == first[1:]

    async def test_the_commit_fails(self, store: SQLiteStore):
        """A batch that is rolled back leaves no mark. A unit that had been committed before keeps its results."""
        assert await outcome(store, marked(number=1)) == [[(1,)]]
        failed = await store.write([repeated(number=1), marked(number=2), (ORPHAN,)])
        assert failed[0] == [[(1,)]]
        assert [type(one) for one in failed[1:]] == [ConstraintViolationError, ConstraintViolationError]
        assert await outcome(store, repeated(number=2)) == [[(2,)]]

    async def test_no_mark_can_be_looked_for(self, store: SQLiteStore, path: Path):
        """An error before the mark was looked for does not say that the unit has no effect."""
        await outcome(store, marked(number=1))
        with held_writer(path):
            plain, again = await store.write([marked(number=2), repeated(number=1)])
        assert isinstance(plain, QueryError)
        assert isinstance(again, TenantError)
        assert (again.is_retryable, str(again.__cause__)) == (
            True,
            str(plain).replace("test.run", "test.rows"),
        )
        assert "could not be looked up" in str(again)

    async def test_a_mark_cannot_be_read(self, store: SQLiteStore, path: Path):
        """A mark that is damaged does not say either whether the unit has an effect, and other units are served."""
        await outcome(store, marked(number=1))
        query(path, "UPDATE tenantry_forwarded SET units = x'ff'")
        again, other = await store.write([repeated(number=1), (ADD,)])
        assert isinstance(again, TenantError)
        assert other == [[(2,)]]


class TestTransactions:
    """The mark of a transaction."""

    async def test_it_is_committed(self, store: SQLiteStore):
        """The mark is found after the commit."""
        transaction = await store.begin()
        assert await transaction.write((ADD,)) == [[(1,)]]
        assert await transaction.write(marked(rows("SELECT 1"))) == [[(1,)]]
        await transaction.commit()
        assert await outcome(store, look_up()) == [[(1,)]]

    async def test_it_is_rolled_back(self, store: SQLiteStore):
        """The mark goes with the transaction, and the request for it runs nothing."""
        transaction = await store.begin()
        await transaction.write((ADD,))
        await transaction.write(marked(rows("SELECT 1")))
        await transaction.rollback()
        error = await outcome(store, look_up())
        assert isinstance(error, TransactionClosedError)
        assert "nothing of it was kept" in str(error)
        assert await ids(store) == []

    async def test_a_look_up_leaves_no_mark(self, store: SQLiteStore):
        """A request that finds nothing finds nothing the next time."""
        for _ in range(2):
            assert isinstance(await outcome(store, look_up()), TransactionClosedError)


class TestResults:
    """The results that a mark has."""

    @pytest.mark.parametrize("fetch", Fetch)
    @pytest.mark.parametrize("count", [0, 1, 3])
    async def test_of_every_kind(self, store: SQLiteStore, fetch: Fetch, count: int):
        """They are equal to the first, with their types."""
        values = [
            (1, None, "ä\0", b"\xff\0", 1.5),
            (2, -(2**63), "", b"", float("inf")),
            (3, 2**63 - 1, "x", b"y", -0.0),
        ]
        sql = "INSERT INTO kinds SELECT * FROM (SELECT 1 AS a, NULL AS b, NULL AS c, NULL AS d, NULL AS e WHERE 0"
        parameters: list[Any] = []
        for row in values[:count]:
            sql += " UNION ALL SELECT ?, ?, ?, ?, ?"
            parameters += row
        sql += ")" if fetch in {Fetch.NONE, Fetch.ROWCOUNT} else ") RETURNING a, b, c, d, e"
        assert await outcome(store, (run("CREATE TABLE kinds (a ANY, b ANY, c ANY, d ANY, e ANY)"),)) == [
            None
        ]
        statement = Statement("test.kinds", sql, tuple(parameters), fetch)
        first = await outcome(store, marked(statement, ADD))
        assert isinstance(first, list), first
        again = await outcome(store, repeated(statement, ADD))
        assert isinstance(again, list), again
        assert list(again) == first
        assert repr(list(again)) == repr(first)
        assert len(await read_rows(store, "SELECT * FROM kinds")) == count

    async def test_that_are_too_large(self, store: SQLiteStore, path: Path):
        """The unit is committed; if its results were lost, the error says so, and the unit does not run again."""
        large = rows(f"INSERT INTO t (n) VALUES (zeroblob({RESULTS_BYTES_MAX})) RETURNING n")
        assert await outcome(store, marked(large)) == [[(b"\0" * RESULTS_BYTES_MAX,)]]
        assert isinstance(await outcome(store, repeated(large)), ResultLostError)
        assert await ids(store) == [1]
        ((size,),) = query(path, "SELECT length(units) FROM tenantry_forwarded")
        assert size < 100

    async def test_as_large_as_they_may_be(self, store: SQLiteStore):
        """Results just below the limit come again."""
        large = rows(f"INSERT INTO t (n) VALUES (zeroblob({RESULTS_BYTES_MAX - 100})) RETURNING n")
        first = await outcome(store, marked(large))
        assert await outcome(store, repeated(large)) == first

    async def test_that_find_no_space(self, store: SQLiteStore, path: Path):
        """Only the unit fails whose own mark finds no space: it has no effect, and its neighbours are committed."""
        await outcome(store, marked(number=1))
        pages = query(path, "PRAGMA page_count")[0][0]
        await store.apply_limits(database_bytes_max=(pages + 20) * 4096, durability="full")
        large = rows("SELECT zeroblob(500000)")
        change = rows("UPDATE t SET n = 'y' WHERE id = 1 RETURNING n")
        full, plain, small = await store.write([marked(large, number=2), (change,), marked(change, number=3)])
        assert isinstance(full, StorageFullError)
        assert [plain, small] == [[[("y",)]], [[("y",)]]]
        assert await outcome(store, repeated(change, number=3)) == small


class TestRemoval:
    """Marks that nobody needs any more."""

    # A batch with results that are not small always removes rows; another batch does so at random.
    LARGE = rows("SELECT zeroblob(2000)")

    async def test_of_answered_units(self, store: SQLiteStore, path: Path):
        """A row goes when its sender has the results of all units of the row; rows of other senders stay."""
        await store.write([marked(number=1), marked(number=2)])
        await store.write([marked(number=1, sender=OTHER_SENDER)])
        await store.write([marked(self.LARGE, number=3, answered_to=1)])
        assert sorted(stored_marks(path)) == [(SENDER, 2), (SENDER, 3), (OTHER_SENDER, 1)]
        assert await outcome(store, repeated(number=2, answered_to=1)) == [[(2,)]]
        await store.write([marked(self.LARGE, number=4, answered_to=3)])
        assert sorted(stored_marks(path)) == [(SENDER, 4), (OTHER_SENDER, 1)]

    async def test_after_some_batches(self, store: SQLiteStore, path: Path):
        """Rows that are small go too, after some more batches; that 200 batches remove nothing has the probability 3e-12."""
        for number in range(1, 201):
            await store.write([marked(number=number, answered_to=number - 1)])
        assert len(stored_marks(path)) < 200

    async def test_of_old_senders(self, store: SQLiteStore, path: Path):
        """What a sender left behind goes with the marks of other senders after `KEPT_SECONDS`."""
        await store.write([marked(number=1)])
        await store.write([marked(number=1, sender=b"c" * 16)])
        query(
            path,
            "UPDATE tenantry_forwarded SET written_at = written_at - ? WHERE sender = ?",
            KEPT_SECONDS + 60,
            SENDER,
        )
        await store.write([marked(self.LARGE, number=1, sender=OTHER_SENDER)])
        assert sorted(stored_marks(path)) == [(OTHER_SENDER, 1), (b"c" * 16, 1)]

    async def test_a_found_unit_removes_nothing(self, store: SQLiteStore, path: Path):
        """A unit whose mark was found can be sent again: its sender may lose this answer too."""
        await store.write([marked(number=1)])
        for _ in range(3):
            assert await store.write([marked(number=2, answered_to=0), repeated(number=1)])
            query(path, "DELETE FROM tenantry_forwarded WHERE number = 2")
        assert stored_marks(path) == [(SENDER, 1)]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM tenantry_forwarded",
        "DROP TABLE tenantry_forwarded",
        "CREATE TABLE Tenantry_Forwarded (id)",
    ],
)
async def test_marks_are_tenantrys_own(store: SQLiteStore, path: Path, sql: str):
    """No statement of a caller changes them."""
    await outcome(store, marked())
    for request in ((run(sql),), marked(run(sql), number=2)):
        error = await outcome(store, request)
        assert isinstance(error, QueryError)
        assert "tenantry's own data" in str(error)
    assert stored_marks(path) == [(SENDER, 1)]
