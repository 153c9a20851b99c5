"""aiosqlitepool: a pool of aiosqlite connections to one file."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from aiosqlitepool import SQLiteConnectionPool

from benchmarks.peers import DURABILITY_SQL, Durability, count_messages, create_company_file
from benchmarks.peers.aiosqlite_lock import connect
from benchmarks.peers.message_row import INSERT, row_of
from benchmarks.peers.task_row import GET, decode_task
from tenantry.company import Message, Task


class PoolStore:
    """A pool; each call takes a connection out of it."""

    def __init__(self, pool: SQLiteConnectionPool, database: Path) -> None:
        self._pool = pool
        self._database = database

    async def save(self, message: Message) -> None:
        """See `CompanyStore.save`."""
        row = row_of(message)
        async with self._pool.connection() as connection:
            await connection.execute(INSERT, row)
            await connection.commit()

    async def get(self, task_id: str) -> Task | None:
        """See `CompanyStore.get`."""
        async with self._pool.connection() as connection:
            rows = await connection.execute_fetchall(GET, (task_id,))
        return next(map(decode_task, rows), None)

    async def durability(self) -> Durability:
        """See `CompanyStore.durability`."""
        async with self._pool.connection() as connection:
            (row,) = await connection.execute_fetchall(DURABILITY_SQL)
        return Durability(*row)

    def stored_messages(self) -> int:
        """See `CompanyStore.stored_messages`."""
        return count_messages(self._database)


@asynccontextmanager
async def open_pool(
    directory: Path, tasks: Sequence[Task], *, pool_size: int = 1
) -> AsyncIterator[PoolStore]:
    """Open the pool; with more than one connection writers wait in SQLite's busy handler, which sleeps."""
    database = create_company_file(directory, tasks)
    async with SQLiteConnectionPool(partial(connect, database), pool_size=pool_size) as pool:
        yield PoolStore(pool, database)
