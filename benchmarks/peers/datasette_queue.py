"""Datasette in the process: `execute_write`, a queue with a transaction for each call, and `execute` for reads."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from datasette.app import Datasette
from datasette.database import Database

from benchmarks.peers import DURABILITY_SQL, Durability, count_messages, create_company_file
from benchmarks.peers.message_row import INSERT, row_of
from benchmarks.peers.task_row import GET, decode_task
from tenantry.company import Message, Task


class DatasetteStore:
    """One database of a Datasette in this process."""

    def __init__(self, database: Database, path: Path) -> None:
        self._database = database
        self._path = path

    async def save(self, message: Message) -> None:
        """See `CompanyStore.save`."""
        await self._database.execute_write(INSERT, row_of(message))

    async def get(self, task_id: str) -> Task | None:
        """See `CompanyStore.get`."""
        row = (await self._database.execute(GET, (task_id,))).first()
        return None if row is None else decode_task(row)

    async def durability(self) -> Durability:
        """See `CompanyStore.durability`."""
        row = await self._database.execute_write_fn(_read_durability, transaction=False)
        return Durability(*row)

    def stored_messages(self) -> int:
        """See `CompanyStore.stored_messages`."""
        return count_messages(self._path)


@asynccontextmanager
async def open_datasette(directory: Path, tasks: Sequence[Task]) -> AsyncIterator[DatasetteStore]:
    """Start Datasette on the file, without its HTTP side."""
    path = create_company_file(directory, tasks)
    datasette = Datasette([str(path)])
    await datasette.invoke_startup()
    database = datasette.get_database(path.stem)
    await database.execute_write_fn(_set_synchronous, transaction=False)
    try:
        yield DatasetteStore(database, path)
    finally:
        datasette.close()


def _set_synchronous(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")


def _read_durability(connection: sqlite3.Connection) -> tuple[str, int]:
    return tuple(connection.execute(DURABILITY_SQL).fetchone())
