"""The demo's load on one aiosqlite connection for each company, for the comparison with tenantry.

tenantry's own repositories run on the connections. So the statements, the models, the tables and the check are the same, and only the
way to the database differs. All connections are open before the load begins, and no pool limits them: this is the best case of a
service that keeps a connection for each customer.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import aiosqlite

from tenantry.company import (
    COMPANY,
    SQLAuditRepository,
    SQLCostRecordRepository,
    SQLMessageRepository,
    SQLTaskRepository,
)
from tenantry.config import JOURNAL_SIZE_LIMIT_BYTES, Durability
from tenantry.demo.check import check_companies
from tenantry.demo.company import Company, Timings
from tenantry.demo.load import DemoSettings, LoadResult, Progress, work
from tenantry.errors import PersistenceConnectionError, QueryError
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Fetch, Result, Statement, T

CONNECTIONS_MAX: Final = 1000
"""The largest number of companies, because each aiosqlite connection has a thread."""

_DIALECT: Final = "sqlite"
_SYNCHRONOUS: Final[dict[Durability, tuple[str, int]]] = {"full": ("FULL", 2), "normal": ("NORMAL", 1)}
_DURABILITY_SQL: Final = "SELECT journal_mode, synchronous FROM pragma_journal_mode, pragma_synchronous"


class AiosqliteSession:
    """Runs the statements of repositories on one aiosqlite connection."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.log = EventLog()
        self._connection = connection
        self._lock = asyncio.Lock()

    async def dialect(self) -> str:
        """See `Session.dialect`."""
        return _DIALECT

    async def read(self, statement: Statement[T]) -> T:
        """See `Session.read`."""
        _check_fetch(statement, Fetch.ALL, Fetch.ONE)
        # The shortcut is aiosqlite's fastest way to read: one job on the connection's thread.
        rows = list(await self._connection.execute_fetchall(statement.text(_DIALECT), statement.parameters))
        result: Any = rows if statement.fetch is Fetch.ALL else next(iter(rows), None)
        return cast("T", result)

    async def write(self, *statements: Statement) -> list[Result]:
        """See `Session.write`."""
        for statement in statements:
            _check_fetch(statement, Fetch.NONE)
        # Without the lock, one caller would commit or roll back the unfinished unit of another caller.
        async with self._lock:
            try:
                for statement in statements:
                    await self._connection.execute(statement.text(_DIALECT), statement.parameters)
                await self._connection.commit()
            except BaseException:
                await self._connection.rollback()
                raise
        return [None] * len(statements)


class AiosqliteCompany:
    """The repositories of a company on its own connection."""

    def __init__(self, company_id: str, connection: aiosqlite.Connection) -> None:
        session = AiosqliteSession(connection)
        self.id = company_id
        self.messages = SQLMessageRepository(session)
        self.cost_records = SQLCostRecordRepository(session)
        self.tasks = SQLTaskRepository(session)
        self.audit_entries = SQLAuditRepository(session)


async def run_on_aiosqlite(
    settings: DemoSettings, durability: Durability, directory: Path, show: Callable[[Progress], None]
) -> LoadResult:
    """Run the demo's load and its check on aiosqlite, and return the result.

    Args:
        settings: The same settings as those of the demo.
        durability: The durability of the demo's writes.
        directory: An empty directory for the companies' databases, on the same disk as the demo's.
        show: Is told the progress.

    Raises:
        PersistenceConnectionError: SQLite failed, or a database cannot have the durability.
    """
    timings = Timings()
    ids = settings.company_ids
    try:
        await _create(directory, ids)
        async with AsyncExitStack() as stack:
            companies: list[Company] = []
            for seed, company_id in enumerate(ids):
                handle = await stack.enter_async_context(_opened(directory, company_id, durability))
                companies.append(Company(handle, timings, seed))
                show(Progress.of("opening", len(companies) / len(ids), timings))
            elapsed_seconds = await work(
                companies, settings, lambda fraction: show(Progress.of("comparing", fraction, timings))
            )
        check = await check_companies(
            companies,
            lambda company_id: _opened(directory, company_id, durability),
            lambda fraction: show(Progress.of("rechecking", fraction, timings)),
        )
    except aiosqlite.Error as error:
        raise PersistenceConnectionError(
            f"the comparison with aiosqlite failed in {directory}: {error}", is_retryable=False
        ) from error
    return LoadResult(elapsed_seconds, timings, check)


async def _create(directory: Path, company_ids: Sequence[str]) -> None:
    """Make the companies' databases: the first one with tenantry's migrations, the others as copies."""
    first, *others = (_database(directory, company_id) for company_id in company_ids)
    async with aiosqlite.connect(first) as connection:
        await connection.execute("PRAGMA journal_mode = WAL")
        for migration in COMPANY.migrations(_DIALECT):
            await connection.executescript(migration.sql)
    for other in others:
        await asyncio.to_thread(shutil.copyfile, first, other)
    # Otherwise the kernel would write the copies while the load runs.
    await asyncio.to_thread(os.sync)


@asynccontextmanager
async def _opened(
    directory: Path, company_id: str, durability: Durability
) -> AsyncIterator[AiosqliteCompany]:
    """Open a company's database with the pragmas of a tenant's writer."""
    database = _database(directory, company_id)
    async with aiosqlite.connect(database) as connection:
        name, synchronous = _SYNCHRONOUS[durability]
        await connection.executescript(
            f"PRAGMA synchronous = {name}; PRAGMA foreign_keys = ON;"
            f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT_BYTES:d};"
        )
        found = [tuple(row) for row in await connection.execute_fetchall(_DURABILITY_SQL)]
        if found != [("wal", synchronous)]:
            raise PersistenceConnectionError(
                f"{database} has {found}, not a write-ahead log with synchronous={name}: nothing would compare",
                is_retryable=False,
            )
        yield AiosqliteCompany(company_id, connection)


def _database(directory: Path, company_id: str) -> Path:
    return directory / f"{company_id}.db"


def _check_fetch(statement: Statement, *known: Fetch) -> None:
    if statement.fetch not in known:
        raise QueryError(f"{statement.name}: the comparison knows only {known}, not {statement.fetch}")
