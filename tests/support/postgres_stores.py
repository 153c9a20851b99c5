"""Stores of tenants on a PostgreSQL server, and statements for them.

Import it by name (``tests/support`` is on pytest's path): ``from postgres_stores import open_pool``.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from postgres_servers import Database
from stores import HANG_SECONDS
from tenantry.clock import SystemClock
from tenantry.company import COMPANY
from tenantry.eventlog import EventLog
from tenantry.postgres_config import PostgresConfig
from tenantry.schemas.schema import Schema
from tenantry.sql.statements import Fetch, Statement, TupleRow
from tenantry.storage.postgres.connections.pool import ConnectionPool
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.statements.head import session_settings
from tenantry.storage.postgres.store import PostgresStore, PostgresStoreOptions

STATEMENT_SECONDS_MAX = 60.0

_numbers = itertools.count()


@dataclass(frozen=True)
class Stores:
    """Makes stores on one database."""

    pool: ConnectionPool
    settings: dict[str, str]

    def make(self, schemas: Sequence[Schema] = (COMPANY,), **options: Any) -> PostgresStore:
        """Return a disconnected store of a new tenant."""
        name = f"tenant_{next(_numbers)}"
        options = {"owner": Owner(name, f"uid-{name}", name), "is_new": True} | options
        return self._make(PostgresStoreOptions(settings=self.settings, **options), schemas)

    def again(self, store: PostgresStore, **options: Any) -> PostgresStore:
        """Return another disconnected store of the same tenant, as another process has it."""
        return self._make(replace(store._options, is_new=False, **options), store._schemas)

    def _make(self, options: PostgresStoreOptions, schemas: Sequence[Schema]) -> PostgresStore:
        return PostgresStore(
            options, schemas, connections=self.pool, copy=_no_copy, clock=SystemClock(), log=EventLog()
        )


def run(sql: str, *parameters: object, fetch: Fetch = Fetch.NONE) -> Statement:
    """Return a statement."""
    return Statement("test.run", sql, parameters, fetch)


async def rows(store: PostgresStore, sql: str, *parameters: object) -> list[TupleRow]:
    """Return what a query finds."""
    (found,) = await store.read([run(sql, *parameters, fetch=Fetch.ALL)])
    assert isinstance(found, list), found
    return found


async def admin(database: Database, sql: str) -> list[TupleRow]:
    """Run a statement on a connection of its own, around a pooler; return its rows."""
    async with await psycopg.AsyncConnection.connect(database.direct_url, autocommit=True) as connection:
        cursor = await connection.execute(sql.encode())
        return await cursor.fetchall() if cursor.description else []


async def until(
    database: Database, sql: str, is_wanted: Callable[[list[TupleRow]], object] = bool
) -> list[TupleRow]:
    """Run a query again and again until its rows are wanted, by default until there are any; return them."""
    async with asyncio.timeout(HANG_SECONDS):
        while not is_wanted(found := await admin(database, sql)):
            pass
    return found


@asynccontextmanager
async def open_stores(database: Database, connections_max: int = 8) -> AsyncIterator[Stores]:
    """Open a pool on a database."""
    config = PostgresConfig.model_validate(database.url)
    settings = session_settings(STATEMENT_SECONDS_MAX)
    pool = ConnectionPool.of(config, connections_max=connections_max, session=settings)
    try:
        yield Stores(pool, settings if config.is_pooled else {})
    finally:
        await pool.aclose()


async def _no_copy(_: Path) -> None:
    raise AssertionError("this store is not copied")
