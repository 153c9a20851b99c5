"""The engine opens the writer of a closed database, and makes its first commit durable; a job of Python takes the writer over."""

import asyncio
import gc
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from engine_rig import counted, needed_engine
from engines import using_engine
from open_file_limits import open_files_limited_to
from owned_stores import make_owned, numbers
from stores import rows, run
from tenantry.config import Engine
from tenantry.errors import (
    DatabaseCorruptError,
    MigrationError,
    PersistenceConnectionError,
    StorageFullError,
    TenantOwnedElsewhereError,
)
from tenantry.storage.sqlite.connections.opening import CHECKPOINT_PAGES
from tenantry.storage.sqlite.store import SQLiteStore
from tenants import open_files, query

INSERT = run("INSERT INTO t VALUES (2)")
OWNER = "SELECT epoch, owner FROM tenantry_owner"
SETTINGS = rows(
    "SELECT * FROM pragma_synchronous, pragma_journal_size_limit, pragma_foreign_keys, pragma_busy_timeout, "
    "pragma_cell_size_check, pragma_cache_size, pragma_journal_mode, pragma_max_page_count"
)
BYTES_MAX = 40 * 4096


@pytest.fixture(autouse=True)
def native() -> Iterator[None]:
    """Each store uses the engine, unless a test says otherwise."""
    needed_engine()
    with using_engine("native"):
        yield


async def written_and_closed(directory: Path) -> None:
    """Make the database of a tenant, and close it cleanly."""
    store = make_owned(directory)
    await store.connect()
    await store.migrate()
    await store.write([(run("CREATE TABLE t (n INTEGER)"),), (run("INSERT INTO t VALUES (1)"),), (INSERT,)])
    await store.write([(run("DELETE FROM t WHERE n = 2"),)])
    await store.read([SETTINGS])
    await numbers(store)
    await store.disconnect()


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    """The store of a database that was written and closed cleanly; all statements of these tests are known to the engine."""
    await written_and_closed(tmp_path)
    existing = make_owned(tmp_path, must_exist=True)
    yield existing
    await existing.disconnect()
    assert open_files(tmp_path) == []


async def settings_in_python(store: SQLiteStore) -> list[Any]:
    """Return the settings of the writer's connection of Python, and the pages of the log that start a checkpoint."""
    assert store._connections.writer is not None
    return await store._connections.writer.run(
        lambda connection: [
            *connection.execute(SETTINGS.text("sqlite")).fetchall(),
            *connection.execute("PRAGMA wal_autocheckpoint").fetchone(),
        ]
    )


def is_opened_by_engine(store: SQLiteStore) -> bool:
    """Return whether Python has no connection for the writer."""
    writer = store._connections.writer
    assert writer is not None
    return writer.has_engine and writer._connection is None


@pytest.mark.parametrize("is_for_write", [True, False])
async def test_first_write(closed: SQLiteStore, tmp_path: Path, *, is_for_write: bool):
    """It raises the epoch in its own transaction, and the lock file has the note of the log; a read may come before."""
    path, lock = tmp_path / "tenant.db", tmp_path / "lock"
    [(epoch, _)] = query(path, OWNER)
    await closed.connect(is_for_write=is_for_write)
    if not is_for_write:
        assert await numbers(closed) == [1]
    with counted(needed_engine(), ended=2):
        assert await closed.write([(INSERT,)]) == [[None]]
        assert query(path, OWNER)[0][0] == epoch + 1
        assert await closed.write([(INSERT,)]) == [[None]]
    assert is_opened_by_engine(closed)
    assert query(path, OWNER)[0][0] == epoch + 1
    assert json.loads(lock.read_bytes()[128:]) == [lock.stat().st_ino, path.stat().st_ino, epoch]
    assert await numbers(closed) == [1, 2, 2]
    await closed.disconnect()
    assert lock.read_bytes().startswith(b"released")
    assert not path.with_name("tenant.db-wal").exists()
    assert query(path, "SELECT count(*) FROM t") == [(3,)]


@pytest.mark.parametrize("bytes_max", [None, BYTES_MAX])
async def test_settings(closed: SQLiteStore, tmp_path: Path, bytes_max: int | None):
    """The writer has the settings of a writer of Python, before the first write and after it, in the engine and in Python."""
    found: dict[str, list[Any]] = {}
    for engine in ("native", "python"):
        with using_engine(engine):
            store = make_owned(tmp_path, must_exist=True, database_bytes_max=bytes_max, durability="normal")
        await store.connect(is_for_write=True)
        found[engine] = await store.read([SETTINGS])
        await store.write([(INSERT,)])
        found[engine] += await settings_in_python(store)
        await store.disconnect()
    assert found["native"] == found["python"]


