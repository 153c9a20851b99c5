"""Back ends on a PostgreSQL server, tenants with notes, and processes that write notes or restore them.

Import it by name (``tests/support`` is on pytest's path): ``from postgres_tenants import make_backend``. As a program it is one of
those processes; see `main`.
"""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from tenantry import RegistryConfig
from tenantry.clock import SystemClock
from tenantry.errors import TenantOwnedElsewhereError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.ids import parse_tenant_id
from tenantry.limits import TenantLimits
from tenantry.postgres_config import PostgresConfig
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.postgres.backend import PostgresBackend
from tenantry.storage.postgres.copies import new_schema
from tenantry.storage.postgres.store import PostgresStore
from tenantry.storage.postgres.tenant_schemas import closed_database
from tenantry.storage.protocol import Place

UID: Final = "0123456789abcdef0123456789abcdef"
ACME: Final = parse_tenant_id("acme")
PLACE: Final = Place(ACME, UID, "tenant_acme")

CRASHES: Final[dict[str, tuple[Any, str]]] = {
    "before-the-schema": (new_schema, "_begin"),
    "before-the-tables": (new_schema, "_migrate"),
    "before-the-rows": (new_schema, "_fill"),
    "before-the-rows-are-committed": (new_schema, "copy_in"),
    "before-the-epoch": (closed_database, "_raise_epoch"),
    "before-the-exchange": (closed_database, "_exchange"),
    "before-the-first-rename": (closed_database, "free_point_schema"),
    "between-the-renames": (closed_database, "_set_epoch"),
}
"""The functions at whose beginning a restoring process dies; see `main`."""


def make_backend(url: str, directory: Path, **config: Any) -> PostgresBackend:
    """Return a back end without packs on a database; it is not open."""
    return PostgresBackend(
        RegistryConfig(data_dir=directory, **config),
        [],
        name="postgres",
        database=PostgresConfig.model_validate(url),
        clock=SystemClock(),
        log=EventLog(),
    )


@asynccontextmanager
async def opened(url: str, directory: Path, **config: Any) -> AsyncIterator[PostgresBackend]:
    """Open a back end for the block."""
    backend = make_backend(url, directory, **config)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.aclose()


@asynccontextmanager
async def connected(
    backend: PostgresBackend, place: Place = PLACE, *, is_new: bool = False
) -> AsyncIterator[PostgresStore]:
    """Connect a tenant's store for the block."""
    store = backend.store(place, limits=TenantLimits(), log=EventLog(), is_new=is_new)
    await store.connect()
    try:
        yield store
    finally:
        await store.disconnect()


async def write(store: PostgresStore, sql: str, *parameters: object) -> None:
    """Run one statement; raise its error."""
    (outcome,) = await store.write([(Statement("test.write", sql, parameters),)])
    if isinstance(outcome, TenantryError):
        raise outcome


async def read(store: PostgresStore, sql: str) -> list[Any]:
    """Return the first column of a query; raise its error."""
    (rows,) = await store.read([Statement("test.read", sql, (), Fetch.ALL)])
    if isinstance(rows, TenantryError):
        raise rows
    return [row[0] for row in rows]


async def create(backend: PostgresBackend, place: Place = PLACE) -> None:
    """Create a tenant of generation 1 without notes."""
    async with connected(backend, place, is_new=True) as store:
        await write(store, "CREATE TABLE notes (body text PRIMARY KEY)")
        await write(store, "CREATE TABLE generation (number bigint PRIMARY KEY)")
        await write(store, "INSERT INTO generation VALUES (1)")


@asynccontextmanager
async def connected_after_creating(backend: PostgresBackend) -> AsyncIterator[PostgresStore]:
    """Create the tenant, and connect its store for the block."""
    await create(backend)
    async with connected(backend) as store:
        yield store


@contextmanager
def changed(path: Path) -> Iterator[sqlite3.Connection]:
    """Change a copy in the block."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


async def copy(backend: PostgresBackend, path: Path, *, generation: int) -> Path:
    """Return a copy of the tenant that is a generation of its own, without notes."""
    async with connected(backend) as store:
        await store.copy_to(path)
    with changed(path) as connection:
        connection.execute("UPDATE generation SET number = ?", (generation,))
        connection.execute("DELETE FROM notes")
    await backend.prepare(path)
    return path


async def restore(backend: PostgresBackend, point: str, path: Path) -> None:
    """Restore a prepared copy."""
    await backend.points(PLACE).stage(point, path)
    async with backend.exclusive(PLACE) as closed:
        await closed.keep(point, is_as_found=False)
        await closed.exchange(point)


async def waiting(url: str, count: int) -> None:
    """Return when this number of connections waits for another transaction."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        # The server has no event for a connection that begins to wait.
        while await (await connection.execute(query)).fetchone() != (count,):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@contextmanager
def process(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """Run `main` in another process, which ends at the latest with the block."""
    line = [sys.executable, __file__, *map(str, arguments)]
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as running:
        try:
            yield running
        finally:
            running.kill()


async def _write_notes(url: str, directory: Path, name: str) -> None:
    """Write notes until the input ends, and print each acknowledged note with the generation of the store that wrote it."""
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    number = 0
    async with opened(url, directory) as backend:
        while not ended.done():
            try:
                async with connected(backend) as store:
                    (generation,) = await read(store, "SELECT number FROM generation")
                    while not ended.done():
                        bodies = [f"{name}-{number + i}" for i in range(8)]
                        number += 8
                        outcomes = await store.write(
                            [(Statement("note", "INSERT INTO notes VALUES (?)", (body,)),) for body in bodies]
                        )
                        for body, outcome in zip(bodies, outcomes, strict=True):
                            if not isinstance(outcome, TenantryError):
                                sys.stdout.write(json.dumps([body, generation]) + "\n")
                        sys.stdout.flush()
            except TenantOwnedElsewhereError:
                continue


async def _restore_and_die(url: str, directory: Path, path: Path, point: str, where: str) -> None:
    """Restore a copy, and die without any cleaning up."""
    module, name = CRASHES[where]
    works: Callable[..., Any] = getattr(module, name)

    def die(*arguments: Any, **options: Any) -> Any:
        # The stores' transactions use the same function before the step.
        if where == "before-the-rows-are-committed":
            works(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, die)
    async with opened(url, directory) as backend:
        await restore(backend, point, path)


async def _hold(url: str, directory: Path) -> None:
    """Hold a lock and the tenant until the process is killed."""
    async with opened(url, directory) as backend, backend.lock("job"), backend.exclusive(PLACE):
        sys.stdout.write("held\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """Write notes (``write URL DIRECTORY NAME``), hold locks (``hold URL DIRECTORY``), or die in a restore (``die URL DIRECTORY COPY POINT WHERE``)."""
    EventLog.is_quiet = True
    kind, url, directory, *rest = sys.argv[1:]
    if kind == "write":
        asyncio.run(_write_notes(url, Path(directory), rest[0]))
    elif kind == "hold":
        asyncio.run(_hold(url, Path(directory)))
    else:
        asyncio.run(_restore_and_die(url, Path(directory), Path(rest[0]), rest[1], rest[2]))


if __name__ == "__main__":
    main()
