"""Streams: every row that is there all the time comes exactly once, whatever is written meanwhile; otherwise an error."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from postgres_servers import Database, PostgresServers
from postgres_sessions import open_session
from stores import open_store
from tenantry import Repository
from tenantry.errors import QueryError
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Fetch, Statement
from tenantry.sql.stream import STREAM_CHUNK_ROWS_MAX, Stream
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.standalone import StoreSession

Key: TypeAlias = tuple[int, str]

TABLE = "CREATE TABLE t (a INTEGER NOT NULL, b TEXT NOT NULL, n INTEGER, PRIMARY KEY (a, b))"
POSTGRES_TABLES = (
    'CREATE TABLE t (a bigint NOT NULL, b text COLLATE "C" NOT NULL, n bigint, PRIMARY KEY (a, b))',
    # The letters of this collation are equal without their case, as those of NOCASE.
    "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    "CREATE TABLE loose (k text COLLATE nocase, n bigint)",
)
LOOSE = "CREATE TABLE loose (k TEXT COLLATE NOCASE, n)"
SELECT = "SELECT a, b, n FROM t"
KEYS = st.tuples(st.integers(-3, 3), st.sampled_from(["", "a", "B", "é", "z"]))
LOOSE_VALUES = st.sampled_from([None, "a", "A", "b", "B ", "é", 1, 1.0, 2.5, "1", b"a", b""])


PARTS = "CREATE TABLE numbers (k INTEGER)", "CREATE TABLE texts (k TEXT)"


@pytest.fixture(scope="module")
def icu_database(postgres_servers: PostgresServers) -> Iterator[Database]:
    """A database for the tenants of all tests. Debian's build of PostgreSQL 15 has ICU's collations; that of 18 has none."""
    with postgres_servers.server("15").database() as created:
        yield created


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database | None:
    """The database on a server for a tenant on PostgreSQL; None for SQLite in memory."""
    found: Database | None = None
    if request.param == "postgres":
        found = request.getfixturevalue("icu_database")
    return found


@asynccontextmanager
async def opened(database: Database | None = None) -> AsyncIterator[Repository]:
    """Open a new tenant, or a SQLite database in memory, with the tables of the tests."""
    if database is not None:
        async with open_session(database, *POSTGRES_TABLES) as session:
            yield Repository(session)
        return
    async with open_store(SQLiteOptions(path=None, is_read_by_writer=True), TABLE, LOOSE, *PARTS) as store:
        yield Repository(StoreSession(store, EventLog()))


async def fill(repository: Repository, keys: list[Key]) -> None:
    """Insert rows with these keys."""
    await repository.execute_many("INSERT INTO t (a, b) VALUES (?, ?)", keys)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    before=st.lists(KEYS, unique=True, max_size=12),
    chunk_rows=st.integers(1, 5),
    changes=st.lists(st.tuples(st.booleans(), KEYS), max_size=20),
)
def test_rows_that_are_there_all_the_time(
    database: Database | None, before: list[Key], chunk_rows: int, changes: list[tuple[bool, Key]]
):
    """Each comes exactly once and in order, while others are inserted and deleted before, behind and at the place of the stream."""

    async def run() -> None:
        async with opened(database) as repository:
            await fill(repository, before)
            left, found = iter(changes), []
            lasting = set(before)
            async for row in repository.stream(SELECT, key=("a", "b"), chunk_rows=chunk_rows):
                found.append((row.a, row.b))
                for is_insert, key in left:
                    if is_insert:
                        await repository.execute(
                            "INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT DO NOTHING", key
                        )
                    else:
                        await repository.execute("DELETE FROM t WHERE (a, b) = (?, ?)", key)
                        lasting.discard(key)
                    break
            assert found == sorted(set(found))
            assert lasting <= set(found)

    asyncio.run(run())


@settings(max_examples=100)
@given(
    rows=st.lists(LOOSE_VALUES, max_size=8),
    chunk_rows=st.integers(1, 4),
    deleted=st.lists(st.integers(0, 7), max_size=4),
)
@example(rows=["a", "A"], chunk_rows=1, deleted=[])
@example(rows=["a", "A"], chunk_rows=1, deleted=[0])
@example(rows=["a", "b", "B "], chunk_rows=1, deleted=[])
@example(rows=[None], chunk_rows=3, deleted=[])
def test_any_key_gives_all_rows_or_an_error(
    database: Database | None, rows: list[Any], chunk_rows: int, deleted: list[int]
):
    """With NULLs, equal values, values that only the database takes for equal, and mixed types: no row is lost or repeated."""

    async def run() -> None:
        async with opened(database) as repository:
            # PostgreSQL has only texts in a column of texts.
            values = [value if database is None or value is None else str(value) for value in rows]
            numbered = [(value, number) for number, value in enumerate(values)]
            await repository.execute_many("INSERT INTO loose VALUES (?, ?)", numbered)
            stream = repository.stream("SELECT k, n FROM loose", key=["k"], chunk_rows=chunk_rows)
            found: list[int] = []
            refused, lasting, left = "", set(range(len(rows))), iter(deleted)
            try:
                async for row in stream:
                    found.append(row.n)
                    if (number := next(left, None)) is not None:
                        await repository.execute("DELETE FROM loose WHERE n = ?", [number])
                        lasting.discard(number)
            except QueryError as error:
                refused = str(error)
            if not refused:
                assert lasting <= set(found)
            elif "contains NULL" in refused:
                assert None in rows
            else:
                assert "two rows have the same values" in refused
                assert len(rows) > 1
            assert len(found) == len(set(found))

    asyncio.run(run())


@pytest.mark.parametrize(
    "sql",
    [
        f"{SELECT};",
        f"{SELECT} -- all of it",
        f"{SELECT} /* all of it */ ; ; -- really\n",
        "WITH few AS (SELECT a, b FROM t) SELECT a, b FROM few",
        "SELECT a, b FROM (SELECT a, b FROM t ORDER BY b LIMIT 100) AS few",
        "SELECT b, a FROM t WHERE n IS NULL UNION ALL SELECT b, a FROM t WHERE b = 'order by'",
        "SELECT t.*, 'RETURNING' AS n2 FROM t AS tenantry_rows JOIN t USING (a, b)",
    ],
)
async def test_sql_of_many_forms(database: Database | None, sql: str):
    """Semicolons and comments at the end, WITH, subqueries and joins are taken as they are."""
    async with opened(database) as repository:
        keys = [(a, b) for a in range(3) for b in "xyz"]
        await fill(repository, keys)
        stream = repository.stream(sql, key=("a", "b"), chunk_rows=2)
        assert [(row.a, row.b) async for row in stream] == keys


async def test_placeholders_keep_their_numbers(database: Database | None):
    """Values of the caller's own placeholders, numbered ones too, are not mixed up with those of the key."""
    async with opened(database) as repository:
        await fill(repository, [(a, b) for a in range(9) for b in "xy"])
        for sql in ("SELECT * FROM t WHERE b = ? AND a < ?", "SELECT * FROM t WHERE a < ?2 AND b = ?1"):
            rows = [row async for row in repository.stream(sql, ["y", 7], key=("a", "b"), chunk_rows=2)]
            assert [(row.a, row.b, row.keys()) for row in rows] == [
                (a, "y", ("a", "b", "n")) for a in range(7)
            ]


