"""The type of the checks of a `Store`, and the table and statements that these checks share."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from tenantry.sql.row import Columns, Row
from tenantry.sql.statements import Fetch, Sql, Statement, TupleRow
from tenantry.storage import Store
from tenantry.storage.protocol import KeyedRequest, Request
from tenantry.testing.conformance.expectations import expect

MakeStore: TypeAlias = Callable[[], Store]
"""Returns a new, disconnected store with at least one schema, on an empty database that no other store uses."""

StoreCheck: TypeAlias = Callable[[MakeStore], Awaitable[None]]

CALLERS: Final = 20
SELECT: Final = "SELECT id, n FROM conformance ORDER BY id"
_TABLE: Final = "CREATE TABLE conformance (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL)"


def insert(row_id: object, n: object = 0, fetch: Fetch = Fetch.NONE) -> Statement:
    """Return the statement that inserts a row."""
    return Statement(
        "conformance.insert", "INSERT INTO conformance (id, n) VALUES (?, ?)", (row_id, n), fetch
    )


def run(sql: str | Sql, *parameters: object, fetch: Fetch = Fetch.NONE) -> Statement:
    """Return a statement with the given SQL."""
    return Statement("conformance.run", sql, parameters, fetch)


def select(fetch: Fetch = Fetch.ALL) -> Statement:
    """Return the statement that reads all rows in the order of their ids."""
    return Statement("conformance.select", SELECT, (), fetch)


def named(*rows: TupleRow) -> list[Row]:
    """Return rows of `SELECT` as `Row` objects."""
    columns = Columns(("id", "n"))
    return [Row(columns, values) for values in rows]


def pair(row_id: int) -> Request:
    """Return the unit that inserts two rows, with the ids `row_id` and `-row_id`."""
    return insert(row_id), insert(-row_id)


def keyed(request: Request, *, payload_hash: bytes = b"1", after_seconds: float = 0.0) -> KeyedRequest:
    """Return a unit with an idempotency key that is kept for a minute."""
    now = datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=after_seconds)
    return KeyedRequest(
        request, key="key", payload_hash=payload_hash, now=now, kept_since=now - timedelta(minutes=1)
    )


async def ids(store: Store) -> list[int]:
    """Return the ids of all rows."""
    (rows,) = await store.read([select()])
    assert isinstance(rows, list), rows
    return [row[0] for row in rows]


@asynccontextmanager
async def connected(make_store: MakeStore) -> AsyncIterator[Store]:
    """Yield a new, connected store, after creating the table that the checks use."""
    store = make_store()
    try:
        await store.connect()
        await store.migrate()
        expect(await store.write([(run(_TABLE),)]), [[None]])
        yield store
    finally:
        await store.disconnect()
