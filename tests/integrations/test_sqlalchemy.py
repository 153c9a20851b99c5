"""SQLAlchemy Core statements on a tenant: values of every type, rows with names, and refusals in words."""

import enum
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, array
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column
from sqlalchemy.schema import CreateTable

from tenantry import Repository, Row, TenantHandle, TenantRegistry
from tenantry.errors import DuplicateRecordError, MalformedRowError, QueryError
from tenantry.events import BatchFinished
from tenantry.integrations.sqlalchemy import SqlAlchemyCore
from tenantry.sql.queries import EXECUTE_MANY_ROWS_MAX
from tenants import Recorder, until


class Colour(enum.Enum):
    """A value of a column."""

    RED = 1


class Cents(sa.types.TypeDecorator[Decimal]):
    """A type of the application's own: an amount as a whole number of cents."""

    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else int(value * 100)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> Decimal | None:  # noqa: ARG002
        return None if value is None else Decimal(value) / 100


class Base(DeclarativeBase):
    """The application's mapped classes."""


class Mappable(Base):
    """A mapped class, whose table is used without the ORM."""

    __tablename__ = "mapped"
    id: Mapped[int] = mapped_column(primary_key=True)


METADATA = sa.MetaData()
NOTES = sa.Table(
    "notes",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("title", sa.String, nullable=False),
    sa.Column("uid", sa.Uuid, default=uuid4, unique=True),
    sa.Column("is_done", sa.Boolean, default=False, onupdate=True),
    sa.Column("due", sa.Date),
)
VALUES = sa.Table(
    "every_type",
    METADATA,
    sa.Column("day", sa.Date),
    sa.Column("at", sa.DateTime),
    sa.Column("clock", sa.Time),
    sa.Column("lasts", sa.Interval),
    sa.Column("price", sa.Numeric(10, 2)),
    sa.Column("cents", Cents),
    sa.Column("document", sa.JSON),
    sa.Column("colour", sa.Enum(Colour)),
    sa.Column("uid", sa.Uuid),
    sa.Column("content", sa.LargeBinary),
    sa.Column("is_done", sa.Boolean),
    sa.Column("weight", sa.Float),
)
EXAMPLE: dict[str, Any] = {
    "day": date(2026, 11, 30),
    "at": datetime(2026, 11, 30, 12, 30, 0, 125, tzinfo=UTC).replace(tzinfo=None),
    "clock": time(12, 30),
    "lasts": timedelta(hours=3),
    "price": Decimal("1.25"),
    "cents": Decimal("99.9"),
    "document": {"a": [1, None]},
    "colour": Colour.RED,
    "uid": UUID(int=7),
    "content": b"\x00\xff",
    "is_done": True,
    "weight": 0.5,
}


@dataclass
class Note:
    """A row as a dataclass."""

    id: int
    title: str
    due: date | None = None


@pytest.fixture
async def tenant(each_registry: TenantRegistry) -> TenantHandle:
    """A tenant with the tables."""
    await each_registry.create("acme")
    handle = each_registry.tenant("acme")
    if await handle.dialect() == "postgres":
        await handle.execute("CREATE TYPE colour AS ENUM ('RED')")
    for table in METADATA.sorted_tables:
        await SqlAlchemyCore(handle).execute(CreateTable(table))
    return handle


@pytest.fixture
def core(tenant: TenantHandle) -> SqlAlchemyCore:
    """What runs statements on the tenant."""
    return SqlAlchemyCore(tenant)


async def test_values_of_every_type_come_back(core: SqlAlchemyCore):
    """Each type of SQLAlchemy, and one of the application's own, stores a value and gives an equal one; NULL is None."""
    assert await core.execute(sa.insert(VALUES), EXAMPLE) == 1
    assert await core.execute(sa.insert(VALUES).values(dict.fromkeys(EXAMPLE, sa.null()))) == 1
    found = await core.fetch_all(sa.select(VALUES).order_by(VALUES.c.day.is_(None)))
    assert dict(found[0]) == EXAMPLE
    assert set(found[1]) == {None}


