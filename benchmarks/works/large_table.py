"""Work 13: a tenant with a million rows in each table against one with few: saving, and pages by time.

The rows are made by SQLite itself, in one transaction that is not durable; everything after is.
"""

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.fleet import create_tenant
from benchmarks.harness import BenchmarkError, Caller, Load, Side, Work, compare, measure
from benchmarks.one_tenant import save_round
from benchmarks.peers import count_messages
from benchmarks.peers.sqlite3_batches import LIMIT, save_batches, save_batches_into
from benchmarks.peers.tenantry_registry import TENANT, open_tenantry
from tenantry.company import SQLAuditRepository, SQLCostRecordRepository, SQLMessageRepository
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Statement, TupleRow
from tenantry.storage.sqlite.database_files.layout import tenant_paths

_ROWS, _QUICK_ROWS, _FEW_ROWS = 1_000_000, 100_000, 2_000
_CALLERS, _PAGE_ROWS = 64, 50
_EQUAL = 1.05
_MANY, _FEW, _NONE = "many rows", "2,000 rows", "no rows"
_SAVE = "messages.save, 64 callers"

_NUMBERS = "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n + 1 < ?)"
_AT = "strftime('%Y-%m-%dT%H:%M:%S', 1767225600 + n * 7, 'unixepoch') || '.000000Z'"
_AGENT = "'agent-' || (n % 16)"
_FILL = (
    f"""{_NUMBERS} INSERT INTO messages SELECT n + 1, randomblob(16), {_AT}, {_AGENT}, 'grace',
        'project-' || printf('%02d', n % 16), 'The review is done: two findings, both small.', 'status_report', 'normal',
        '[]', '{{}}' FROM n""",
    f"""{_NUMBERS} INSERT INTO cost_records SELECT n + 1, {_AT}, {_AGENT}, 'task-' || (n % 5000), 'acme', 'large',
        1000, 200, 0.0125, NULL FROM n""",
    f"""{_NUMBERS} INSERT INTO audit_entries SELECT n + 1, lower(hex(randomblob(16))), {_AT}, {_AGENT}, NULL, 'shell',
        'code_execution', 'execute', printf('%064x', n), 'allow', 'low', 'in the sandbox', '[]', 0.2, NULL FROM n""",
)

# Each with a cursor from somewhere in the middle, which costs a database without the right index most.
_PAGES: dict[str, Callable[[Any, str | None], Any]] = {
    "messages.get_history": lambda session, cursor: SQLMessageRepository(session).get_history(
        "project-03", limit=_PAGE_ROWS, cursor=cursor
    ),
    "cost_records.query": lambda session, cursor: SQLCostRecordRepository(session).query(
        agent_id="agent-7", limit=_PAGE_ROWS, cursor=cursor
    ),
    "audit_entries.query": lambda session, cursor: SQLAuditRepository(session).query(
        limit=_PAGE_ROWS, cursor=cursor
    ),
}


class _Recorder:
    """A session that notes statements and finds nothing."""

    def __init__(self) -> None:
        self.log = EventLog()
        self.statements: list[Statement] = []

    async def read(self, statement: Statement) -> list[TupleRow]:
        self.statements.append(statement)
        return []


def _run(load: Load) -> Sequence[Comparison]:
    many = load.once("a large tenant", partial(_fill, load, _QUICK_ROWS if load.is_quick else _ROWS))
    few = load.once("a small tenant", partial(_fill, load, _FEW_ROWS))
    saves = [Side(_MANY, partial(_save, many, load)), Side(_NONE, partial(_save, None, load))]
    pages = [
        compare(
            operation,
            [Side(_MANY, partial(_page, page, many, load)), Side(_FEW, partial(_page, page, few, load))],
            load,
        )
        for operation, page in _PAGES.items()
    ]
    plain = [
        Side(_MANY, lambda _: save_batches_into(_database(many), load)),
        Side(_NONE, partial(save_batches, load)),
    ]
    # Beside the target: what the rows cost SQLite itself.
    return [compare(_SAVE, saves, load), compare(f"{LIMIT}, alone", plain, load), *pages]


def _fill(load: Load, rows: int) -> Path:
    data_dir = load.directory / f"rows-{rows}"
    create_tenant(data_dir, TENANT)
    with closing(sqlite3.connect(_database(data_dir))) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -1000000")
        for statement in _FILL:
            connection.execute(statement, (rows,))
        connection.commit()
    os.sync()
    return data_dir


def _database(data_dir: Path) -> Path:
    return tenant_paths(data_dir, TENANT).database


def _save(data_dir: Path | None, load: Load, directory: Path) -> Sample:
    """Save into the large tenant, which grows a little with each round, or into a new one."""
    before = count_messages(_database(data_dir)) if data_dir else 0
    return load.run(save_round(open_tenantry, _CALLERS, load, data_dir or directory, rows_before=before))


def _page(page: Callable[[Any, str | None], Any], data_dir: Path, load: Load, directory: Path) -> Sample:  # noqa: ARG001  # the data directory outlives the round
    return load.run(_read_pages(page, data_dir, load))


async def _read_pages(page: Callable[[Any, str | None], Any], data_dir: Path, load: Load) -> Sample:
    async with open_tenantry(data_dir, ()) as store:
        # A repository of the tenant's own session, whichever it is.
        session = store.tenant.messages._session  # noqa: SLF001  # a handle hands out repositories, not sessions
        second = (await page(session, None)).next_cursor
        assert second is not None

        async def read(cursor: str) -> None:
            await page(session, cursor)

        measured = await measure([Caller(lambda: second, read)], load)
    plan = await _plan(page, second, _database(data_dir))
    return measured.sample(None, plan=plan)


async def _plan(page: Callable[[Any, str | None], Any], cursor: str, database: Path) -> list[str]:
    """Return how SQLite finds the page.

    Raises:
        BenchmarkError: It reads a whole table, or sorts.
    """
    recorder = _Recorder()
    await page(recorder, cursor)
    (statement,) = recorder.statements
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", statement.parameters).fetchall()
    plan = [row[3] for row in rows]
    if not all(step.startswith("SEARCH") and "INDEX" in step for step in plan):
        raise BenchmarkError(f"{statement.name} is not read by index: {plan}")
    return plan


WORK = Work(
    number="13",
    title="10⁶ rows in each table (--quick: 10⁵): saving, and pages of 50",
    run=_run,
    targets=(
        Target(_SAVE, _NONE, must=1 / 1.3, reach=1 / _EQUAL),
        *(Target(operation, _FEW, must=1.3, reach=_EQUAL, measure=Measure.P50) for operation in _PAGES),
    ),
)
