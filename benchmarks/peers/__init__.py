"""The sides, one module each: tenantry, its peers, and the limit. They share two small protocols and one schema."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from benchmarks.peers.task_row import UPSERT, task_row
from tenantry.company import COMPANY, Message, Task

DURABILITY_SQL = "SELECT journal_mode, synchronous FROM pragma_journal_mode, pragma_synchronous"
"""Read back on the connection that writes: ``synchronous`` is a connection's own, not the file's."""

WRITER_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA foreign_keys = ON",
)
"""What tenantry sets on a writer, so that opening costs a peer the same."""


class Durability(NamedTuple):
    """What decides whether an acknowledged write survives a loss of power: ``wal`` and 2, which is FULL."""

    journal_mode: str
    synchronous: int

    @property
    def is_durable(self) -> bool:
        """Whether it does."""
        return self == ("wal", 2)


class PostgresDurability(NamedTuple):
    """The same of a PostgreSQL server, as a session of its own sees it."""

    fsync: str
    synchronous_commit: str
    full_page_writes: str

    @property
    def is_durable(self) -> bool:
        """Whether it does."""
        return self == ("on", "on", "on")


class CompanyStore(Protocol):
    """One tenant's data, open: many callers at once, and what it acknowledged is durable."""

    async def save(self, message: Message) -> None:
        """Append the message; durable when this returns."""
        ...

    async def get(self, task_id: str) -> Task | None:
        """Return the task, validated."""
        ...

    async def durability(self) -> Durability | PostgresDurability:
        """Return what was read back on a connection that writes."""
        ...

    def stored_messages(self) -> int:
        """Count the messages on a new connection; called when the store is closed."""
        ...


class OpenStore(Protocol):
    """Opens a side with these tasks on a new database; a database in a file lies in the directory, which is empty."""

    def __call__(self, directory: Path, tasks: Sequence[Task]) -> AbstractAsyncContextManager[CompanyStore]:
        """See the class."""
        ...


class FleetStore(Protocol):
    """Many tenants' data, open or opened as calls come; see `CompanyStore`."""

    async def save(self, tenant: str, message: Message) -> None:
        """Append the message; durable when this returns."""
        ...

    async def get(self, tenant: str, task_id: str) -> Task | None:
        """Return the task, validated."""
        ...

    async def durability(self, tenant: str) -> Durability:
        """Return what was read back on the connection that writes."""
        ...


OpenFleet: TypeAlias = Callable[[Any], AbstractAsyncContextManager[FleetStore]]
"""Opens a side on a `benchmarks.fleet.Fleet`."""


def create_company_file(directory: Path, tasks: Sequence[Task] = ()) -> Path:
    """Make a database like a tenant's: in WAL mode, with tenantry's own migrations and so the same indexes."""
    path = directory / "company.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for migration in COMPANY.migrations("sqlite"):
            connection.executescript(migration.sql)
    fill_tasks(path, tasks)
    return path


def fill_tasks(path: Path, tasks: Sequence[Task]) -> None:
    """Put tasks into a database that nobody has open."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(UPSERT, map(task_row, tasks))
        connection.commit()


def count_messages(database: Path) -> int:
    """Count the rows of a closed database."""
    with closing(sqlite3.connect(database)) as connection:
        rows: int = connection.execute("SELECT count(*) FROM messages").fetchone()[0]
    return rows
