"""A tenant's file that the engine has opened at rest, and that another program changes then: each read says what Python's store says."""

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from engine_oracle import Oracle, described, store_with
from engine_rig import counted, needed_engine
from stores import rows, run
from tenantry.company import COMPANY
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.database_files.ownership import FileOwnership
from tenantry.storage.sqlite.store import SQLiteStore

COUNT = rows("SELECT COUNT(*), TOTAL(n) FROM kept")
SUM = rows("SELECT exact_sum(n) FROM kept")
"""The engine does not know this function, so Python reads."""


def has_log(path: Path) -> bool:
    """Return whether a log is beside the database, as beside one that is open for writing."""
    return Path(f"{path}-wal").exists()


def owned_store(engine: Any, data_dir: Path) -> SQLiteStore:
    """Return a disconnected store of a tenant's database below the directory."""
    directory = data_dir / "tenants" / "acme"
    data_dir.mkdir(exist_ok=True)
    options = SQLiteOptions(path=directory / "tenant.db", root=data_dir, must_exist=directory.exists())
    ownership = FileOwnership(directory / "lock", "uid-1", "acme")
    return store_with(engine, options, [COMPANY], ownership=ownership)


@asynccontextmanager
async def at_rest(engine: Any, data_dir: Path) -> AsyncIterator[tuple[SQLiteStore, Path]]:
    """Write a tenant's database, close it, and open it for reading."""
    store = owned_store(None, data_dir)
    await store.connect()
    await store.migrate()
    await store.write([(run("CREATE TABLE kept (n, wide)"),)])
    await store.write([(run("INSERT INTO kept VALUES (?, zeroblob(3000))", n),) for n in range(20)])
    await store.disconnect()
    Oracle.know([COUNT, SUM])
    store = owned_store(engine, data_dir)
    await store.connect()
    path = data_dir / "tenants" / "acme" / "tenant.db"
    assert not has_log(path)
    try:
        yield store, path
    finally:
        await store.disconnect()


def replace(path: Path, n: int) -> None:
    """Put another database at the path."""
    with closing(sqlite3.connect(f"{path}.new", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE kept (n)")
        connection.execute("INSERT INTO kept VALUES (?)", (n,))
    Path(f"{path}.new").rename(path)


def insert(path: Path) -> None:
    """Write to the database as another program does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO kept (n) VALUES (1000)")


CHANGES: dict[str, Callable[[Path], object]] = {
    "unchanged": lambda _: None,
    "removed": lambda path: path.unlink(),
    "removed with its directory": lambda path: shutil.rmtree(path.parent),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "no database": lambda path: path.write_bytes(b"x" * 8192),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: path.symlink_to(path.rename(f"{path}.moved")),
    "replaced": lambda path: replace(path, 7),
    "written": insert,
    "with a broken log": lambda path: Path(f"{path}-wal").write_bytes(b"x" * 5000),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("is_read_before", [False, True], ids=["first read", "read before"])
async def test_changed_file(tmp_path: Path, change: Callable[[Path], object], *, is_read_before: bool):
    """Both stores give the same results, or the same errors: a damaged file is reported as damaged."""
    outcomes = []
    for engine in (None, needed_engine()):
        data_dir = tmp_path / "data"
        async with at_rest(engine, data_dir) as (store, path):
            if is_read_before:
                await store.read([SUM])
            change(path)
            outcomes.append([await outcome_of(store, statement) for statement in (COUNT, SUM, COUNT)])
        shutil.rmtree(data_dir)
    assert outcomes[1] == outcomes[0]


async def outcome_of(store: SQLiteStore, statement: Any) -> Any:
    """Return the result of a read, or the error, in a form that can be compared."""
    try:
        return described(await store.read([statement]))
    except Exception as error:  # noqa: BLE001  # compared
        return described(error)


async def test_a_file_that_was_away(tmp_path: Path):
    """A read of another file, which was at the path for a while, leaves nothing behind."""
    async with at_rest(needed_engine(), tmp_path / "data") as (store, path):
        away = move_away(path)
        replace(path, 7)
        assert await store.read([SUM]) == [[(7.0,)]]
        away.rename(path)
        assert await store.read([SUM]) == [[(190.0,)]]
        with counted(needed_engine(), ended=1):
            assert await store.read([COUNT]) == [[(20, 190.0)]]


def move_away(path: Path) -> Path:
    """Move the database, and return its new path."""
    return path.rename(f"{path}.away")
