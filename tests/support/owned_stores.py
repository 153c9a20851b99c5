"""Stores of a tenant's file, with its owner but without a registry."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines import engine_module
from stores import rows
from tenantry.clock import SystemClock
from tenantry.company import COMPANY
from tenantry.eventlog import EventLog
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.thread_pool import ThreadPools
from tenantry.storage.sqlite.database_files.ownership import FileOwnership
from tenantry.storage.sqlite.store import SQLiteStore

COUNT = rows("SELECT n FROM t ORDER BY n")


def make_owned(
    directory: Path, schemas: Sequence[Schema] = (COMPANY,), *, must_exist: bool = False, **options: Any
) -> SQLiteStore:
    """Return a disconnected store of a tenant's file, which the engine may open if it must exist; see `SQLiteOptions`."""
    return SQLiteStore(
        SQLiteOptions(path=directory / "tenant.db", root=directory.parent, must_exist=must_exist, **options),
        schemas,
        clock=SystemClock(),
        log=EventLog(),
        thread_pools=ThreadPools.of(write_threads=1, read_threads=1, engine=engine_module()),
        ownership=FileOwnership(directory / "lock", "uid", "acme"),
    )


def is_open_for_reading(store: SQLiteStore) -> bool:
    """Return whether it has no writer."""
    return store._connections.immutable_reader is not None and store._connections.writer is None


async def numbers(store: SQLiteStore) -> list[int]:
    """Return what is in the table."""
    (found,) = await store.read([COUNT])
    return [n for (n,) in found]