async def test_a_job_of_python_takes_the_writer_over(closed: SQLiteStore, tmp_path: Path):
    """One connection is open before and after, no checkpoint runs between, and the engine goes on with Python's connection."""
    await closed.connect(is_for_write=True)
    await closed.write([(INSERT,)])
    before, (path, log) = open_files(tmp_path), [tmp_path / "tenant.db", tmp_path / "tenant.db-wal"]
    content, log_bytes = path.read_bytes(), log.stat().st_size
    assert is_opened_by_engine(closed)
    transaction = await closed.begin()
    assert not is_opened_by_engine(closed)
    assert open_files(tmp_path) == before
    await transaction.rollback()
    assert (path.read_bytes(), log.stat().st_size) == (content, log_bytes)
    with counted(needed_engine(), ended=2):
        await closed.write([(INSERT,)])
        assert await numbers(closed) == [1, 2, 2]


async def test_a_job_of_python_before_the_first_write(closed: SQLiteStore, tmp_path: Path):
    """The first batch of the engine raises the epoch and makes the log durable, whoever opened the connection."""
    [(epoch, _)] = query(tmp_path / "tenant.db", OWNER)
    await closed.connect(is_for_write=True)
    await (await closed.begin()).rollback()
    with counted(needed_engine(), ended=1):
        assert await closed.write([(INSERT,)]) == [[None]]
    assert query(tmp_path / "tenant.db", OWNER)[0][0] == epoch + 1
    assert (await settings_in_python(closed))[-1] == CHECKPOINT_PAGES


async def test_a_directory_that_cannot_be_synced(closed: SQLiteStore, tmp_path: Path):
    """The callers are told that a power failure may lose the write, and no checkpoint runs before the directory was synced."""
    await closed.connect(is_for_write=True)
    with open_files_limited_to(0):
        [error] = await closed.write([(INSERT,)])
    assert isinstance(error, PersistenceConnectionError)
    assert "tenant.db-wal (Too many open files), so a power failure may lose the write: check" in str(error)
    assert error.is_retryable
    assert (await settings_in_python(closed))[-1] == 0
    assert await closed.write([(INSERT,)]) == [[None]]
    assert (await settings_in_python(closed))[-1] == CHECKPOINT_PAGES
    assert await numbers(closed) == [1, 2, 2]


async def write_in_vain(store: SQLiteStore) -> None:
    """Write while the log cannot be made durable. The engine returns the error, and Python raises it."""
    with suppress(PersistenceConnectionError):
        [error] = await store.write([(INSERT,)])
        assert isinstance(error, PersistenceConnectionError)


def lose(stores: list[SQLiteStore]) -> None:
    """Lose stores without closing them."""
    stores.clear()
    gc.collect()


@pytest.mark.parametrize(("engine", "is_lost"), [("native", False), ("native", True), ("python", False)])
async def test_closed_while_the_directory_cannot_be_synced(
    closed: SQLiteStore, tmp_path: Path, *, engine: Engine, is_lost: bool
):
    """No checkpoint runs and the lock is released, although no descriptor is left; a lost store is closed in the same way."""
    with using_engine(engine):
        stores = [make_owned(tmp_path, must_exist=True)]
    await stores[0].connect(is_for_write=True)
    path, log = tmp_path / "tenant.db", tmp_path / "tenant.db-wal"
    content = path.read_bytes()
    with open_files_limited_to(0):
        await write_in_vain(stores[0])
        await asyncio.sleep(0)  # the event loop forgets the call
        if is_lost:
            with pytest.warns(ResourceWarning, match="was not closed"):
                lose(stores)
        else:
            await stores[0].disconnect()
    assert open_files(tmp_path) == []
    assert path.read_bytes() == content
    assert log.stat().st_size > 0
    await closed.connect()
    assert await numbers(closed) == [1, 2]


async def test_the_last_owner_has_a_strange_name(closed: SQLiteStore, tmp_path: Path):
    """The text of the last owner may have a NUL character: Python opens the file then, also for the first write after reads."""
    query(tmp_path / "tenant.db", "UPDATE tenantry_owner SET owner = 'a' || char(0) || 'b'")
    await closed.connect()
    assert await numbers(closed) == [1]
    assert await closed.write([(INSERT,)]) == [[None]]
    assert await numbers(closed) == [1, 2]


def test_closed_in_another_event_loop_without_a_descriptor(tmp_path: Path):
    """The lock is released after the file was closed, although the engine cannot wake this event loop."""
    asyncio.run(written_and_closed(tmp_path))
    store = make_owned(tmp_path, must_exist=True)
    asyncio.run(store.connect())

    async def close() -> None:
        with open_files_limited_to(0):
            await store.disconnect()

    asyncio.run(close())
    assert (tmp_path / "lock").read_bytes().startswith(b"released")
    assert open_files(tmp_path) == []


@pytest.mark.parametrize("is_for_write", [True, False])
async def test_shared_memory_that_is_only_readable(
    closed: SQLiteStore, tmp_path: Path, *, is_for_write: bool
):
    """SQLite opens the shared memory for reading if it cannot be opened for writing. Such a writer is not kept."""
    shared = tmp_path / "tenant.db-shm"
    shared.mkdir()  # cannot be opened for writing, even by root
    await closed.connect(is_for_write=is_for_write)
    assert await numbers(closed) == [1]
    with pytest.raises(PersistenceConnectionError, match="for reading only, although this process may write"):
        await closed.write([(INSERT,)])
    shared.rmdir()
    assert await closed.write([(INSERT,)]) == [[None]]
    assert await numbers(closed) == [1, 2]