@pytest.mark.parametrize(
    ("sql", "key", "match"),
    [
        (f"{SELECT} ORDER BY a", ("a", "b"), "remove ORDER BY and LIMIT"),
        (f"{SELECT} LIMIT 5", ("a", "b"), "remove ORDER BY and LIMIT"),
        ("DELETE FROM t RETURNING a, b", ("a", "b"), "a stream can only read, and this is DELETE"),
        ("DROP TABLE t", ("a", "b"), "a stream can only read, and this is DROP"),
        ("-- nothing", ("a", "b"), "the SQL is empty"),
        (SELECT, (), "1 to 16 column names"),
        (SELECT, "ab", "1 to 16 column names"),
        (SELECT, ('a" --',), "not a column name"),
    ],
)
async def test_what_is_refused_at_once(database: Database | None, sql: str, key: Any, match: str):
    """SQL and keys that cannot be streamed are refused by the call itself, before anything is sent."""
    async with opened(database) as repository:
        with pytest.raises(QueryError, match=match):
            repository.stream(sql, key=key)


@pytest.mark.parametrize("chunk_rows", [0, -1, STREAM_CHUNK_ROWS_MAX + 1, 1.0, True, None])
async def test_numbers_of_rows_that_are_refused(chunk_rows: Any):
    """A chunk has from one row to the limit."""
    async with opened() as repository:
        with pytest.raises(
            QueryError, match=f"chunk_rows must be a whole number from 1 to {STREAM_CHUNK_ROWS_MAX}"
        ):
            repository.stream(SELECT, key=("a", "b"), chunk_rows=chunk_rows)


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize(
    ("sql", "key"),
    [
        (SELECT, ("a", "c")),
        ("SELECT a, b AS c FROM t", ("a", "b")),
        ('SELECT a, b AS "B" FROM t', ("a", "b")),
    ],
)
async def test_a_key_that_is_no_column(database: Database | None, sql: str, key: tuple[str, ...], rows: int):
    """It is refused with the names that there are, also if there are no rows; never taken for a text."""
    async with opened(database) as repository:
        await fill(repository, [(n, "x") for n in range(rows)])
        stream = repository.stream(sql, key=key)
        if database is None and rows == 0 and '"B"' in sql:
            assert [row async for row in stream] == []  # SQLite compares names without case
            return
        with pytest.raises(
            QueryError,
            match=r"lacks a column of the stream's key \(a, \w\)|has no column 'b'; its columns are a, B",
        ):
            await anext(stream)


