"""Sessions on tenants of a PostgreSQL server, for tests that need no registry.

Import it by name (``tests/support`` is on pytest's path): ``from postgres_sessions import open_session``.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from postgres_servers import Database
from postgres_stores import open_stores
from stores import run
from tenantry.eventlog import EventLog
from tenantry.schemas.schema import Schema
from tenantry.storage.standalone import StoreSession


@asynccontextmanager
async def open_session(
    database: Database, *tables: str, schemas: Sequence[Schema] = ()
) -> AsyncIterator[StoreSession]:
    """Open a new tenant with tables of a test's own and those of the packs."""
    async with open_stores(database) as stores:
        store = stores.make(schemas)
        await store.connect()
        try:
            await store.migrate()
            for table in tables:
                assert await store.write([(run(table),)]) == [[None]]
            yield StoreSession(store, EventLog())
        finally:
            await store.disconnect()
