"""SQL of one's own through a tenant's handle, a transaction, an idempotent write and a repository."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict
from structlog.testing import capture_logs

from tenantry import Repository, Row, Sql, Statement, TenantHandle, TenantRegistry
from tenantry.errors import (
    DuplicateRecordError,
    IdempotencyConflictError,
    MalformedRowError,
    QueryError,
    TransactionClosedError,
)
from tenantry.events import BatchFinished
from tenantry.sql.queries import EXECUTE_MANY_ROWS_MAX, Queries
from tenantry.storage import PersistenceConfig, SQLiteConfig, create_backend
from tenants import Recorder

TABLE = "CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT NOT NULL, total TEXT, is_done INTEGER)"
INSERT = "INSERT INTO notes (id, title) VALUES (?, ?)"
SELECT = "SELECT id, title FROM notes ORDER BY id"


class Note(BaseModel):
    """A note."""

    model_config = ConfigDict(frozen=True)

    id: int
    title: str


@dataclass
class Priced:
    """A note as a dataclass, with types that its columns are not."""

    id: int
    total: Decimal
    is_done: bool = False


class Colour(StrEnum):
    """An enum that is a text too."""

    RED = "red"


class Plain(Enum):
    """An enum that is nothing else."""

    ONE = 1


class Unfinished(BaseModel):
    """A model with a field of a type that is not defined."""

    id: int
    owner: "Missing"  # type: ignore[name-defined]  # noqa: F821


class NoteRepository(Repository):
    """A repository whose methods are one line each."""

    async def titled(self, title: str) -> Note | None:
        """Return a note with this title."""
        return await self.fetch_one("SELECT id, title FROM notes WHERE title = ?", [title], row=Note)


@pytest.fixture
async def acme(each_registry: TenantRegistry) -> TenantHandle:
    """A tenant with the table of the tests and two rows."""
    await each_registry.create("acme")
    tenant = each_registry.tenant("acme")
    await tenant.execute(TABLE)
    await tenant.execute_many(INSERT, [(1, "a"), (2, "b")])
    return tenant


async def test_execute_counts_rows(each_registry: TenantRegistry, acme: TenantHandle):
    """It gives the number of rows, and what it wrote is committed when it returns."""
    assert await acme.execute("UPDATE notes SET title = title || ?", ["!"]) == 2
    assert await acme.execute("DELETE FROM notes WHERE id = ?", (9,)) == 0
    assert (
        await acme.execute(
            "WITH one AS (SELECT 3 AS id) INSERT INTO notes (id, title) SELECT id, 'c' FROM one"
        )
        == 1
    )
    await each_registry.suspend("acme")  # this closes the tenant
    await each_registry.resume("acme")
    assert [tuple(row) for row in await acme.fetch_all(SELECT)] == [(1, "a!"), (2, "b!"), (3, "c")]


async def test_fetch(acme: TenantHandle):
    """Rows have names; no row is None, or an empty list."""
    first = await acme.fetch_one(SELECT)
    assert first is not None
    assert (first.title, first["id"], tuple(first), dict(first)) == (
        "a",
        1,
        (1, "a"),
        {"id": 1, "title": "a"},
    )
    assert [row.title for row in await acme.fetch_all(SELECT)] == ["a", "b"]
    assert await acme.fetch_value("SELECT count(*) FROM notes WHERE id > ?", [1]) == 1
    nothing = "SELECT id FROM notes WHERE id = 9"
    assert (
        await acme.fetch_one(nothing),
        await acme.fetch_all(nothing),
        await acme.fetch_value(nothing),
    ) == (
        None,
        [],
        None,
    )
    assert await acme.fetch_value("SELECT max(id) FROM notes WHERE id > 9") is None


async def test_rows_as_models(acme: TenantHandle):
    """Each column is the field of its name, and is converted by the model."""
    assert await acme.fetch_one(SELECT, row=Note) == Note(id=1, title="a")
    assert await acme.fetch_all(SELECT, row=Note) == [Note(id=1, title="a"), Note(id=2, title="b")]
    assert await acme.fetch_one("SELECT id, title FROM notes WHERE id = 9", row=Note) is None
    await acme.execute("UPDATE notes SET total = '9.90', is_done = 1 WHERE id = 1")
    assert await acme.fetch_one("SELECT * FROM notes ORDER BY id", row=Priced) == Priced(
        1, Decimal("9.90"), is_done=True
    )
    assert [note async for note in acme.stream("SELECT * FROM notes", key=["id"], row=Note)] == [
        *(Note(id=1, title="a"), Note(id=2, title="b"))
    ]


@pytest.mark.parametrize("call", ["fetch_one", "fetch_all", "stream"])
async def test_a_row_that_does_not_fit(acme: TenantHandle, call: str):
    """The error names the statement, the row and the columns, and neither it nor the log quotes a value."""
    sql = "SELECT 'secret' AS id, title AS titel FROM notes WHERE title = 'a'"
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "fetch_one": lambda: acme.fetch_one(sql, row=Note, name="notes.list"),
        "fetch_all": lambda: acme.fetch_all(sql, row=Note, name="notes.list"),
        "stream": lambda: anext(acme.stream(sql, key=["id"], row=Note, name="notes.list")),
    }
    with capture_logs() as logs, pytest.raises(MalformedRowError) as caught:
        await calls[call]()
    assert str(caught.value) == "notes.list: row 1 does not fit Note: id (int_parsing), title (missing)"
    assert (caught.value.entity, caught.value.record_id, caught.value.__cause__) == ("Note", None, None)
    assert [(log["event"], log["tenant_id"]) for log in logs] == [("notes.list_failed", "acme")]
    assert "secret" not in str(logs)


@pytest.mark.parametrize("value", ["secret", 'sec"secret', "9" * 30])
async def test_a_value_that_the_database_refuses(acme: TenantHandle, value: str):
    """A value of another type than its column is not quoted in the error and in the log. SQLite keeps most of such values."""
    with capture_logs() as logs, pytest.raises(QueryError) as caught:
        await acme.execute("INSERT INTO notes (id, title) VALUES (?, 'c')", [value])
    assert value not in f"{caught.value} {logs}"


async def test_two_columns_for_one_field(acme: TenantHandle):
    """Which of them the field means cannot be told, so that the row is refused."""
    with pytest.raises(
        MalformedRowError, match="row 1 does not fit Note: the result has 2 columns named 'id'"
    ):
        await acme.fetch_one("SELECT id, 5 AS id, title FROM notes", row=Note)


async def test_returning_is_a_write(acme: TenantHandle):
    """Rows of RETURNING are fetched by the write itself, whatever the statement begins with."""
    added = await acme.fetch_one(f"/* new */ {INSERT} RETURNING *", [3, "c"], row=Note)
    assert added == Note(id=3, title="c")
    few = "WITH few AS (SELECT 1 AS id UNION SELECT 2) DELETE FROM notes WHERE id IN (SELECT id FROM few) RETURNING id"
    assert sorted(row.id for row in await acme.fetch_all(few)) == [1, 2]
    assert await acme.fetch_value("UPDATE notes SET id = id + 1 RETURNING id") == 4
    assert await acme.fetch_all("SELECT id FROM notes", row=None) == [
        await acme.fetch_one("SELECT id FROM notes")
    ]


REFUSED: dict[str, tuple[Callable[[Queries], Awaitable[Any]], str]] = {
    "execute-select": (
        lambda q: q.execute(SELECT),
        r"sql\.execute: this SELECT returns rows.* use fetch_one",
    ),
    "execute-returning": (
        lambda q: q.execute(f"{INSERT} RETURNING id", (3, "c")),
        "this INSERT with RETURNING returns",
    ),
    "many-select": (lambda q: q.execute_many(SELECT, [()]), r"sql\.execute_many: this SELECT returns rows"),
    "fetch-insert": (
        lambda q: q.fetch_one(INSERT, (3, "c")),
        "this INSERT returns no rows.*add RETURNING, or use execute",
    ),
    "fetch-create": (
        lambda q: q.fetch_all("CREATE TABLE u (n)"),
        "this CREATE returns no rows; nothing was sent: use ex",
    ),
    "empty": (lambda q: q.execute(" -- nothing"), "the SQL is empty"),
    "not-sql": (lambda q: q.fetch_one("SELEC 1"), "syntax error"),
    "two": (
        lambda q: q.execute("DELETE FROM notes; DELETE FROM notes"),
        "one statement at a time|cannot insert multiple commands",
    ),
    "ending": (lambda q: q.execute("COMMIT"), "may not use (BEGIN, )?COMMIT"),
    "setting": (
        lambda q: q.fetch_value(
            Sql(
                {"sqlite": "PRAGMA query_only = 1", "postgres": "SELECT set_config('work_mem', '1MB', false)"}
            )
        ),
        "may not use (PRAGMA query_only|set_config)",
    ),
    "name": (
        lambda q: q.execute(INSERT, (3, "c"), name="notes.3 add"),
        "cannot name a statement: use words of a-z",
    ),
    "long-name": (lambda q: q.fetch_one(SELECT, name="n" * 61), "of at most 60 characters"),
    "no-text": (lambda q: q.execute(None), "the SQL is of type NoneType; nothing was sent"),  # type: ignore[arg-type]
    "unfinished-row": (
        lambda q: q.fetch_one(f"{INSERT} RETURNING *", (3, "c"), row=Unfinished),
        "pass a pydantic model or a dataclass",
    ),
    "row": (lambda q: q.fetch_one(SELECT, row=5), "pass a pydantic model or a dataclass"),  # type: ignore[call-overload]
    "too-many": (
        lambda q: q.execute_many(INSERT, ((n, "x") for n in range(3, EXECUTE_MANY_ROWS_MAX + 4))),
        rf"at most {EXECUTE_MANY_ROWS_MAX} rows \(EXECUTE_MANY_ROWS_MAX\), .*nothing was written",
    ),
    "duplicate": (lambda q: q.execute_many(INSERT, [(3, "c"), (1, "d")]), r"notes\.id|notes_pkey"),
}


@pytest.mark.parametrize(("call", "match"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("where", ["handle", "transaction", "idempotent", "repository"])
async def test_refused(acme: TenantHandle, where: str, call: Callable[[Queries], Awaitable[Any]], match: str):
    """What is refused says why, and nothing of it is kept, wherever it is called."""
    before = await acme.fetch_all(SELECT)
    places: dict[str, Callable[[], Awaitable[Any]]] = {
        "handle": lambda: call(acme),
        "transaction": lambda: _in_transaction(acme, call),
        "idempotent": lambda: call(acme.idempotent("key")),
        "repository": lambda: call(acme.repository(Repository)),
    }
    with pytest.raises((QueryError, DuplicateRecordError), match=match):
        await places[where]()
    assert await acme.fetch_all(SELECT) == before


async def _in_transaction(tenant: TenantHandle, call: Callable[[Queries], Awaitable[Any]]) -> None:
    async with tenant.transaction() as tx:
        await call(tx)


PARAMETERS: dict[str, tuple[Any, str]] = {
    "a-text": ("secret", r"not str; nothing was sent: put a single value into a list: \[value\]"),
    "a-number": (5, r"not int; .* \[value\]"),
    "none": (None, r"not NoneType; .* \[value\]"),
    "a-mapping": (
        {"id": 1},
        r"not dict; .*write \? for each value in the SQL, and pass the values in the same order",
    ),
    "a-set": ({1}, r"not set; .* list\(values\)"),
    "a-generator": ((n for n in [1]), r"not generator; .* list\(values\)"),
    "decimal": ([1, Decimal(1)], r"parameter 2 is of type Decimal.* str\(value\)"),
    "datetime": ([datetime.now(UTC)], r"parameter 1 is of type datetime.*isoformat\(timespec"),
    "date": ([date(2026, 1, 31)], r"of type date.* value\.isoformat\(\)"),
    "uuid": ([UUID(int=1)], r"of type UUID.* value\.bytes"),
    "enum": ([Plain.ONE], r"of type Plain.* value\.value"),
    "text-enum": ([Colour.RED], r"of type Colour.* value\.value"),
    "path": ([Path("secret")], r"of type PosixPath.* str\(value\)"),
    "list": ([["secret"]], r"of type list.* json\.dumps"),
    "object": ([object()], r"of type object, but only None, int, float, str and bytes can be stored"),
}


@pytest.mark.parametrize(("parameters", "match"), PARAMETERS.values(), ids=PARAMETERS.keys())
async def test_parameters_that_are_refused(acme: TenantHandle, parameters: Any, match: str):
    """They are refused before anything is sent, with the way to convert them and without the value."""
    calls: list[Callable[[], Any]] = [
        lambda: acme.execute("UPDATE notes SET title = ?", parameters),
        lambda: acme.execute_many("UPDATE notes SET title = ?", [parameters]),
        lambda: acme.fetch_one("SELECT ?", parameters),
        lambda: acme.fetch_all("SELECT ?", parameters),
        lambda: acme.fetch_value("SELECT ?", parameters),
    ]
    sent = acme.statistics()
    for call in calls:
        with pytest.raises(QueryError, match=match) as caught:
            await call()
        assert "secret" not in str(caught.value)
    with pytest.raises(QueryError, match=match):
        acme.stream("SELECT ? AS id", parameters, key=["id"])
    assert acme.statistics() == sent


async def test_parameters_that_are_taken(acme: TenantHandle):
    """All types that SQL stores, in a list, a tuple or another sequence; a value of a subclass is the value."""

    class Id(str):
        __slots__ = ()

    values = (None, 1, 2.5, "x", b"x", True, Id("acme"))
    # PostgreSQL takes the type of a value from the statement.
    typed = "SELECT ?::int, ?::int, ?::float8, ?::text, ?::bytea, ?::boolean, ?::text"
    row = await acme.fetch_one(Sql({"sqlite": "SELECT ?, ?, ?, ?, ?, ?, ?", "postgres": typed}), values)
    assert row is not None
    assert tuple(row) == (None, 1, 2.5, "x", b"x", 1, "acme")
    assert await acme.fetch_value("SELECT CAST(? AS INTEGER) + CAST(? AS INTEGER)", range(2, 4)) == 5
    assert await acme.fetch_value("SELECT ?2 || ?1", ["a", "b"]) == "ba"


async def test_question_marks_that_are_no_placeholders(acme: TenantHandle):
    """In a string, a comment or a quoted name a question mark stands for itself; functions replace PostgreSQL's operators."""
    row = await acme.fetch_one("SELECT 'a?''?' || ? AS \"b?\" /* ? */ -- ?\n", ["c"])
    assert row is not None
    assert dict(row) == {"b?": "a?'?c"}
    if await acme.dialect() == "postgres":
        strings = "SELECT $$?$$ || $a$ ?$$ $a$ || E'\\'?' || ?, jsonb_exists('{\"k\": 1}'::jsonb, ?) /* /* ? */ ? */"
        assert tuple(await acme.fetch_one(strings, ["c", "k"]) or ()) == ("? ?$$ '?c", 1)
        with pytest.raises(QueryError, match="takes 2 values, but 1 were given"):
            await acme.fetch_value("SELECT '{}'::jsonb ? ?", ["k"])


