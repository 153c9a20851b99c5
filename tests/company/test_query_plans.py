"""Every query of every repository, with every combination of filters, is a range of one index."""

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from psycopg import RawCursor

from postgres_servers import Database
from postgres_sessions import open_session
from stores import open_store
from tenantry.company import (
    COMPANY,
    AuditVerdict,
    RiskLevel,
    SQLAuditRepository,
    SQLCostRecordRepository,
    SQLMessageRepository,
    SQLTaskRepository,
    TaskStatus,
)
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Fetch, Result, Statement
from tenantry.storage.postgres.statements.translation import translate
from tenantry.storage.protocol import Store
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.standalone import StoreSession
from tenantry.testing.conformance.samples import (
    at_minute,
    make_audit_entry,
    make_cost_record,
    make_message,
    make_task,
)

_WINDOW = {"since": at_minute(0), "until": at_minute(9)}
_PAGE: dict[str, Any] = {"limit": 1}
_QUERIES: dict[str, tuple[type, str, dict[str, Any]]] = {
    "tasks": (
        SQLTaskRepository,
        "list_tasks",
        {"status": TaskStatus.ASSIGNED, "assigned_to": "ada", "project": "apollo"},
    ),
    "cost-records": (SQLCostRecordRepository, "query", {"agent_id": "ada", "task_id": "task", **_WINDOW}),
    "sums": (SQLCostRecordRepository, "aggregate", {"agent_id": "ada", "task_id": "task", **_WINDOW}),
    "messages": (SQLMessageRepository, "get_history", {"sender": "ada", **_WINDOW}),
    "audit-entries": (
        SQLAuditRepository,
        "query",
        {
            "agent_id": "ada",
            "action_type": "read",
            "verdict": AuditVerdict.ALLOW,
            "risk_level": RiskLevel.LOW,
            **_WINDOW,
        },
    ),
}


class RecordingSession(StoreSession):
    """A real session that keeps the statements it was given."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, EventLog())
        self.statements: list[Statement] = []

    async def write(self, *statements: Statement) -> list[Result]:
        """Keep them and run them."""
        self.statements += statements
        return await super().write(*statements)

    async def read(self, statement: Statement) -> Result:
        """Keep it and run it."""
        self.statements.append(statement)
        return await super().read(statement)

    async def plans(self) -> list[str]:
        """Return how SQLite runs each of them, a line for each step, and forget them."""
        lines = []
        for statement in self.statements:
            explained = statement._replace(
                sql=f"EXPLAIN QUERY PLAN {statement.text('sqlite')}", fetch=Fetch.ALL
            )
            lines += [row[3] for row in await super().read(explained)]
        self.statements.clear()
        return lines


async def filled(store: Store) -> RecordingSession:
    """Return a session on the database, with two rows of everything."""
    opened = RecordingSession(store)
    for n in range(2):
        task = make_task(str(n), assigned_to="ada", status=TaskStatus.ASSIGNED)
        await SQLTaskRepository(opened).save(task)
        await SQLAuditRepository(opened).save(make_audit_entry(str(n), agent_id="ada"))
    await SQLCostRecordRepository(opened).save_many([make_cost_record()] * 2)
    await SQLMessageRepository(opened).save_many([make_message(), make_message()])
    opened.statements.clear()
    return opened


@pytest.fixture
async def session() -> AsyncIterator[RecordingSession]:
    """A session on a SQLite database."""
    async with open_store(SQLiteOptions(path=None, is_read_by_writer=True)) as store:
        yield await filled(store)


def combinations(filters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every choice of filters, none and all of them too."""
    counts = range(len(filters) + 1)
    return [dict(chosen) for count in counts for chosen in itertools.combinations(filters.items(), count)]


def check(plans: list[str]) -> None:
    """Assert that every step searches, and that nothing is sorted."""
    assert plans
    for step in plans:
        assert step.startswith("SEARCH "), step


@pytest.mark.parametrize("name", _QUERIES)
async def test_every_combination_of_filters_searches_an_index(session: RecordingSession, name: str):
    """First pages and later ones: no table is scanned, nothing is sorted, and the rows are found."""
    repository, method, filters = _QUERIES[name]
    read: Callable[..., Any] = getattr(repository(session), method)
    arguments = ("general",) if name == "messages" else ()
    for chosen in combinations(filters):
        if name == "sums":
            assert await read(*arguments, **chosen) == 2.0
        else:
            page = await read(*arguments, **chosen, **_PAGE)
            assert len(page) == 1
            rest = await read(*arguments, **chosen, **_PAGE, cursor=page.next_cursor)
            assert (len(rest), rest.next_cursor) == (1, None)
        check(await session.plans())


@pytest.mark.parametrize("name", _QUERIES)
async def test_postgres_has_an_index_for_every_combination_of_filters(postgres_database: Database, name: str):
    """An index gives the rows in their order. On small tables the server prefers a scan, so it is told not to scan and to sort."""
    repository, method, filters = _QUERIES[name]
    arguments = ("general",) if name == "messages" else ()
    async with open_session(postgres_database, schemas=[COMPANY]) as opened:
        session = await filled(opened._store)
        read: Callable[..., Any] = getattr(repository(session), method)
        for chosen in combinations(filters):
            page = await read(*arguments, **chosen, **({} if name == "sums" else _PAGE))
            if name != "sums":
                await read(*arguments, **chosen, **_PAGE, cursor=page.next_cursor)
        with psycopg.connect(postgres_database.direct_url) as connection:
            (schema,) = connection.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant\\_%'"
            ).fetchall()
            for setting in ("seqscan", "bitmapscan", "sort", "incremental_sort"):
                connection.execute(f"SET enable_{setting} = off".encode())
            connection.execute("SELECT set_config('search_path', %s, false)", schema)
            for statement in session.statements:
                explained = b"EXPLAIN (COSTS OFF) " + translate(statement.text("postgres")).sql
                found = RawCursor(connection).execute(explained, list(map(str, statement.parameters)))
                plan = "\n".join(line for (line,) in found)
                assert "Index" in plan, plan
                assert "Sort" not in plan, plan
                assert "Seq Scan" not in plan, plan


async def test_single_records_are_searched(session: RecordingSession):
    """A task is read, replaced and deleted by its key."""
    tasks = SQLTaskRepository(session)
    await tasks.get("0")
    await tasks.delete("0")
    plans = await session.plans()
    assert len(plans) == 2
    check(plans)


async def test_the_first_filter_leads(session: RecordingSession):
    """The most selective filter chooses the index, whatever else is given: an agent's tasks, not a project's."""
    await SQLTaskRepository(session).list_tasks(
        status=TaskStatus.ASSIGNED, assigned_to="ada", project="apollo"
    )
    assert "tasks_assigned_to" in (await session.plans())[0]


async def test_sums_are_read_from_the_index_alone(session: RecordingSession):
    """A budget that is asked for before every call touches no row, where one filter or none is given."""
    costs = SQLCostRecordRepository(session)
    for filters in ({}, {"agent_id": "ada"}, {"task_id": "task"}):
        await costs.aggregate(**filters, **_WINDOW)
        (step,) = await session.plans()
        assert "COVERING INDEX" in step