async def test_a_chunk_is_a_range_of_an_index_of_postgres(icu_database: Database):
    """A page after the first searches the index of the key, and looks for NULLs only at the end of the stream."""
    async with opened(icu_database) as repository:
        await repository.execute("CREATE INDEX t_n ON t (n, a, b)")
        await repository.execute("INSERT INTO t SELECT g, 'x', g % 100 FROM generate_series(1, 20000) AS g")
        await repository.execute("ANALYZE t")
        for sql, parameters, condition in [
            (SELECT, (), "(ROW(a, b) >= ROW('2'::bigint, 'x'::text))"),
            (
                f"{SELECT} WHERE n = ?",
                (1,),
                "((n = '1'::bigint) AND (ROW(a, b) >= ROW('101'::bigint, 'x'::text)))",
            ),
        ]:
            stream = Stream("test.stream", sql, parameters, ("a", "b"), 2)
            for _ in range(2):
                page = stream.next_page()
                assert page is not None
                found = await repository.read(page)
                assert len(stream.take(found)) == 2
            text = f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {page.text('postgres')}"
            lines = await repository.read(Statement("test.explain", text, page.parameters, Fetch.ALL))
            plan = "\n".join(line for (line,) in lines)
            assert f"Index Cond: {condition}" in plan, plan
            assert "->  Limit (never executed)" in plan, plan


async def test_a_null_behind_the_first_page(database: Database | None):
    """A NULL in a part of the key is found wherever the database sorts it."""
    async with opened(database) as repository:
        await repository.execute_many("INSERT INTO t VALUES (?, 'x', ?)", [[n, n] for n in range(9)])
        await repository.execute("UPDATE t SET n = NULL WHERE a = 4")
        for key in (["n"], ["n", "a"], ["b", "n"]):
            with pytest.raises(QueryError, match="the column 'n' of the stream's key contains NULL"):
                _ = [row async for row in repository.stream(SELECT, key=key, chunk_rows=2)]


