"""A write-ahead log that was left behind is made durable before anything is acknowledged on top of it."""

import errno
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from engines import using_engine
from stores import left_open, make_backend, make_owned_store, open_backend, open_owned_store, read_rows, run
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.errors import PersistenceConnectionError, PersistenceError, StorageFullError
from tenantry.files.durable_files import make_root
from tenantry.storage.sqlite.database_files.database_file import has_log
from tenantry.storage.sqlite.maintenance import maintenance
from tenantry.storage.sqlite.store import SQLiteStore
from tenantry.testing.conformance.samples import make_task
from tenants import database_path, open_files, query


class Disk:
    """Follows the syncs of write-ahead logs that Python does, and lets syncs fail if told to; SQLite's own it does not see."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        self.error: int | None = None
        self.failing = "-wal"
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if self.error is not None and path.name.endswith(self.failing):
            raise OSError(self.error, os.strerror(self.error))
        if path.name.endswith("-wal"):
            self.synced.append(path.name)
        self._fsync(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Follow what is synced."""
    return Disk(monkeypatch)


@pytest.fixture
async def database(data_dir: Path) -> Path:
    """A tenant's database whose last owner was killed: one row is in the log alone."""
    make_root(data_dir)
    async with open_owned_store(data_dir) as store:
        assert await store.write([(run("CREATE TABLE t (x)"),)]) == [[None]]
    path = data_dir / "tenants" / "acme" / "tenant.db"
    (path.parent / "lock").unlink()
    left_open(path, "INSERT INTO t VALUES ('in the log')")
    return path


def log_of(database: Path) -> bytes:
    """Return what is in the write-ahead log."""
    return Path(f"{database}-wal").read_bytes()


def content_of(database: Path) -> bytes:
    """Return what is in the database's file."""
    return database.read_bytes()


def files_of(database: Path) -> tuple[bytes, bytes]:
    """Return what is in the database's file and in its log."""
    return database.read_bytes(), log_of(database)


async def test_before_the_first_acknowledgement(data_dir: Path, database: Path, disk: Disk):
    """The log is synced once while the store opens, with the bytes that it had, and what it held is there."""
    before = log_of(database)
    store = make_owned_store(data_dir, must_exist=True)
    await store.connect()
    assert disk.synced == ["tenant.db-wal"]
    assert log_of(database)[: len(before)] == before
    assert await read_rows(store, "SELECT x FROM t") == [("in the log",)]
    await store.disconnect()
    assert query(database, "SELECT x FROM t") == [("in the log",)]


async def test_a_clean_close(data_dir: Path, disk: Disk):
    """There is no log, and opening the tenant costs no sync."""
    make_root(data_dir)
    async with open_owned_store(data_dir) as store:
        await store.write([(run("CREATE TABLE t (x)"),)])
    async with open_owned_store(data_dir, must_exist=True) as store:
        await store.write([(run("INSERT INTO t VALUES (1)"),)])
    assert disk.synced == []


@pytest.mark.parametrize(
    ("code", "error_type", "says"),
    [
        (errno.EIO, PersistenceConnectionError, "check the disk, then try again"),
        (errno.ENOSPC, StorageFullError, "free space on the disk"),
    ],
)
async def test_a_disk_that_still_fails(
    data_dir: Path, database: Path, disk: Disk, code: int, error_type: type[Exception], says: str
):
    """Opening fails with an error that may pass, nothing stays open, nothing changes, and the next opening tries again."""
    before = log_of(database)
    disk.error = code
    store = make_owned_store(data_dir, must_exist=True)
    for _ in range(2):
        with pytest.raises(error_type, match=says) as caught:
            await store.connect()
        assert caught.value.is_retryable  # type: ignore[attr-defined]
        assert (open_files(data_dir), log_of(database)) == ([], before)
    disk.error = None
    await store.connect()
    assert await read_rows(store, "SELECT x FROM t") == [("in the log",)]
    await store.disconnect()


@pytest.fixture
async def closed(data_dir: Path) -> Path:
    """A tenant's database with an empty table, closed cleanly."""
    make_root(data_dir)
    async with open_owned_store(data_dir) as store:
        await store.write([(run("CREATE TABLE t (x)"),)])
    return data_dir / "tenants" / "acme" / "tenant.db"


