"""SQLAlchemy 2's AsyncEngine over aiosqlite: Core, a transaction for each call."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    column,
    event,
    insert,
    select,
    table,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.peers import DURABILITY_SQL, Durability, count_messages, create_company_file
from benchmarks.peers.message_row import COLUMNS, row_of
from benchmarks.peers.task_row import TASK_COLUMNS, decode_task
from tenantry.company import Message, Task

_MESSAGES = Table(
    "messages",
    MetaData(),
    Column("seq", Integer, primary_key=True),
    *(Column(name, LargeBinary if name == "id" else Text, nullable=False) for name in COLUMNS),
)
_INSERT = insert(_MESSAGES)
_TASKS = table("tasks", *map(column, TASK_COLUMNS))
_GET = select(_TASKS).where(_TASKS.c.id == bindparam("task_id"))


class SQLAlchemyStore:
    """An engine whose pool holds one connection, as SQLite has one writer."""

    def __init__(self, engine: AsyncEngine, database: Path) -> None:
        self._engine = engine
        self._database = database

    async def save(self, message: Message) -> None:
        """See `CompanyStore.save`."""
        row = dict(zip(COLUMNS, row_of(message), strict=True))
        async with self._engine.begin() as connection:
            await connection.execute(_INSERT, row)

    async def get(self, task_id: str) -> Task | None:
        """See `CompanyStore.get`."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(_GET, {"task_id": task_id})).one_or_none()
        return None if row is None else decode_task(tuple(row))

    async def durability(self) -> Durability:
        """See `CompanyStore.durability`."""
        async with self._engine.connect() as connection:
            return Durability(*(await connection.execute(text(DURABILITY_SQL))).one())

    def stored_messages(self) -> int:
        """See `CompanyStore.stored_messages`."""
        return count_messages(self._database)


@asynccontextmanager
async def open_sqlalchemy(
    directory: Path, tasks: Sequence[Task], *, pool_size: int = 1, max_overflow: int = 0
) -> AsyncIterator[SQLAlchemyStore]:
    """Open the engine.

    The pool's default, 5 connections and 10 more, lets them wait for SQLite's one write lock in its busy handler, which
    sleeps: measured with 64 callers 650 calls/s and a p99 of 280 ms, against 1,000 and 80 ms with one connection.
    """
    database = create_company_file(directory, tasks)
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{database}", pool_size=pool_size, max_overflow=max_overflow
    )
    event.listen(engine.sync_engine, "connect", _set_synchronous)
    try:
        yield SQLAlchemyStore(engine, database)
    finally:
        await engine.dispose()


def _set_synchronous(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
