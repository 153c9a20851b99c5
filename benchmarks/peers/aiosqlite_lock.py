"""aiosqlite as most services use it: one connection, and a lock around execute and commit."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

from benchmarks.peers import (
    DURABILITY_SQL,
    WRITER_PRAGMAS,
    Durability,
    count_messages,
    create_company_file,
)
from benchmarks.peers.message_row import INSERT, row_of
from benchmarks.peers.task_row import GET, decode_task
from tenantry.company import Message, Task


class AiosqliteStore:
    """One connection behind a lock."""

    def __init__(self, connection: aiosqlite.Connection, database: Path) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()
        self._database = database

    async def save(self, message: Message) -> None:
        """See `CompanyStore.save`."""
        row = row_of(message)
        # Without the lock one caller's commit would commit, or its rollback undo, another's insert.
        async with self._lock:
            await self._connection.execute(INSERT, row)
            await self._connection.commit()

    async def get(self, task_id: str) -> Task | None:
        """See `CompanyStore.get`; a cursor and its row, two jobs on the connection's thread and one to close it."""
        async with self._connection.execute(GET, (task_id,)) as cursor:
            row = await cursor.fetchone()
        return None if row is None else decode_task(row)

    async def durability(self) -> Durability:
        """See `CompanyStore.durability`."""
        (row,) = await self._connection.execute_fetchall(DURABILITY_SQL)
        return Durability(*row)

    def stored_messages(self) -> int:
        """See `CompanyStore.stored_messages`."""
        return count_messages(self._database)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.close()


class FetchallStore(AiosqliteStore):
    """The same with aiosqlite's shortcut for reads: one job on the connection's thread."""

    async def get(self, task_id: str) -> Task | None:
        """See `CompanyStore.get`."""
        rows = await self._connection.execute_fetchall(GET, (task_id,))
        return next(map(decode_task, rows), None)


async def connect(database: Path) -> aiosqlite.Connection:
    """Return a connection with the pragmas of a tenant's writer."""
    connection = await aiosqlite.connect(database)
    for pragma in WRITER_PRAGMAS:
        await connection.execute(pragma)
    return connection


@asynccontextmanager
async def open_aiosqlite(
    directory: Path, tasks: Sequence[Task], *, store_type: type[AiosqliteStore] = AiosqliteStore
) -> AsyncIterator[AiosqliteStore]:
    """Open the connection."""
    database = create_company_file(directory, tasks)
    store = store_type(await connect(database), database)
    try:
        yield store
    finally:
        await store.aclose()