async def insert(store: SQLiteStore, value: int) -> None:
    """Insert a row in a batch of its own."""
    await store.write([(run(f"INSERT INTO t VALUES ({value})"),)])


async def insert_in_transaction(store: SQLiteStore, value: int) -> None:
    """Insert a row in a transaction over several calls."""
    transaction = await store.begin()
    await transaction.write((run(f"INSERT INTO t VALUES ({value})"),))
    await transaction.commit()


@pytest.mark.parametrize("write", [insert, insert_in_transaction])
async def test_the_name_of_a_new_log(
    data_dir: Path, closed: Path, disk: Disk, write: Callable[[SQLiteStore, int], Awaitable[None]]
):
    """No commit is acknowledged before the log's name is durable, and the next commit tries again to make it durable."""
    async with open_owned_store(data_dir, must_exist=True) as store:
        disk.error, disk.failing = errno.EIO, "acme"
        for value in (1, 2):
            with pytest.raises(PersistenceError, match="Input/output error"):
                await write(store, value)
        disk.error = None
        await write(store, 3)
        assert await read_rows(store, "SELECT x FROM t") == [(1,), (2,), (3,)]
        disk.error = errno.EIO
        await write(store, 4)  # once it is durable it is not synced again
    assert not has_log(closed)


async def test_a_log_without_a_name_is_not_checkpointed(data_dir: Path, closed: Path, disk: Disk):
    """Neither a long log nor the close of the tenant writes it into the database, and the next owner makes it durable first.

    The syncs are Python's, so the store is Python's.
    """
    before = content_of(closed)
    with using_engine("python"):
        store = make_owned_store(data_dir, must_exist=True)
    await store.connect()
    disk.error, disk.failing = errno.EIO, "acme"
    for _ in range(2):
        with pytest.raises(PersistenceError, match="Input/output error"):
            await store.write([(run("INSERT INTO t VALUES (zeroblob(20000000))"),)])
    await store.disconnect()
    assert content_of(closed) == before
    assert open_files(data_dir) == []
    with pytest.raises(PersistenceConnectionError, match="check the disk"):
        await store.connect()
    assert content_of(closed) == before
    disk.error = None
    async with open_owned_store(data_dir, must_exist=True) as store:
        assert await read_rows(store, "SELECT count(*) FROM t") == [(2,)]
    assert len(content_of(closed)) > len(before)


async def test_a_tenant_is_not_to_blame(data_dir: Path, disk: Disk):
    """A disk that fails quarantines nobody: the tenant serves calls when the disk does."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
    left_open(database_path(data_dir, "acme"), "CREATE TABLE t (x)")
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        disk.error = errno.EIO
        with pytest.raises(PersistenceConnectionError, match="check the disk"):
            await registry.tenant("acme").tasks.save(make_task())
        tenant = await registry.get("acme")
        assert tenant.state is TenantState.ACTIVE
        assert "check the disk" in (tenant.last_error or "")
        disk.error = None
        await registry.tenant("acme").tasks.save(make_task())


@pytest.mark.parametrize("work", [maintenance.compact, maintenance.checkpoint, maintenance.repair])
async def test_work_on_a_closed_database(database: Path, disk: Disk, work: Callable[[Path], None]):
    """A checkpoint that a power failure cut short would be repeated from the log: so the log is made durable first."""
    before = files_of(database)
    disk.error = errno.EIO
    with pytest.raises(PersistenceConnectionError, match="check the disk"):
        work(database)
    assert files_of(database) == before
    disk.error = None
    work(database)
    assert disk.synced == ["tenant.db-wal"]
    assert query(database, "SELECT x FROM t") == [("in the log",)]


async def test_a_back_end_without_a_registry(tmp_path: Path, disk: Disk):
    """The same, and another connection that is open meanwhile loses nothing."""
    path = tmp_path / "company.db"
    async with open_backend(path):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        backend = make_backend(path)
        await backend.connect()
        assert disk.synced == ["company.db-wal"]
        await backend.tasks.save(make_task())
        other.execute("INSERT INTO t VALUES (1)")
        await backend.disconnect()
    assert query(path, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM tasks)") == [(1, 1)]
