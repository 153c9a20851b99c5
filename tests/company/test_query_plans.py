"""Every query of every repository, with every combination of filters, is a range of one index."""

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from stores import open_store
from tenantry.company import (
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
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.store import SQLiteStore
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

    def __init__(self, store: SQLiteStore) -> None:
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


@pytest.fixture
async def session() -> AsyncIterator[RecordingSession]:
    """A session on a database with two rows of everything."""
    async with open_store(SQLiteOptions(path=None, is_read_by_writer=True)) as store:
        opened = RecordingSession(store)
        for n in range(2):
            task = make_task(str(n), assigned_to="ada", status=TaskStatus.ASSIGNED)
            await SQLTaskRepository(opened).save(task)
            await SQLAuditRepository(opened).save(make_audit_entry(str(n), agent_id="ada"))
        await SQLCostRecordRepository(opened).save_many([make_cost_record()] * 2)
        await SQLMessageRepository(opened).save_many([make_message(), make_message()])
        opened.statements.clear()
        yield opened


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
