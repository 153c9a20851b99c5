"""A closed database is read as an immutable file: what that does not change, how a write opens the writer, and changes by others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from owned_stores import is_open_for_reading, make_owned, numbers
from stores import COUNT_TO_A_BILLION, left_open, make_store, reached, rows, run
from tenantry.company import COMPANY
from tenantry.errors import PersistenceError
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.store import SQLiteStore
from tenants import open_files, query, write_pack

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    """A store that is open for reading: it was written, closed cleanly and opened again."""
    store = make_owned(tmp_path)
    await store.connect()
    await store.migrate()
    await store.write([(run("CREATE TABLE t (n INTEGER)"),), (run("INSERT INTO t VALUES (1)"),)])
    await store.disconnect()
    await store.connect()
    await store.migrate()
    yield store
    await store.disconnect()
    assert open_files(tmp_path) == []


def names(directory: Path) -> set[str]:
    """Return what lies in the directory."""
    return {path.name for path in directory.iterdir()}


async def test_reading_leaves_the_files_alone(store: SQLiteStore, tmp_path: Path):
    """No write-ahead log, no shared memory, and the database is not touched, however often it is read and opened."""
    before = (tmp_path / "tenant.db").stat()
    for _ in range(3):
        assert await numbers(store) == [1]
        assert await store.health_check()
        assert is_open_for_reading(store)
        assert names(tmp_path) == {"tenant.db", "lock"}
        await store.disconnect()
        await store.connect()
    after = (tmp_path / "tenant.db").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_closing_while_a_read_waits(store: SQLiteStore, tmp_path: Path):
    """The read still runs, for which Python opens the file if the engine cannot run it, and nothing stays open."""
    await store.disconnect()
    closing = make_owned(tmp_path, must_exist=True)
    await closing.connect()
    reading = closing.read([rows("SELECT sha256('')")])
    await closing.disconnect()
    assert len(await reading) == 1
    assert open_files(tmp_path) == []


async def test_a_write_opens_the_writer(store: SQLiteStore):
    """The first write opens the writer, and every read after its answer sees it."""
    assert await numbers(store) == [1]
    for n in range(2, 5):
        assert await store.write([(run("INSERT INTO t VALUES (?)", n),)]) == [[None]]
        assert await numbers(store) == list(range(1, n + 1))
    assert not is_open_for_reading(store)


async def test_a_transaction_opens_the_writer(store: SQLiteStore):
    """So does a transaction, and reads beside it see the state before."""
    transaction = await store.begin()
    await transaction.write((run("INSERT INTO t VALUES (2)"),))
    assert await numbers(store) == [1]
    await transaction.commit()
    assert await numbers(store) == [1, 2]


async def test_reads_and_the_first_write_at_once(store: SQLiteStore):
    """Reads that come while the writer is opened wait and do not fail; each sees the state before the write or after."""
    reads = [asyncio.ensure_future(numbers(store)) for _ in range(5)]
    write = asyncio.ensure_future(store.write([(run("INSERT INTO t VALUES (2)"),)]))
    for _ in range(20):
        reads.append(asyncio.ensure_future(numbers(store)))
        await asyncio.sleep(0)
    assert await write == [[None]]
    for found in await asyncio.gather(*reads):
        assert found in ([1], [1, 2])
    assert await numbers(store) == [1, 2]


async def test_a_read_that_writes_is_refused(store: SQLiteStore, tmp_path: Path):
    """Nothing that is given to read() can change the file, or make a table beside it."""
    for sql in ("INSERT INTO t VALUES (2)", "CREATE TEMP TABLE u (n)"):
        (outcome,) = await store.read([rows(sql)])
        assert isinstance(outcome, PersistenceError)
    assert is_open_for_reading(store)
    assert query(tmp_path / "tenant.db", "SELECT n FROM t") == [(1,)]


async def test_a_running_read_is_interrupted(store: SQLiteStore):
    """A query that would run for minutes ends when its caller goes, and the writer is opened."""
    reading = asyncio.ensure_future(store.read([rows(COUNT_TO_A_BILLION)]))
    await reached(lambda: store._connections.immutable_reader._running_job is not None)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await store.write([(run("INSERT INTO t VALUES (2)"),)]) == [[None]]


async def test_a_cancelled_write_that_was_to_open_the_writer(store: SQLiteStore, tmp_path: Path):
    """A write whose deadline passes while a read delays the writer leaves the tenant usable, and its lock in order."""
    reading = asyncio.ensure_future(store.read([rows(COUNT_TO_A_BILLION)]))
    await reached(lambda: store._connections.immutable_reader._running_job is not None)
    write = asyncio.ensure_future(store.write([(run("INSERT INTO t VALUES (2)"),)]))
    await reached(lambda: store._connections.immutable_reader is None)
    write.cancel()
    await asyncio.sleep(0)
    reading.cancel()
    for gone in (reading, write):
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert await numbers(store) == [1]
    await store.disconnect()
    assert open_files(tmp_path) == []
    await store.connect()
    assert await store.write([(run("INSERT INTO t VALUES (3)"),)]) == [[None]]
    assert await numbers(store) == [1, 3]


async def test_what_is_done_by_hand_is_seen(store: SQLiteStore, tmp_path: Path):
    """Someone else's change of the file is read, while they have it open and afterwards; and a write comes after it."""
    assert await numbers(store) == [1]
    query(tmp_path / "tenant.db", "INSERT INTO t VALUES (2)")
    assert await numbers(store) == [1, 2]
    query(tmp_path / "tenant.db", "INSERT INTO t VALUES (3)")
    assert await numbers(store) == [1, 2, 3]
    await store.write([(run("INSERT INTO t VALUES (4)"),)])
    assert await numbers(store) == [1, 2, 3, 4]