async def test_rows_have_names(core: SqlAlchemyCore):
    """A row is a `Row` with the names that SQLAlchemy gave, or a model; a join with two equal names gives each its own."""
    await core.execute_many(
        sa.insert(NOTES), [{"title": "a", "due": date(2026, 1, 2)}, {"title": "b", "due": None}]
    )
    found = await core.fetch_all(sa.select(NOTES.c.id, NOTES.c.due).order_by(NOTES.c.id))
    assert isinstance(found[0], Row)
    assert (found[0].due, found[0]["id"], tuple(found[1])) == (date(2026, 1, 2), 1, (2, None))
    models = await core.fetch_all(
        sa.select(NOTES.c.id, NOTES.c.title, NOTES.c.due).order_by(NOTES.c.id), row=Note
    )
    assert models == [Note(1, "a", date(2026, 1, 2)), Note(2, "b")]
    other = NOTES.alias()
    joined = sa.select(NOTES.c.title, other.c.title.label("other")).join(other, NOTES.c.id < other.c.id)
    assert await core.fetch_one(joined, row=None) == (await core.fetch_all(joined))[0]
    assert dict((await core.fetch_all(joined))[0]) == {"title": "a", "other": "b"}
    both = sa.union(sa.select(NOTES.c.due), sa.select(NOTES.c.due).where(NOTES.c.due.is_(None))).order_by(
        "due"
    )
    assert {row.due for row in await core.fetch_all(both)} == {
        None,
        date(2026, 1, 2),
    }  # the back ends sort NULL differently


async def test_one_row_and_one_value(core: SqlAlchemyCore):
    """Without rows both are None; IN takes any number of values, and a parameter that is named at the call its value."""
    by_title = sa.select(NOTES.c.due).where(NOTES.c.title == sa.bindparam("title"))
    assert await core.fetch_one(by_title, {"title": "a"}) is None
    assert await core.fetch_value(by_title, {"title": "a"}) is None
    await core.execute(sa.insert(NOTES), {"title": "a", "due": date(2026, 1, 2)})
    assert await core.fetch_value(by_title, {"title": "a"}) == date(2026, 1, 2)
    counted = sa.select(sa.func.count()).select_from(NOTES)
    for titles, count in (([], 0), (["a"], 1), (["a", "b", "c"], 1)):
        assert await core.fetch_value(counted.where(NOTES.c.title.in_(titles))) == count
    typed = sa.text("SELECT due FROM notes WHERE title = :title").columns(due=sa.Date)
    assert await core.fetch_value(typed, {"title": "a"}) == date(2026, 1, 2)
    assert await core.fetch_value(sa.text("SELECT due FROM notes")) == "2026-01-02"


async def test_writes_with_defaults_and_returning(core: SqlAlchemyCore):
    """Defaults of columns apply once to each row; RETURNING gives the stored values; counts are those of changed rows."""
    insert = sa.insert(NOTES).values(title="a").returning(NOTES.c.id, NOTES.c.uid, NOTES.c.is_done)
    returned = await core.fetch_one(insert)
    assert returned is not None
    assert (returned.id, returned.is_done) == (1, False)
    assert returned.uid == await core.fetch_value(sa.select(NOTES.c.uid))
    assert await core.execute_many(sa.insert(NOTES), ({"title": str(n)} for n in range(9))) == 9
    assert len({row.uid for row in await core.fetch_all(sa.select(NOTES.c.uid))}) == 10
    assert await core.execute(sa.update(NOTES).where(NOTES.c.id > 5).values(title="b")) == 5
    done = sa.select(sa.func.count()).where(NOTES.c.is_done)
    assert await core.fetch_value(done) == 5
    assert await core.execute_many(sa.insert(NOTES), []) == 0
    assert (
        await core.execute_many(sa.delete(NOTES).where(NOTES.c.title == sa.bindparam("t")), [{"t": "b"}]) == 5
    )