async def test_another_program_has_the_lock(closed: SQLiteStore, tmp_path: Path):
    """The engine waits for no lock while it opens the writer: Python opens the writer."""
    await closed.connect()
    with closing(sqlite3.connect(tmp_path / "tenant.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await closed._connections.ensure_writer()
        assert not is_opened_by_engine(closed)
        other.execute("ROLLBACK")
    assert await closed.write([(INSERT,)]) == [[None]]
    assert await numbers(closed) == [1, 2]


async def test_another_owner(closed: SQLiteStore, tmp_path: Path):
    """An owner that wrote after this one has opened the file keeps this one from writing."""
    await closed.connect(is_for_write=True)
    query(tmp_path / "tenant.db", "UPDATE tenantry_owner SET epoch = epoch + 1, owner = 'other'")
    [error] = await closed.write([(INSERT,)])
    assert isinstance(error, TenantOwnedElsewhereError)
    assert await numbers(closed) == [1]


async def test_a_refused_first_write(closed: SQLiteStore, tmp_path: Path):
    """A unit that a constraint refuses does not keep the owner from raising the epoch."""
    query(tmp_path / "tenant.db", "CREATE UNIQUE INDEX i ON t (n)")
    [(epoch, _)] = query(tmp_path / "tenant.db", OWNER)
    await closed.connect(is_for_write=True)
    again = run("INSERT INTO t VALUES (1)")
    with counted(needed_engine(), ended=1):
        refused, written = await closed.write([(again,), (INSERT,)])
    assert (type(refused).__name__, written) == ("DuplicateRecordError", [None])
    assert query(tmp_path / "tenant.db", OWNER)[0][0] == epoch + 1


async def test_the_limit_of_the_database(closed: SQLiteStore, tmp_path: Path):
    """It holds from the first write on, and the error names it."""
    store = make_owned(tmp_path, must_exist=True, database_bytes_max=(tmp_path / "tenant.db").stat().st_size)
    await store.connect(is_for_write=True)
    assert is_opened_by_engine(store)
    [error] = await store.write([(run("INSERT INTO t VALUES (zeroblob(100000))"),)])
    assert isinstance(error, StorageFullError)
    assert error.limit == "database_bytes_max"
    await store.disconnect()


def other_tenant(directory: Path) -> None:
    """Let the file name another tenant."""
    query(directory / "tenant.db", "UPDATE tenantry_owner SET tenant_uid = 'other'")


def newer_version(directory: Path) -> None:
    """Let the file be of a newer version."""
    with closing(sqlite3.connect(directory / "tenant.db")) as connection:
        connection.execute("PRAGMA user_version = 1000")


def later_note(directory: Path) -> None:
    """Let the note name a later epoch, which has to be replaced on the disk first."""
    lock = directory / "lock"
    note = [lock.stat().st_ino, (directory / "tenant.db").stat().st_ino, 1000]
    lock.write_bytes(lock.read_bytes()[:128] + json.dumps(note).encode().ljust(127) + b"\n")


def note_of_another_file(directory: Path) -> None:
    """Let the note name another database."""
    lock = directory / "lock"
    lock.write_bytes(
        lock.read_bytes()[:128] + json.dumps([lock.stat().st_ino, 1, 0]).encode().ljust(127) + b"\n"
    )


@pytest.mark.parametrize("change", [later_note, note_of_another_file])
async def test_a_note_that_python_replaces(
    closed: SQLiteStore, tmp_path: Path, change: Callable[[Path], None]
):
    """Python opens the writer, and syncs the note."""
    change(tmp_path)
    [(epoch, _)] = query(tmp_path / "tenant.db", OWNER)
    await closed.connect(is_for_write=True)
    assert not is_opened_by_engine(closed)
    assert json.loads((tmp_path / "lock").read_bytes()[128:])[2] == epoch
    assert await closed.write([(INSERT,)]) == [[None]]


async def opened_and_migrated(store: SQLiteStore) -> None:
    """Open a tenant because of a write."""
    await store.connect(is_for_write=True)
    await store.migrate()


@pytest.mark.parametrize("change", [other_tenant, newer_version])
async def test_a_file_that_python_refuses(
    closed: SQLiteStore, tmp_path: Path, change: Callable[[Path], None]
):
    """The engine leaves the file as it was, and Python says what is wrong."""
    change(tmp_path)
    before = (tmp_path / "tenant.db").read_bytes()
    with pytest.raises((DatabaseCorruptError, MigrationError)):
        await opened_and_migrated(closed)
    await closed.disconnect()
    assert (tmp_path / "tenant.db").read_bytes() == before