async def test_a_writer_that_cannot_be_opened(store: SQLiteStore, tmp_path: Path):
    """The write fails, nothing is lost, and the next one tries again."""
    in_the_way = tmp_path / "tenant.db-wal"
    in_the_way.mkdir()
    with pytest.raises(PersistenceError):
        await store.write([(run("INSERT INTO t VALUES (2)"),)])
    in_the_way.rmdir()
    assert await numbers(store) == [1]
    assert await store.write([(run("INSERT INTO t VALUES (2)"),)]) == [[None]]
    assert await numbers(store) == [1, 2]


async def test_one_that_was_not_closed_is_open_for_writing(tmp_path: Path):
    """After a crash there is a log to recover and perhaps an owner to fence off: the writer does that at once."""
    store = make_owned(tmp_path)
    await store.connect()
    await store.migrate()
    await store.disconnect()
    (tmp_path / "lock").write_text("{}")
    await store.connect()
    assert not is_open_for_reading(store)
    await store.disconnect()


@pytest.mark.parametrize("is_empty", [True, False])
async def test_one_with_a_log_beside_it_is_open_for_writing(tmp_path: Path, *, is_empty: bool):
    """What is still in the log would not be read. An empty log, as a full disk leaves it, holds nothing."""
    store = make_owned(tmp_path)
    await store.connect()
    await store.migrate()
    await store.disconnect()
    if is_empty:
        (tmp_path / "tenant.db-wal").touch()
    else:
        left_open(tmp_path / "tenant.db", "CREATE TABLE in_the_log (n)")
    await store.connect()
    assert is_open_for_reading(store) is is_empty
    await store.disconnect()


async def test_one_to_be_migrated_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A migration that is new to the file is applied, and the file is immutable the next time."""
    packs = tmp_path / "packs"
    monkeypatch.syspath_prepend(packs)
    pack = Schema("more", write_pack(packs, "pack_of_a_closed_tenant", "CREATE TABLE more (n);"))
    for schemas, is_current in (
        ([COMPANY], False),
        ([COMPANY], True),
        ([COMPANY, pack], False),
        ([COMPANY, pack], True),
    ):
        store = make_owned(tmp_path / "acme", schemas)
        await store.connect()
        report = await store.migrate()
        assert report.versions == {schema.name: 1 for schema in schemas}
        assert is_open_for_reading(store) is is_current
        await store.disconnect()


async def test_a_database_without_an_owner_is_always_open_for_writing(tmp_path: Path):
    """Others may write it: one company's own file, used without a registry."""
    store = make_store(SQLiteOptions(path=tmp_path / "a.db"))
    for _ in range(2):
        await store.connect()
        await store.migrate()
        assert not is_open_for_reading(store)
        await store.disconnect()