async def test_execute_many(acme: TenantHandle):
    """It is one unit, counts all rows, and takes any iterable up to its limit; nothing is sent without rows."""
    assert await acme.execute_many(INSERT, ((n, "x") for n in range(3, EXECUTE_MANY_ROWS_MAX + 3))) == 10_000
    assert await acme.execute_many("DELETE FROM notes WHERE id > ?", [[5], [2], [2]]) == EXECUTE_MANY_ROWS_MAX
    sent = acme.statistics()
    assert await acme.execute_many(INSERT, []) == 0
    assert acme.statistics() == sent


async def test_in_a_transaction(acme: TenantHandle):
    """All of it runs inside: it sees its own writes, and others see them after its end."""
    async with acme.transaction() as tx:
        await tx.execute(INSERT, [3, "c"])
        added = await tx.fetch_one(f"{INSERT} RETURNING id, title", [4, "d"], row=Note)
        assert added == Note(id=4, title="d")
        assert await tx.fetch_value("SELECT count(*) FROM notes") == 4
        stream = tx.stream("SELECT id FROM notes", key=["id"], chunk_rows=1)
        assert [row.id async for row in stream] == [1, 2, 3, 4]
        assert await acme.fetch_value("SELECT count(*) FROM notes") == 2
    assert await acme.fetch_value("SELECT count(*) FROM notes") == 4
    with pytest.raises(TransactionClosedError):
        await tx.fetch_value("SELECT 1")


