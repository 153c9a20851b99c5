"""What the tests of storage share: stores and back ends, statements for them, and a look at a file from outside.

Import it by name (``tests`` is on pytest's path): ``from stores import make_store``.
"""

import asyncio
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from engines import engine_module
from needs import need
from tenantry.clock import SystemClock
from tenantry.company import COMPANY
from tenantry.eventlog import EventLog
from tenantry.schemas.schema import Schema
from tenantry.sql.statements import Fetch, Statement, TupleRow
from tenantry.storage import PersistenceBackend, PersistenceConfig, SQLiteConfig, create_backend
from tenantry.storage.protocol import Store
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.thread_pool import ThreadPools
from tenantry.storage.sqlite.database_files.ownership import FileOwnership
from tenantry.storage.sqlite.store import SQLiteStore

StoreT = TypeVar("StoreT", bound=Store)

HANG_SECONDS = 60.0
"""When a wait for something that never comes is given up. Nothing is measured with it."""

OPTIONS: dict[str, Callable[[Path], SQLiteOptions]] = {
    "file": lambda directory: SQLiteOptions(path=directory / "wal.db"),
    "memory": lambda _: SQLiteOptions(path=None, is_read_by_writer=True),
    "rollback-journal": lambda directory: SQLiteOptions(
        path=directory / "journal.db", is_wal=False, is_read_by_writer=True
    ),
}
"""The kinds of SQLite database; they differ in nothing else."""

MakePack = Callable[..., Schema]
"""Makes a schema pack of these migrations: the fixture `make_pack`."""

COUNT_TO_A_BILLION = (
    "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000000000) "
    "SELECT COUNT(*) FROM numbers"
)
"""A statement that would run for minutes: a test that ends interrupted it."""


class StubbornConnection(sqlite3.Connection):
    """Refuses to close, the first time."""

    _has_refused = False

    def close(self) -> None:
        """Fail once."""
        if not self._has_refused:
            self._has_refused = True
            raise sqlite3.OperationalError("disk I/O error")
        super().close()


def make_store(
    options: SQLiteOptions,
    schemas: Sequence[Schema] = (COMPANY,),
    *,
    ownership: FileOwnership | None = None,
) -> SQLiteStore:
    """Return a disconnected store."""
    thread_pools = ThreadPools.of(write_threads=1, read_threads=2, engine=engine_module())
    return SQLiteStore(
        options, schemas, clock=SystemClock(), log=EventLog(), thread_pools=thread_pools, ownership=ownership
    )


@asynccontextmanager
async def connected(store: StoreT, *tables: str) -> AsyncIterator[StoreT]:
    """Connect a store, with tables of a test's own."""
    await store.connect()
    try:
        await store.migrate()
        for table in tables:
            assert await store.write([(run(table),)]) == [[None]]
        yield store
    finally:
        await store.disconnect()


def open_store(options: SQLiteOptions, *tables: str) -> AbstractAsyncContextManager[SQLiteStore]:
    """Open a store of a file, with tables of a test's own."""
    return connected(make_store(options), *tables)


def make_backend(path: Path | str, **settings: Any) -> PersistenceBackend:
    """Return a disconnected back end."""
    return create_backend(
        PersistenceConfig(backend="sqlite", sqlite=SQLiteConfig(path=str(path), **settings))
    )


def open_backend(path: Path | str, **settings: Any) -> AbstractAsyncContextManager[PersistenceBackend]:
    """Open a back end of a file, migrated."""
    return migrated(make_backend(path, **settings))


@asynccontextmanager
async def migrated(backend: PersistenceBackend) -> AsyncIterator[PersistenceBackend]:
    """Connect and migrate a back end."""
    await backend.connect()
    try:
        await backend.migrate()
        yield backend
    finally:
        await backend.disconnect()


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a file system of so many bytes. A test that may not mount one is skipped, or fails if ``CI`` is set."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=False, capture_output=True
    )
    need(mounted.returncode == 0, "needs the right to mount a small tmpfs: run the tests as root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def left_open(path: Path, sql: str) -> None:
    """Write to a database as a process does that is killed: its log stays beside it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(sql)
    logs = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("-wal", "-shm")}
    whole = path.read_bytes()
    connection.close()
    path.write_bytes(whole)
    for suffix, log in logs.items():
        Path(f"{path}{suffix}").write_bytes(log)


def run(sql: str, *parameters: object) -> Statement:
    """Return a statement that gives nothing back."""
    return Statement("test.run", sql, parameters)


def rows(sql: str, *parameters: object) -> Statement:
    """Return a statement that gives rows."""
    return Statement("test.rows", sql, parameters, Fetch.ALL)


async def read_rows(store: SQLiteStore, sql: str) -> list[TupleRow]:
    """Return what a query finds through the store's readers."""
    (found,) = await store.read([rows(sql)])
    assert isinstance(found, list), found
    return found


def content(path: Path) -> list[str]:
    """Return all that a database holds, as SQL and with its version, read without tenantry."""
    with closing(sqlite3.connect(path)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        return [f"-- version {version}", *connection.iterdump()]


async def reached(condition: Callable[[], object]) -> None:
    """Let others run until the condition holds."""
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():  # noqa: ASYNC110  # it is another thread that makes it true
            await asyncio.sleep(0)


def make_owned_store(data_dir: Path, *, uid: str = "uid-1", must_exist: bool = False) -> SQLiteStore:
    """Return a disconnected store of a tenant's database, with its lock beside it."""
    directory = data_dir / "tenants" / "acme"
    options = SQLiteOptions(path=directory / "tenant.db", root=data_dir, must_exist=must_exist)
    return make_store(options, ownership=FileOwnership(directory / "lock", uid, "acme"))


@asynccontextmanager
async def open_owned_store(data_dir: Path, **settings: Any) -> AsyncIterator[SQLiteStore]:
    """Open a tenant's database, migrated."""
    store = make_owned_store(data_dir, **settings)
    await store.connect()
    try:
        await store.migrate()
        yield store
    finally:
        await store.disconnect()


async def migrate(path: Path, *schemas: Schema, is_wal: bool = True) -> list[str]:
    """Migrate the file; return what was applied."""
    store = make_store(SQLiteOptions(path=path, is_wal=is_wal), schemas)
    await store.connect()
    try:
        return [str(migration) for migration in (await store.migrate()).applied]
    finally:
        await store.disconnect()