async def test_a_unit_is_atomic(core: SqlAlchemyCore, tenant: TenantHandle):
    """Of many rows with one that is refused, none is kept; a transaction, a repository and an idempotent write take statements."""
    rows = [{"id": 1, "title": "a"}, {"id": 1, "title": "b"}]
    with pytest.raises(DuplicateRecordError):
        await core.execute_many(sa.insert(NOTES), rows)
    async with tenant.transaction() as tx:
        await SqlAlchemyCore(tx).execute(sa.insert(NOTES), rows[0])
        assert await SqlAlchemyCore(tx).fetch_value(sa.select(NOTES.c.title)) == "a"
    await SqlAlchemyCore(tenant.repository(Repository)).execute(sa.insert(NOTES).values(id=2, title="c"))
    for _ in range(2):
        await SqlAlchemyCore(tenant.idempotent("once")).execute(
            sa.insert(NOTES).values(id=3, title="d", uid=None)
        )
    assert [row.id for row in await core.fetch_all(sa.select(NOTES.c.id).order_by(NOTES.c.id))] == [1, 2, 3]
    with pytest.raises(QueryError, match="at most 10000 rows"):
        await core.execute_many(sa.insert(NOTES), ({"title": "x"} for _ in range(EXECUTE_MANY_ROWS_MAX + 1)))


async def test_a_stream(core: SqlAlchemyCore):
    """All rows come once, in the order of the key, with the values of their types, whatever the size of a chunk."""
    await core.execute_many(
        sa.insert(NOTES), [{"title": str(n), "due": date(2026, 1, n)} for n in range(1, 10)]
    )
    select = sa.select(NOTES.c.id, NOTES.c.title, NOTES.c.due).where(NOTES.c.id > 2)
    found = [note async for note in core.stream(select, key=["id"], chunk_rows=2, row=Note)]
    assert found == [Note(n, str(n), date(2026, 1, n)) for n in range(3, 10)]
    with pytest.raises(QueryError, match="remove ORDER BY and LIMIT"):
        core.stream(select.order_by(NOTES.c.id), key=["id"])


async def test_the_name_is_the_metrics_label(each_registry: TenantRegistry, core: SqlAlchemyCore):
    """The statement runs under the name that it was given, like the tenant's own SQL."""
    recorder = Recorder()
    each_registry.add_hook(recorder)
    await core.execute(sa.insert(NOTES).values(title="a"), name="notes.add")
    # The registry reads its catalog at any time, and reports that, too.
    await until(lambda: "notes.add" in repr(recorder.of(BatchFinished)))


async def test_the_orm_is_refused(core: SqlAlchemyCore, tenant: TenantHandle):
    """Statements about mapped objects, a session and an engine are refused with what to use instead; the table of a class works."""
    for statement in (
        sa.select(Mappable),
        sa.select(aliased(Mappable)),
        sa.union(sa.select(Mappable), sa.select(Mappable)),
        sa.insert(Mappable).values(id=1),
        sa.update(Mappable).values(id=1),
        sa.delete(Mappable),
    ):
        with pytest.raises(QueryError, match=r"use the class's table, as in select\(Mappable\.__table__\)"):
            await core.fetch_all(statement)
    for session in (Session(), sa.create_engine("sqlite://")):
        with pytest.raises(QueryError, match=r"pass registry\.tenant"):
            SqlAlchemyCore(session)  # type: ignore[arg-type]  # what a user of the ORM tries
    await core.execute(CreateTable(Base.metadata.tables["mapped"]))
    await core.execute(sa.insert(Mappable.__table__), {"id": 1})
    assert [tuple(row) for row in await core.fetch_all(sa.select(Mappable.id))] == [(1,)]