async def test_with_a_key(acme: TenantHandle):
    """A write takes effect once for its key and gives the same rows again; a fetch of RETURNING is its one write."""
    returning = f"{INSERT} RETURNING id, title, random() AS drawn"
    first = await acme.idempotent("one").fetch_one(returning, [3, "c"])
    assert isinstance(first, Row)
    again = await acme.idempotent("one").fetch_one(returning, [3, "c"])
    assert (again, again.keys() if again else None) == (first, ("id", "title", "drawn"))
    assert await acme.idempotent("one").fetch_one(returning, [3, "c"], row=Note) == Note(id=3, title="c")
    for _ in range(2):
        assert await acme.idempotent("two").execute_many(INSERT, [(4, "d"), (5, "e")]) == 2
        assert await acme.idempotent("three").execute("UPDATE notes SET title = 'z' WHERE id > 3") == 2
    write = acme.idempotent("four")
    await write.fetch_all("DELETE FROM notes WHERE id = 5 RETURNING id")
    assert await write.fetch_value("SELECT max(id) FROM notes") == 4
    with pytest.raises(QueryError, match="the idempotency key 'four' belongs to an earlier write"):
        await write.execute("DELETE FROM notes")


async def test_a_key_and_a_text_for_another_dialect(acme: TenantHandle):
    """A retry is the same write if a release has added a text for another dialect, and another write if the SQLite text differs."""
    for sql in (INSERT, Sql({"sqlite": INSERT, "postgres": f"{INSERT} ON CONFLICT DO NOTHING"})):
        assert await acme.idempotent("one").execute(sql, [3, "c"]) == 1
    with pytest.raises(IdempotencyConflictError):
        await acme.idempotent("one").execute(
            Sql({"sqlite": f"{INSERT} ON CONFLICT DO NOTHING", "postgres": INSERT}), [3, "c"]
        )
    assert Sql({"postgres": "b", "mysql": "a"}).canonical_text == "a"


