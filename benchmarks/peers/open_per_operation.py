"""What Bluesky's PDS does: for every operation connect, set the pragmas, do it, close. No limit to get wrong."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

from benchmarks.fleet import Fleet
from benchmarks.peers import DURABILITY_SQL, Durability, count_messages, create_company_file
from benchmarks.peers.aiosqlite_lock import connect
from benchmarks.peers.message_row import INSERT, row_of
from benchmarks.peers.task_row import GET, decode_task
from tenantry.company import Message, Task


class OpenPerOperationStore:
    """One file, and a connection for each call."""

    def __init__(self, database: Path) -> None:
        self._database = database

    async def save(self, message: Message) -> None:
        """See `CompanyStore.save`."""
        row = row_of(message)
        async with _connected(self._database) as connection:
            await connection.execute(INSERT, row)
            await connection.commit()

    async def get(self, task_id: str) -> Task | None:
        """See `CompanyStore.get`."""
        async with _connected(self._database) as connection:
            rows = await connection.execute_fetchall(GET, (task_id,))
        return next(map(decode_task, rows), None)

    async def durability(self) -> Durability:
        """See `CompanyStore.durability`."""
        async with _connected(self._database) as connection:
            (row,) = await connection.execute_fetchall(DURABILITY_SQL)
        return Durability(*row)

    def stored_messages(self) -> int:
        """See `CompanyStore.stored_messages`."""
        return count_messages(self._database)


class OpenPerOperationFleet:
    """Many files, and a connection for each call."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def save(self, tenant: str, message: Message) -> None:
        """See `FleetStore.save`."""
        await self._store(tenant).save(message)

    async def get(self, tenant: str, task_id: str) -> Task | None:
        """See `FleetStore.get`."""
        return await self._store(tenant).get(task_id)

    async def durability(self, tenant: str) -> Durability:
        """See `FleetStore.durability`."""
        return await self._store(tenant).durability()

    def _store(self, tenant: str) -> OpenPerOperationStore:
        return OpenPerOperationStore(self._fleet.database(tenant))


@asynccontextmanager
async def open_per_operation(directory: Path, tasks: Sequence[Task]) -> AsyncIterator[OpenPerOperationStore]:
    """Make the file; nothing is opened."""
    yield OpenPerOperationStore(create_company_file(directory, tasks))


@asynccontextmanager
async def open_fleet_per_operation(fleet: Fleet) -> AsyncIterator[OpenPerOperationFleet]:
    """Open nothing."""
    yield OpenPerOperationFleet(fleet)


@asynccontextmanager
async def _connected(database: Path) -> AsyncIterator[aiosqlite.Connection]:
    connection = await connect(database)
    try:
        yield connection
    finally:
        await connection.close()