@pytest.mark.parametrize("chunk_rows", [1, 2, 100])
async def test_keys_of_every_type_of_postgres(icu_database: Database, chunk_rows: int):
    """A key's value comes back to the server as it was read, whatever its type."""
    values = {
        "bigint": ["-9223372036854775808", "0", "9223372036854775807"],
        "boolean": ["false", "true"],
        "bytea": ["\\x", "\\x00", "\\xff"],
        "date": ["0001-01-01", "2026-02-28", "9999-12-31"],
        "double precision": ["-Infinity", "-1e-300", "0.1", "0.30000000000000004", "1e300", "Infinity"],
        "interval": ["-1 day", "1 mon 2 days 03:04:05.000006"],
        "text": ["", "a", "é", "\U0001f600"],
        "time": ["00:00:00", "23:59:59.999999"],
        "timestamp": ["0001-01-01 00:00:00", "2026-01-31 09:30:00.000001"],
        "timestamptz": ["0001-01-01T00:00:00Z", "2026-01-31T09:30:00.000001Z", "2026-01-31T09:30:00.000002Z"],
        "uuid": ["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    }  # fmt: skip
    async with opened(icu_database) as repository:
        for number, (kind, texts) in enumerate(values.items()):
            table = f"typed_{number}"
            await repository.execute(f"CREATE TABLE {table} (k {kind}, n bigint)")
            await repository.execute_many(
                f"INSERT INTO {table} VALUES (?, ?)", [[text, place] for place, text in enumerate(texts)]
            )
            stream = repository.stream(f"SELECT k, n FROM {table}", key=["k"], chunk_rows=chunk_rows)
            assert [row.n async for row in stream] == list(range(len(texts))), kind


async def test_a_chunk_is_a_range_of_an_index():
    """A page after the first searches the index of the key, wherever it lies, with the caller's own condition before it."""
    async with opened() as repository:
        await repository.execute("CREATE INDEX t_n ON t (n, a, b)")
        await repository.execute_many("INSERT INTO t VALUES (?, 'x', 1)", [[n] for n in range(5)])
        for sql, parameters, plan in [
            (SELECT, (), "USING INDEX sqlite_autoindex_t_1 ((a,b)>(?,?))"),
            (f"{SELECT} WHERE n = ?", (1,), "USING COVERING INDEX t_n (n=? AND (a,b)>(?,?))"),
        ]:
            stream = Stream("test.stream", sql, parameters, ("a", "b"), 2)
            first = stream.next_page()
            assert first is not None
            assert len(stream.take(await repository.read(first))) == 2
            page = stream.next_page()
            assert page is not None
            explained = await repository.read(
                Statement(
                    "test.explain",
                    f"EXPLAIN QUERY PLAN {page.text('sqlite')}",
                    page.parameters,
                    Fetch.NAMED_ALL,
                )
            )
            assert [plan in row.detail for row in explained] == [True], explained


async def test_a_stream_that_is_left(database: Database | None):
    """It holds nothing: it can be left at any row, and another one begins at the first."""
    async with opened(database) as repository:
        await fill(repository, [(n, "x") for n in range(9)])
        for _ in range(2):
            async for row in repository.stream(SELECT, key=("a", "b"), chunk_rows=2):
                if row.a == 4:
                    break
        assert await repository.execute("DELETE FROM t") == 9


@pytest.mark.parametrize("parts", [("numbers", "texts"), ("texts", "numbers")])
@pytest.mark.parametrize("compound", ["UNION ALL", "UNION"])
async def test_a_key_of_two_types_in_a_union(parts: tuple[str, str], compound: str):
    """No row is lost where one part of a UNION has numbers as keys, and the other one texts."""
    async with opened() as repository:
        await repository.execute("INSERT INTO numbers VALUES (10), (13), (14)")
        await repository.execute("INSERT INTO texts VALUES ('12'), ('9'), ('z')")
        first, second = parts
        sql = f"SELECT k FROM {first} {compound} SELECT k FROM {second}"
        for select in (sql, f"SELECT k FROM ({sql})"):
            stream = repository.stream(select, key=("k",), chunk_rows=1)
            assert [row.k async for row in stream] == [10, 13, 14, "12", "9", "z"]