async def test_what_is_refused(core: SqlAlchemyCore):
    """Text, values of another type, unknown columns and untyped columns are refused in words that quote no value."""
    with pytest.raises(QueryError, match="str is not a statement of SQLAlchemy"):
        await core.execute("DELETE FROM notes")  # type: ignore[call-overload]  # what a user of text tries
    with pytest.raises(QueryError, match="only accepts Python date objects") as caught:
        await core.execute(sa.insert(NOTES), {"title": "secret", "due": "tomorrow"})
    assert "secret" not in str(caught.value)
    with pytest.raises(QueryError, match="Unconsumed column names: nothing"):
        await core.execute(sa.insert(NOTES).values(nothing=1))
    with pytest.raises(QueryError, match="RETURNING when executemany"):
        await core.execute_many(sa.insert(NOTES).returning(NOTES.c.id), [{"title": "a"}, {"title": "b"}])
    with pytest.raises(QueryError, match=r"returns rows.*use fetch_one\(\)"):
        await core.execute(sa.select(NOTES))
    await core.execute(sa.insert(NOTES).values(title="a"))
    with pytest.raises(QueryError, match=r"use literal_column\(\) instead of text\(\)"):
        await core.fetch_all(sa.select(NOTES.c.due, sa.text("title")))


async def test_a_value_that_does_not_fit_its_type(core: SqlAlchemyCore, tenant: TenantHandle):
    """The error names the row and the column, and does not quote the value."""
    # SQLite keeps any text as a date, and PostgreSQL durations that are no number of seconds.
    is_file = await tenant.dialect() == "sqlite"
    column, value = ("day", "odd") if is_file else ("lasts", "1 mon")
    await core.execute(sa.text(f"INSERT INTO every_type ({column}) VALUES ('{value}')"))
    with pytest.raises(
        MalformedRowError, match=rf"row 1 has a value in the column '{column}'.*ValueError"
    ) as malformed:
        await core.fetch_all(sa.select(VALUES))
    assert value not in str(malformed.value)


async def test_what_only_postgres_has(tenant: TenantHandle):
    """Constructs and types of PostgreSQL's dialect compile for a tenant there, in a stream too; a tenant in a file refuses them."""
    notes = sa.table("notes", sa.column("id", sa.Integer), sa.column("title", sa.String))
    document = sa.select(
        sa.cast(sa.literal({"a": [1, {"b": "x"}]}, JSONB), JSONB).label("document"),
        sa.literal(7).label("id"),
    ).subquery()
    core = SqlAlchemyCore(tenant)
    await core.execute(sa.insert(notes).values(id=1, title="a"))
    select = sa.select(
        document.c.id,
        document.c.document["a"][1]["b"].astext.label("b"),
        sa.func.sum(sa.case((document.c.id > 3, 1), else_=0)).over().label("large"),
        sa.func.cardinality(array([document.c.id, 2])).label("both"),
    )
    if await tenant.dialect() == "sqlite":
        with pytest.raises(QueryError, match="SQLAlchemy refused the statement"):
            await core.fetch_all(select)
        return
    assert [tuple(row) for row in await core.fetch_all(select)] == [(7, "x", 1, 2)]
    assert [tuple(row) async for row in core.stream(select, key=["id"])] == [(7, "x", 1, 2)]
    upsert = postgres_insert(notes).values(id=1, title="b").on_conflict_do_nothing()
    assert await core.execute(upsert) == 0


@cache
def pages_program() -> dict[str, Any]:
    """Return the names of the program in docs/integration.md; SQLModel cannot define a class twice in a process."""
    page = (Path(__file__).parents[2] / "docs" / "integration.md").read_text(encoding="utf-8")
    _, _, section = page.partition("\n## SQLAlchemy Core\n")
    program: dict[str, Any] = {"__name__": "program"}
    exec("".join(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)), program)
    return program


async def test_the_pages_program(tenant: TenantHandle):
    """What docs/integration.md shows of SQLAlchemy runs as it stands, with tables of SQLModel."""
    program = pages_program()
    await SqlAlchemyCore(tenant).execute(CreateTable(program["notes"]))
    note = program["Note"]
    given = [
        note(title="late", due=date(2026, 1, 2)),
        note(title="free"),
        note(title="later", due=date(2026, 1, 1)),
    ]
    assert await program["add"](tenant, given) == 3
    found = await program["overdue"](tenant, date(2026, 1, 2))
    assert found == [note(id=3, title="later", due=date(2026, 1, 1))]
    assert [title async for title in program["titles"](tenant)] == ["late", "free", "later"]
