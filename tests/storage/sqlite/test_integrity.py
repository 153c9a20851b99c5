"""The look for damage: beside a tenant's calls, on files that nobody has open, and cut short."""

# ruff: noqa: ASYNC240  # tests look at files in between; nobody waits for them

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stores import COUNT_TO_A_BILLION, content, make_owned_store, open_owned_store, reached, rows, run
from tenantry.errors import DatabaseCorruptError, PersistenceConnectionError, SnapshotError
from tenantry.storage.sqlite.maintenance import integrity, maintenance
from tenantry.storage.sqlite.store import SQLiteStore

pytestmark = pytest.mark.usefixtures("each_engine")

PAGE_BYTES = 4096


@pytest.fixture
def database(data_dir: Path) -> Path:
    """Where the tenant's database is."""
    return data_dir / "tenants" / "acme" / "tenant.db"


@pytest.fixture
async def store(data_dir: Path) -> AsyncIterator[SQLiteStore]:
    """An open database with some pages of rows and an index on them."""
    data_dir.mkdir()
    async with open_owned_store(data_dir) as opened:
        await opened.write(
            [
                (run("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)"),),
                (run("CREATE INDEX notes_text ON notes (text) WHERE id > 10"),),
            ]
        )
        await opened.write([(run("INSERT INTO notes VALUES (?, ?)", n, "x" * 1000),) for n in range(300)])
        yield opened


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Make every check one that runs for minutes; return the connections that it began on."""
    begun: list[Any] = []

    def count(connection: Any, **_: object) -> None:
        begun.append(connection)
        connection.execute(COUNT_TO_A_BILLION).fetchone()

    monkeypatch.setattr(integrity, "check_connection", count)
    return begun


def spoil_last_page(path: Path) -> None:
    """Overwrite the last page of a database."""
    with path.open("r+b") as file:
        file.seek(-PAGE_BYTES, os.SEEK_END)
        file.write(b"\xa5" * PAGE_BYTES)


async def test_writes_and_reads_go_on_beside_a_check(store: SQLiteStore, endless: list[Any]):
    """A check that never ends holds up nobody; its caller's cancellation interrupts it."""
    check = asyncio.create_task(store.check_integrity())
    await reached(lambda: endless)
    assert await store.write([(run("INSERT INTO notes VALUES (1000, 'beside')"),)]) == [[None]]
    await store.read([rows("SELECT 1")])
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
    await store.disconnect()


async def test_a_database_that_is_closed_meanwhile(store: SQLiteStore, endless: list[Any]):
    """Closing does not wait for a check: it is interrupted, and its caller is told why."""
    check = asyncio.create_task(store.check_integrity())
    await reached(lambda: endless)
    await store.disconnect()
    with pytest.raises(PersistenceConnectionError, match="disconnected during the call"):
        await check


async def test_a_check_opens_the_writer(data_dir: Path, store: SQLiteStore, endless: list[Any]):
    """One that was only read has a writer before it is checked: the first write beside the check does not wait for it."""
    await store.disconnect()
    opened = make_owned_store(data_dir, must_exist=True)
    await opened.connect()
    await opened.migrate()
    assert opened._connections.immutable_reader is not None
    check = asyncio.create_task(opened.check_integrity())
    await reached(lambda: endless)
    assert await opened.write([(run("INSERT INTO notes VALUES (1000, 'beside')"),)]) == [[None]]
    await opened.disconnect()
    with pytest.raises(PersistenceConnectionError):
        await check
    assert not (data_dir / "tenants" / "acme" / "tenant.db-wal").exists()


@pytest.mark.parametrize("is_thorough", [False, True])
async def test_damage_is_found(store: SQLiteStore, database: Path, data_dir: Path, *, is_thorough: bool):
    """A page that was overwritten is found, open or closed; what was checked is left as it was."""
    await store.disconnect()
    integrity.check_closed(database, is_thorough=is_thorough)
    spoil_last_page(database)
    before = database.read_bytes()
    with pytest.raises(DatabaseCorruptError, match=r"tenant\.db"):
        integrity.check_closed(database, is_thorough=is_thorough)
    assert database.read_bytes() == before
    async with open_owned_store(data_dir, must_exist=True) as damaged:
        with pytest.raises(DatabaseCorruptError, match=r"tenant\.db"):
            await damaged.check_integrity(is_thorough=is_thorough)


async def test_only_a_thorough_look_compares_indexes(store: SQLiteStore, database: Path):
    """An index that lacks a row is found by the thorough look alone."""
    await store.disconnect()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'WHERE id > 10', '') WHERE type = 'index'"
        )
    integrity.check_closed(database)
    with pytest.raises(DatabaseCorruptError, match="notes_text"):
        integrity.check_closed(database, is_thorough=True)
    maintenance.repair(database)
    integrity.check_closed(database, is_thorough=True)


def test_what_is_no_database(tmp_path: Path):
    """A file of something else is called damaged; its versions are nobody's to say."""
    path = tmp_path / "none.db"
    path.write_bytes(b"no database " * 500)
    with pytest.raises(DatabaseCorruptError, match="cannot be read as a database"):
        integrity.check_closed(path)
    assert integrity.read_closed_versions(path) is None
    assert integrity.read_closed_versions(tmp_path / "missing.db") is None


@pytest.mark.parametrize(
    "sql",
    ["CREATE INDEX i ON notes (title COLLATE backwards)", "CREATE INDEX i ON notes (twice(title))"],
)
def test_a_function_that_only_another_process_has(tmp_path: Path, sql: str):
    """A database whose schema needs a function that this process lacks is not called damaged."""
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_collation("backwards", lambda one, other: (one < other) - (one > other))
        connection.create_function("twice", 1, lambda text: text * 2, deterministic=True)
        connection.execute("CREATE TABLE notes (title TEXT)")
        connection.execute(sql)
        connection.execute("INSERT INTO notes VALUES ('a'), ('b')")
    for check in (integrity.check, integrity.check_closed):
        with pytest.raises(SnapshotError, match="with all schema packs"):
            check(path, is_thorough=True)


async def test_closed_versions(store: SQLiteStore, database: Path):
    """They are told of a database that was closed cleanly, and of none that is open or has a log beside it."""
    assert integrity.read_closed_versions(database) is None
    await store.disconnect()
    assert integrity.read_closed_versions(database) == {"company": 1}


async def test_closed_versions_of_a_file_that_contradicts_itself(store: SQLiteStore, database: Path):
    """They are not told of a database that counts more migrations than it lists: opening it says what is wrong."""
    await store.disconnect()
    with closing(sqlite3.connect(database)) as changed:
        changed.execute("PRAGMA user_version = 99")
    assert integrity.read_closed_versions(database) is None


async def test_a_log_that_a_crash_left_counts(store: SQLiteStore, database: Path, tmp_path: Path):
    """A database is checked with the write-ahead log beside it, and keeps it."""
    copy = tmp_path / "copy.db"
    for suffix in ("", "-wal"):
        Path(f"{copy}{suffix}").write_bytes(Path(f"{database}{suffix}").read_bytes())
    integrity.check_closed(copy, is_thorough=True)
    assert Path(f"{copy}-wal").stat().st_size > 0
    assert "notes" in "".join(content(copy))
    await asyncio.to_thread(partial(maintenance.checkpoint, copy))
