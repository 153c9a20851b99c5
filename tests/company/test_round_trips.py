"""Rule 13 and sums of money: what goes into a real store comes out equal, whatever it was."""

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgres_servers import Database, PostgresServer
from stores import open_backend
from strategies import amounts, audit_entries, cost_records, messages, tasks
from tenantry import Repository
from tenantry.company import AuditEntry, CostRecord, Message, Task
from tenantry.company.records import SAVE_MANY_ROWS_MAX
from tenantry.errors import QueryError
from tenantry.storage import PersistenceBackend, PersistenceConfig, create_backend
from tenantry.testing.conformance.samples import make_cost_record

pytestmark = pytest.mark.unmeasured

T = TypeVar("T")

_EXAMPLES = settings(max_examples=60, deadline=None)
_IN_GENERAL = messages().map(lambda message: message.model_copy(update={"channel": "general"}))
_NASTY = st.lists(
    amounts() | st.sampled_from([1e16, 1.0, 0.1, 1e-9, 5e-324, 2.0**-1074, 1e300]), max_size=200
)


def run(work: Awaitable[T]) -> T:
    """Run one example on a loop of its own."""

    async def main() -> T:
        return await work

    return asyncio.run(main())


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database | None]:
    """A database on a server, whose tables are empty at the beginning of each example; None for SQLite in memory."""
    if request.param == "sqlite":
        yield None
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database() as created:
        yield created


@asynccontextmanager
async def opened(database: Database | None) -> AsyncIterator[PersistenceBackend]:
    """Open an empty back end."""
    if database is None:
        async with open_backend(":memory:") as backend:
            yield backend
        return
    config = PersistenceConfig(backend="postgres", postgres=database.url)  # type: ignore[arg-type]
    backend = create_backend(config)
    await backend.connect()
    try:
        await backend.migrate()
        await backend.repository(Repository).execute("TRUNCATE tasks, cost_records, messages, audit_entries")
        yield backend
    finally:
        await backend.disconnect()


@_EXAMPLES
@given(st.lists(tasks(), max_size=4, unique_by=lambda task: task.id))
def test_tasks(database: Database | None, given_tasks: list[Task]):
    """Every field of a task survives, by id and in a list."""

    async def round_trip() -> None:
        async with opened(database) as backend:
            for task in given_tasks:
                await backend.tasks.save(task)
                assert await backend.tasks.get(task.id) == task
            listed = await backend.tasks.list_tasks()
            # By code point, which is how UTF-8 sorts.
            assert list(listed) == sorted(given_tasks, key=lambda task: task.id)

    run(round_trip())


@_EXAMPLES
@given(st.lists(cost_records(), max_size=4))
def test_cost_records(database: Database | None, given_records: list[CostRecord]):
    """Every field of a cost record survives, twins too, and their order is that of time."""

    async def round_trip() -> None:
        async with opened(database) as backend:
            await backend.cost_records.save_many(given_records)
            found = await backend.cost_records.query()
            assert list(found) == sorted(given_records, key=lambda record: record.timestamp)

    run(round_trip())


@_EXAMPLES
@given(st.lists(_IN_GENERAL, max_size=4, unique_by=lambda message: message.id))
def test_messages(database: Database | None, given_messages: list[Message]):
    """Every field of a message survives, and their order is that of time, the newest first."""

    async def round_trip() -> None:
        async with opened(database) as backend:
            await backend.messages.save_many(given_messages)
            found = await backend.messages.get_history("general")
            assert list(found) == sorted(given_messages, key=lambda message: message.timestamp)[::-1]

    run(round_trip())


@_EXAMPLES
@given(st.lists(audit_entries(), max_size=4, unique_by=lambda entry: entry.id))
def test_audit_entries(database: Database | None, given_entries: list[AuditEntry]):
    """Every field of an audit entry survives, and their order is that of time, the newest first."""

    async def round_trip() -> None:
        async with opened(database) as backend:
            for entry in given_entries:
                await backend.audit_entries.save(entry)
            found = await backend.audit_entries.query()
            assert list(found) == sorted(given_entries, key=lambda entry: entry.timestamp)[::-1]

    run(round_trip())


def is_sum(found: float, expected: float, database: Database | None) -> bool:
    """Return whether a sum is exact. PostgreSQL adds decimal numbers, so its sum may differ by one unit in the last place."""
    return abs(found - expected) <= (0.0 if database is None else math.ulp(expected))


async def _sum(database: Database | None, costs: list[float]) -> float:
    async with opened(database) as backend:
        for start in range(0, len(costs), SAVE_MANY_ROWS_MAX):
            await backend.cost_records.save_many(
                make_cost_record(cost) for cost in costs[start : start + SAVE_MANY_ROWS_MAX]
            )
        return await backend.cost_records.aggregate()


@_EXAMPLES
@given(_NASTY)
def test_sum_is_rounded_once(database: Database | None, costs: list[float]):
    """A sum is math.fsum of what was given, from the smallest to the largest float, or an error where no float holds it."""
    try:
        expected = math.fsum(costs)
    except OverflowError:
        with pytest.raises(QueryError, match="exceeds the largest 64-bit float"):
            run(_sum(database, costs))
    else:
        assert is_sum(run(_sum(database, costs)), expected, database)


@pytest.mark.parametrize("cost", [0.1, 1e-7, 1 / 3, 999_999.99])
async def test_sum_of_thousands(database: Database | None, cost: float):
    """Thousands of equal amounts, where adding one by one drifts, and larger ones between that would swallow them."""
    costs = [cost, 1e15, cost / 7] * 4000
    assert is_sum(await _sum(database, costs), math.fsum(costs), database)


async def test_sum_that_no_float_holds(database: Database | None):
    """An overflow is an error of ours that says so, not infinity."""
    with pytest.raises(QueryError, match="exceeds the largest 64-bit float"):
        await _sum(database, [sys.float_info.max] * 2)
