"""The write-ahead log has a limit, whatever reads from it."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from stores import HANG_SECONDS, open_store, read_rows, rows, run
from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import PersistenceConnectionError
from tenantry.storage.sqlite.connections.opening import WAL_HOLD_SECONDS, SQLiteOptions
from tenantry.storage.sqlite.store import SQLiteStore
from tenants import database_path, make_message, until

pytestmark = pytest.mark.usefixtures("each_engine")

LIMIT_BYTES = 2**20
WRITE = "INSERT OR REPLACE INTO t VALUES (?, zeroblob(50000))"
WRITE_BYTES = 2 * 50_000
"""What a write adds to the log: the pages of the new row, and of the one that it replaces."""
LONG_READ = (
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
    "SELECT count(*) FROM n LEFT JOIN (SELECT 1 FROM t LIMIT 1)"
)


def log_bytes(path: Path) -> int:
    """Return how long the log of a database is."""
    return Path(f"{path}-wal").stat().st_size


@asynccontextmanager
async def limited_store(
    path: Path, bytes_max: int = LIMIT_BYTES, hold_seconds: float = WAL_HOLD_SECONDS
) -> AsyncIterator[SQLiteStore]:
    """Open a store with a table and a limit for its log."""
    options = SQLiteOptions(path=path, wal_bytes_max=bytes_max, wal_hold_seconds=hold_seconds)
    async with asyncio.timeout(HANG_SECONDS):
        async with open_store(options, "CREATE TABLE t (n INTEGER PRIMARY KEY, content BLOB)") as store:
            yield store


@asynccontextmanager
async def reading(store: SQLiteStore) -> AsyncIterator[None]:
    """Read without a pause in the block: each read begins before another has ended."""

    async def read_on() -> None:
        while True:
            assert await read_rows(store, LONG_READ) == [(20_000,)]

    # Both connections for reads are open before the block: to open one reads from the log, too.
    await store._connections.ensure_writer()
    while len(store._connections.readers) < 2:
        await asyncio.gather(*(read_rows(store, LONG_READ) for _ in range(2)))
    readers = [asyncio.create_task(read_on()) for _ in range(2)]
    try:
        yield
    finally:
        for reader in readers:
            reader.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*readers, return_exceptions=True)
        )


async def write_much(store: SQLiteStore, path: Path, writes: int) -> int:
    """Write, one after the other, and return how long the log was at most."""
    longest = 0
    for number in range(writes):
        assert await store.write([(run(WRITE, number % 20),)]) == [[None]]
        longest = max(longest, log_bytes(path))
    return longest


async def written_until_cut_back(store: SQLiteStore, path: Path) -> None:
    """Write until the log is shorter than its limit."""
    while log_bytes(path) >= LIMIT_BYTES:
        await write_much(store, path, 1)


async def test_reads_that_follow_each_other(tmp_path: Path):
    """The log is longer than its limit by two writes at most; without the limit it is several times as long."""
    unlimited, limited = tmp_path / "unlimited.db", tmp_path / "limited.db"
    async with limited_store(unlimited, 2**30) as store, reading(store):
        assert await write_much(store, unlimited, 60) > 2 * LIMIT_BYTES
    # The reads are short, and the machine may be slow.
    async with limited_store(limited, hold_seconds=HANG_SECONDS) as store, reading(store):
        longest = await write_much(store, limited, 60)
    assert LIMIT_BYTES <= longest <= LIMIT_BYTES + 2 * WRITE_BYTES


async def test_reads_that_last_long(tmp_path: Path):
    """Writes wait for no long read: they go on until it has ended, and then the log is cut back."""
    path = tmp_path / "test.db"
    async with limited_store(path, hold_seconds=0.0) as store, reading(store):
        while log_bytes(path) < LIMIT_BYTES:
            await write_much(store, path, 1)
        await written_until_cut_back(store, path)


async def test_a_transaction_that_is_read_beside(tmp_path: Path):
    """A task that reads while its own transaction holds the writer is not held for it; the log is cut back after that."""
    path = tmp_path / "test.db"
    async with limited_store(path) as store:
        await read_rows(store, LONG_READ)
        async with reading(store):
            await write_much(store, path, 10)
            transaction = await store.begin()
            for number in range(30):
                await transaction.write((run(WRITE, number),))
                assert await read_rows(store, "SELECT count(*) FROM t") == [(10,)]
            await transaction.commit()
            assert log_bytes(path) > LIMIT_BYTES
            transaction = await store.begin()
            assert await read_rows(store, "SELECT count(*) FROM t") == [(30,)]
            await transaction.rollback()
            await written_until_cut_back(store, path)


async def test_a_copy(tmp_path: Path):
    """A copy keeps the log from being cut back while it lasts, and no read waits for it; the first write after it cuts it."""
    path = tmp_path / "test.db"
    async with limited_store(path) as store:
        await write_much(store, path, 20)
        copied, going_on = threading.Event(), threading.Event()

        def check(*_: int) -> None:
            copied.set()
            going_on.wait(HANG_SECONDS)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "_check_copied", check)
            copy = asyncio.ensure_future(store.copy_to(tmp_path / "copy.db"))
            await until(copied.is_set)
            longest = await write_much(store, path, 40)
            assert longest > 2 * LIMIT_BYTES
            assert await read_rows(store, "SELECT count(*) FROM t") == [(20,)]
            going_on.set()
            await copy
        await written_until_cut_back(store, path)


async def test_another_program_that_reads(tmp_path: Path):
    """Nobody waits for somebody else's read transaction; the log is cut back when it has ended."""
    path = tmp_path / "test.db"
    async with limited_store(path) as store:
        await write_much(store, path, 5)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM t").fetchone()
            assert await write_much(store, path, 40) > LIMIT_BYTES
            assert await read_rows(store, "SELECT count(*) FROM t") == [(20,)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._log_limit, "_may_cut_at", 0.0)  # as if the time had passed
            await written_until_cut_back(store, path)


async def test_a_store_that_closes_meanwhile(tmp_path: Path):
    """It closes while reads are held for the log, and everybody who reads is told."""
    path = tmp_path / "test.db"
    async with limited_store(path) as store:
        await write_much(store, path, 20)

        async def read_on() -> None:
            while True:
                await store.read([rows(LONG_READ)])

        readers = [asyncio.create_task(read_on()) for _ in range(4)]
        await write_much(store, path, 5)
        await store.disconnect()
        ends = await asyncio.gather(*readers, return_exceptions=True)
        assert {type(end) for end in ends} == {PersistenceConnectionError}
        with pytest.raises(FileNotFoundError):
            log_bytes(path)


async def test_the_limit_of_a_registrys_tenants(data_dir: Path):
    """``wal_bytes_max`` is each tenant's, and reaches the database."""
    config = RegistryConfig(data_dir=data_dir, wal_bytes_max=LIMIT_BYTES)
    async with TenantRegistry(config) as registry:
        await registry.create("acme")
        acme = registry.tenant("acme")
        for _ in range(12):
            await acme.messages.save(make_message("x" * 200_000))
            await acme.messages.get_history("general", limit=1)
        # The call after the one that has made the log too long cuts it back.
        async with asyncio.timeout(HANG_SECONDS):
            while log_bytes(database_path(data_dir, "acme")) >= LIMIT_BYTES:
                await acme.messages.save(make_message("x"))