async def test_in_a_repository(acme: TenantHandle):
    """A repository has the same methods, and is one line for each of its own."""
    notes = acme.repository(NoteRepository)
    assert await notes.titled("b") == Note(id=2, title="b")
    assert await notes.write(Statement("notes.add", INSERT, (3, "c"))) == [None]
    assert await acme.tasks.fetch_value("SELECT count(*) FROM notes") == 3


async def test_sql_of_its_dialect(acme: TenantHandle):
    """An `Sql` runs the text of the database's dialect."""
    sql = Sql({"sqlite": "SELECT 'sqlite' AS id", "postgres": "SELECT 'postgres' AS id"})
    dialect = await acme.dialect()
    assert await acme.fetch_value(sql) == dialect
    assert [row.id async for row in acme.stream(sql, key=["id"])] == [dialect]
    with pytest.raises(QueryError, match=f"add a text for {dialect}"):
        await acme.fetch_value(Sql({"mysql": "SELECT 1"}))
    async with acme.transaction() as tx:
        assert await tx.dialect() == dialect
    assert await acme.idempotent("one").dialect() == dialect
    assert await acme.tasks.dialect() == dialect


async def test_names_of_metrics_and_logs(each_registry: TenantRegistry, acme: TenantHandle):
    """Each method has its own name in metrics, which `name` changes; a failure is logged under it."""
    recorder = Recorder()
    each_registry.add_hook(recorder)
    await acme.execute("DELETE FROM notes WHERE id = 2")
    await acme.execute_many(INSERT, [(2, "b"), (3, "c")])
    await acme.fetch_one(SELECT)
    await acme.fetch_all(SELECT)
    await acme.fetch_value(SELECT)
    assert len([row async for row in acme.stream("SELECT id FROM notes", key=["id"])]) == 3
    await acme.fetch_all(SELECT, name="notes.list")
    with (
        capture_logs() as logs,
        pytest.raises(DuplicateRecordError, match=r"^notes\.add: (UNIQUE constraint|duplicate key)"),
    ):
        await acme.execute(INSERT, [1, "a"], name="notes.add")
    assert [(log["event"], log["tenant_id"]) for log in logs] == [("notes.add_failed", "acme")]
    batches = recorder.of(BatchFinished, tenant_id="acme")
    assert [call.operation for batch in batches for call in batch.calls] == [
        *(
            "sql.execute",
            "sql.execute_many",
            "sql.fetch_one",
            "sql.fetch_all",
            "sql.fetch_value",
            "sql.stream",
        ),
        *("notes.list", "notes.add"),
    ]


async def test_without_a_registry():
    """A back end on its own has the methods through a plain repository."""
    backend = create_backend(PersistenceConfig(sqlite=SQLiteConfig(path=":memory:")))
    await backend.connect()
    queries = backend.repository(Repository)
    assert await queries.execute(TABLE) == 0
    assert await queries.execute_many(INSERT, [(1, "a")]) == 1
    assert await queries.fetch_one(SELECT, row=Note) == Note(id=1, title="a")
    await backend.disconnect()
