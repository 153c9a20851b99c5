"""One company's persistence without a registry: its life cycle, and what a failed or cancelled caller leaves behind."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from engines import using_engine
from open_file_limits import open_files_limited_to
from stores import (
    COUNT_TO_A_BILLION,
    StubbornConnection,
    connected,
    make_backend,
    make_store,
    open_backend,
    open_store,
    reached,
    read_rows,
    rows,
    run,
)
from tenantry import Schema, events
from tenantry.company import COMPANY
from tenantry.errors import (
    DatabaseCorruptError,
    DataDirectoryError,
    MalformedRowError,
    MigrationError,
    PersistenceConnectionError,
    QueryError,
    TransactionClosedError,
)
from tenantry.eventlog import EventLog
from tenantry.schemas.loading import load_schemas
from tenantry.storage import (
    PersistenceBackend,
    PersistenceConfig,
    SQLiteConfig,
    SQLitePersistenceBackend,
    create_backend,
)
from tenantry.storage.sqlite.connections import opening
from tenantry.storage.sqlite.connections.connection import JobConnection
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.store import SQLiteStore
from tenantry.storage.standalone import StoreSession
from tenantry.testing.conformance.samples import make_cost_record, make_message, make_task
from tenants import held_writer, open_files, query, threads_since

_CONNECT = sqlite3.connect
_PRAGMAS = ["journal_mode", "journal_size_limit", "synchronous", "foreign_keys"]


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, in the end no thread and no open file is left."""
    threads = set(threading.enumerate())
    yield
    assert open_files(tmp_path) == []
    assert threads_since(threads) == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database will be."""
    return tmp_path / "company.db"


def connecting(factory: type[sqlite3.Connection] | None) -> Callable[..., sqlite3.Connection]:
    """Return what makes connections of this type, to stand in for `sqlite3.connect`."""
    return partial(_CONNECT, factory=factory or sqlite3.Connection)


def read_pragmas(connection: sqlite3.Connection) -> list[Any]:
    """Return what a connection was set to."""
    return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _PRAGMAS]


def store_of(backend: PersistenceBackend) -> SQLiteStore:
    """Return the store under a back end."""
    assert isinstance(backend, SQLitePersistenceBackend)
    return backend._store


class TestCreate:
    """From settings to a disconnected back end."""

    def test_is_made_disconnected(self, path: Path):
        """Nothing is opened or made before connect."""
        backend = make_backend(path)
        assert isinstance(backend, PersistenceBackend)
        assert (backend.is_connected, backend.backend_name) == (False, "sqlite")
        assert not path.exists()

    @pytest.mark.parametrize(
        "config",
        [PersistenceConfig(backend="oracle"), PersistenceConfig(backend="sqlite")],
        ids=["unknown", "no-settings"],
    )
    def test_unusable_settings_are_refused(self, config: PersistenceConfig):
        """An unknown back end, or one without its settings, is a PersistenceConnectionError."""
        with pytest.raises(PersistenceConnectionError) as caught:
            create_backend(config)
        assert not caught.value.is_retryable

    async def test_settings_reach_sqlite(self, path: Path):
        """The journal, its limit, durability and foreign keys are set on the connection that writes."""
        # With a rollback journal a commit is durable when the journal's removal is: EXTRA, which is 3.
        for wal_mode, mode, synchronous in [(False, "delete", 3), (True, "wal", 2), (False, "delete", 3)]:
            async with open_backend(path, wal_mode=wal_mode, journal_size_limit=12_345) as backend:
                values = await store_of(backend)._connections.writer.run(read_pragmas)
                assert values == [mode, 12_345, synchronous, 1]

    async def test_a_rollback_journal_that_may_lose_the_last_moments(self, path: Path):
        """It does not become one that may damage the database: FULL, which is 2, also when the open store is changed."""
        options = SQLiteOptions(path=path, is_wal=False, is_read_by_writer=True, durability="normal")
        async with open_store(options) as store:
            assert (await store._connections.writer.run(read_pragmas))[2] == 2
            await store.apply_limits(database_bytes_max=None, durability="full")
            assert (await store._connections.writer.run(read_pragmas))[2] == 3
            await store.apply_limits(database_bytes_max=None, durability="normal")
            assert (await store._connections.writer.run(read_pragmas))[2] == 2

    async def test_path_is_where_it_was_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A program that changes its working directory goes on with its database: readers are opened late."""
        for name in ("here", "there"):
            (tmp_path / name).mkdir()
            async with open_backend(tmp_path / name / "company.db") as backend:
                await backend.tasks.save(make_task(title=name))
        monkeypatch.chdir(tmp_path / "here")
        backend = make_backend("company.db")
        monkeypatch.chdir(tmp_path / "there")
        await backend.connect()
        (task,) = await backend.tasks.list_tasks()
        await backend.disconnect()
        assert task.title == "here"

    async def test_odd_paths_are_only_names(self, tmp_path: Path):
        """Characters that mean something in a URI do not change how the file is opened."""
        for name in ["a?mode=memory.db", "a#b.db", "a%20b.db", "é ü.db", "a&cache=shared.db"]:
            async with open_backend(tmp_path / name) as backend:
                await backend.tasks.save(make_task())
            assert query(tmp_path / name, "SELECT id FROM tasks") == [("task",)]


class TestLifecycle:
    """Rule 7: connect and disconnect leave all or nothing open."""

    @pytest.mark.parametrize("obstacle", ["no-directory", "directory", "link", "no-database"])
    async def test_failed_connect_leaves_nothing(self, path: Path, obstacle: str):
        """What cannot be opened is an error of ours, nothing stays open, and a later connect can succeed."""
        make: dict[str, Callable[[], object]] = {
            "no-directory": lambda: None,
            "directory": path.mkdir,
            "link": lambda: path.symlink_to(path.with_name("elsewhere.db")),
            "no-database": lambda: path.write_text("no database " * 100),
        }
        make[obstacle]()
        target = path / "missing" / "a.db" if obstacle == "no-directory" else path
        backend = make_backend(target)
        with pytest.raises((PersistenceConnectionError, DatabaseCorruptError)) as caught:
            await backend.connect()
        if obstacle in ("directory", "link"):
            assert isinstance(caught.value, DataDirectoryError)
            assert not caught.value.is_retryable
        assert not backend.is_connected
        assert open_files(path.parent) == []

    async def test_failed_connect_can_be_tried_again(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        """Half way through its pragmas the connection fails: it is closed, and the next try is a new one."""
        backend = make_backend(path)

        def fail(_: sqlite3.Connection) -> None:
            raise sqlite3.OperationalError("unable to open database file")

        with monkeypatch.context() as patched:
            patched.setattr(opening, "add_functions", fail)
            with pytest.raises(PersistenceConnectionError):
                await backend.connect()
        assert open_files(path.parent) == []
        await backend.connect()
        assert await backend.health_check()
        await backend.disconnect()

    @pytest.mark.parametrize("stubborn", ["writer", "reader"])
    async def test_failed_disconnect_can_be_tried_again(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: str
    ):
        """A close that fails raises and keeps the handle: still connected, still usable, closed by the next try."""
        monkeypatch.setattr(
            sqlite3, "connect", connecting(StubbornConnection if stubborn == "writer" else None)
        )
        store = make_store(SQLiteOptions(path=path))
        await store.connect()
        await store.migrate()
        monkeypatch.setattr(
            sqlite3, "connect", connecting(StubbornConnection if stubborn == "reader" else None)
        )
        await asyncio.gather(*(read_rows(store, "SELECT * FROM tasks") for _ in range(3)))
        with pytest.raises(PersistenceConnectionError, match="cannot close"):
            await store.disconnect()
        assert store.is_connected
        assert await store.health_check()
        assert await read_rows(store, "SELECT id FROM tasks") == []
        for _ in store._connections.readers.copy():
            with suppress(PersistenceConnectionError):
                await store.disconnect()
        await store.disconnect()
        assert not store.is_connected

    async def test_cancelled_connect_leaves_nothing(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        """A scope that is cancelled while the database opens leaves it closed, and it can be connected again."""
        reached_it, go = threading.Event(), threading.Event()
        real = opening._set_up

        def slow(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            reached_it.set()
            assert go.wait(60)
            return real(*args, **kwargs)

        monkeypatch.setattr(opening, "_set_up", slow)
        backend = make_backend(path)
        async with anyio.create_task_group() as group:
            group.start_soon(backend.connect)
            await reached(reached_it.is_set)
            group.cancel_scope.cancel()
            asyncio.get_running_loop().call_soon(go.set)
        assert not backend.is_connected
        assert open_files(path.parent) == []
        await backend.connect()
        await backend.disconnect()

    async def test_cancelled_disconnect_closes_all_the_same(self, path: Path):
        """Closing is not left half done."""
        backend = make_backend(path)
        await backend.connect()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await backend.disconnect()
        assert not backend.is_connected

    async def test_data_outlives_the_connection(self, path: Path):
        """What was saved is there for the next connection, of this back end or another."""
        for count in range(3):
            async with open_backend(path, wal_mode=count != 1) as backend:
                assert len(await backend.tasks.list_tasks()) == count
                await backend.tasks.save(make_task(str(count)))

    async def test_calls_that_race_with_disconnect(self, path: Path):
        """Whatever is under way when it closes is done, or raises an error of ours: never the driver's, never a hang."""
        backend = make_backend(path)
        for _ in range(5):
            await backend.connect()
            await backend.migrate()
            calls = [backend.tasks.save(make_task(str(n))) for n in range(5)]
            calls += [backend.tasks.get(str(n)) for n in range(5)]
            calls += [backend.migrate(), store_of(backend).begin(), backend.health_check()]
            outcomes = await asyncio.gather(
                *calls[:7], backend.disconnect(), *calls[7:], return_exceptions=True
            )
            errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            assert all(isinstance(error, PersistenceConnectionError) for error in errors), errors
            for outcome in outcomes:
                if hasattr(outcome, "rollback"):
                    await outcome.rollback()
            await backend.disconnect()

    async def test_health_of_a_broken_connection(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        """A database that does not answer is not healthy; asking never raises."""

        async def fail(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        async with open_backend(path) as backend:
            with monkeypatch.context() as patched:
                patched.setattr(JobConnection, "run", fail)
                assert not await backend.health_check()
            assert await backend.health_check()


class TestNotConnected:
    """Rule 8: used before connect, after disconnect, or from a repository that was kept."""

    @pytest.mark.parametrize("name", ["tasks", "cost_records", "messages", "audit_entries"])
    async def test_repositories_need_a_connection(self, path: Path, name: str):
        """Each raises where it is asked for."""
        backend = make_backend(path)
        for _ in range(2):
            with pytest.raises(PersistenceConnectionError, match=r"call connect\(\) first"):
                getattr(backend, name)
            await backend.connect()
            await backend.disconnect()

    async def test_kept_repositories_need_one_too(self, path: Path):
        """A repository from before raises when it is used."""
        async with open_backend(path) as backend:
            tasks = backend.tasks
        with pytest.raises(PersistenceConnectionError):
            await tasks.save(make_task())
        with pytest.raises(PersistenceConnectionError):
            await tasks.get("task")
        with pytest.raises(PersistenceConnectionError):
            await backend.migrate()


class TestFailedStatements:
    """Rule 1: what failed is over when its caller hears of it."""

    @pytest.mark.parametrize("wal_mode", [True, False])
    async def test_next_caller_is_not_concerned(self, path: Path, wal_mode: bool):  # noqa: FBT001  # a parameter of the test
        """No transaction stays open: another process can write at once, and nothing of the failed unit appears."""
        async with open_backend(path, wal_mode=wal_mode) as backend:
            message = make_message()
            with pytest.raises(QueryError):
                await backend.tasks.get("\ud800")
            with pytest.raises(Exception, match="already exists"):
                await backend.messages.save_many([message, message])
            query(
                path,
                "INSERT INTO tasks SELECT 'x', 'x', 'x', 'x', 'x', 'x', 'x', NULL, '[]', '[]', '[]', '[]', 'x', 0, NULL, 1, 'x', NULL, '[]', NULL, 'x'",
            )
            await backend.messages.save(message)
            assert len(await backend.messages.get_history("general")) == 1
            assert await backend.tasks.delete("x")

    async def test_readers_are_bounded(self, path: Path):
        """However many callers read at once, there are no more connections than the limit, and all are served."""
        options = SQLiteOptions(path=path, readers_max=3)
        async with open_store(options) as store:
            found = await asyncio.gather(*(read_rows(store, "SELECT 1") for _ in range(50)))
            assert found == [[(1,)]] * 50
            assert 1 <= len(store._connections.readers) <= 3

    async def test_reader_that_cannot_be_opened(self, path: Path):
        """The caller is told, nothing is left open, and the next read tries again."""
        async with open_store(SQLiteOptions(path=path)) as store:
            with open_files_limited_to(0), pytest.raises(PersistenceConnectionError):
                await read_rows(store, "SELECT 1")
            assert await read_rows(store, "SELECT 1") == [(1,)]

    async def test_batch_that_fails_as_a_whole(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        """Even a ROLLBACK that fails comes out as an error of ours, and its transaction's writer is free."""

        def fail(_: sqlite3.Connection) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        # The function that fails is Python's.
        with using_engine("python"):
            python_store = make_store(SQLiteOptions(path=path))
        async with connected(python_store) as store:
            transaction = await store.begin()
            with monkeypatch.context() as patched:
                patched.setattr("tenantry.storage.sqlite.connections.transaction.roll_back", fail)
                with pytest.raises(QueryError):
                    await transaction.rollback()
            await store._connections.writer.run(lambda connection: connection.execute("ROLLBACK").close())
            with monkeypatch.context() as patched:
                patched.setattr("tenantry.storage.sqlite.statements.batch.roll_back", fail)
                with pytest.raises(QueryError):
                    await store.write([(rows("SELECT 1"),)])
            assert await store.write([(run("CREATE TABLE t (n)"),)]) == [[None]]

    async def test_malformed_row_is_named_and_the_rest_is_readable(self, path: Path):
        """Rule 9: a row that someone else spoilt is named; pages without it are read."""
        async with open_backend(path) as backend:
            await backend.tasks.save(make_task("good", project="apollo"))
            await backend.tasks.save(make_task("spoilt", project="zeus"))
            query(path, "UPDATE tasks SET reviewers = 'no JSON' WHERE id = 'spoilt'")
            with pytest.raises(MalformedRowError) as caught:
                await backend.tasks.get("spoilt")
            assert (caught.value.entity, caught.value.record_id) == ("task", "spoilt")
            with pytest.raises(MalformedRowError):
                await backend.tasks.list_tasks()
            assert len(await backend.tasks.list_tasks(project="apollo")) == 1


class TestCancellation:
    """Rule 2: a cancelled caller loses the reply, never half a transaction and nobody else's rows."""

    @pytest.mark.parametrize("is_begun", [True, False], ids=["begun", "waiting"])
    async def test_cancelled_save_many(self, path: Path, is_begun: bool):  # noqa: FBT001  # a parameter of the test
        """Cancelled while its batch runs, all of it may be kept; while it waits, nothing is. Others' rows are all there."""
        # Only a job of Python says when it runs; `engine/test_engines.py` cancels batches of the engine.
        async with open_backend(path, engine="python") as backend:
            store = store_of(backend)
            with held_writer(path):
                first = asyncio.create_task(
                    backend.cost_records.save_many([make_cost_record(agent_id="first")] * 3)
                )
                await reached(lambda: store._connections.writer._running_job is not None)
                second = asyncio.create_task(
                    backend.cost_records.save_many([make_cost_record(agent_id="second")] * 3)
                )
                third = asyncio.create_task(backend.cost_records.save(make_cost_record(agent_id="third")))
                for _ in range(3):
                    await asyncio.sleep(0)
                cancelled = first if is_begun else second
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
            await asyncio.gather(first, second, third, return_exceptions=True)
            counts = {
                agent: len(await backend.cost_records.query(agent_id=agent))
                for agent in ("first", "second", "third")
            }
            # The one that had begun was already on the thread, which nobody stops.
            assert counts == (
                {"first": 3, "second": 3, "third": 1} if is_begun else {"first": 3, "second": 0, "third": 1}
            )

    async def test_cancelled_read_frees_its_reader(self, path: Path):
        """A query that would run for minutes is interrupted, on a reader and on the writer's own connection."""
        for options in (SQLiteOptions(path=path), SQLiteOptions(path=None, is_read_by_writer=True)):
            async with open_store(options) as store:
                await read_rows(store, "SELECT 1")
                connection = (
                    store._connections.writer if options.is_read_by_writer else store._connections.readers[0]
                )
                reading = asyncio.ensure_future(store.read([rows(COUNT_TO_A_BILLION)]))
                await reached(lambda c=connection: c._running_job is not None)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                assert await read_rows(store, "SELECT 2") == [(2,)]
                assert await store.write([(run("CREATE TABLE t (n)"),)]) == [[None]]

    async def test_cancelled_begin_leaves_no_transaction(self, path: Path):
        """Cancelled while BEGIN waits for another process, it leaves the writer free and outside of a transaction."""
        async with open_store(SQLiteOptions(path=path), "CREATE TABLE t (n)") as store:
            with held_writer(path):
                beginning = asyncio.create_task(store.begin())
                await reached(store._writer_lock.locked)
                await asyncio.sleep(0)
                beginning.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await beginning
            assert await store.write([(run("INSERT INTO t VALUES (1)"),)]) == [[None]]
            query(path, "INSERT INTO t VALUES (2)")

    async def test_cancelled_commit_is_whole_or_undone(self, path: Path):
        """Cancelled while it commits, a transaction is committed or rolled back, and over."""
        async with open_store(SQLiteOptions(path=path), "CREATE TABLE t (n)") as store:
            for steps in range(4):
                transaction = await store.begin()
                await transaction.write(
                    (run("INSERT INTO t VALUES (?)", steps), run("INSERT INTO t VALUES (?)", steps))
                )
                committing = asyncio.create_task(transaction.commit())
                for _ in range(steps):
                    await asyncio.sleep(0)
                committing.cancel()
                await asyncio.gather(committing, return_exceptions=True)
                await transaction.rollback()
                with pytest.raises(TransactionClosedError):
                    await transaction.write((rows("SELECT 1"),))
            counts = await read_rows(store, "SELECT COUNT(*) FROM t GROUP BY n")
            assert set(counts) <= {(2,)}


async def test_loses_its_connection_under_a_transaction(path: Path):
    """A connection that is closed behind a transaction's back ends it: it raises, and its end is harmless."""
    store = make_store(SQLiteOptions(path=path))
    await store.connect()
    transaction = await store.begin()
    await store._connections.writer.aclose()
    with pytest.raises(TransactionClosedError, match="disconnected"):
        await transaction.write((rows("SELECT 1"),))
    await transaction.rollback()
    with pytest.raises(PersistenceConnectionError):
        await store.write([(rows("SELECT 1"),)])
    await store.disconnect()


async def test_wal_that_cannot_be_had_is_a_warning(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file system without a write-ahead log still works, with a rollback journal."""
    store = make_store(SQLiteOptions(path=path, is_read_by_writer=True))

    class NoWal(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("journal_mode = WAL", "journal_mode = DELETE"), *args)

    monkeypatch.setattr(sqlite3, "connect", connecting(NoWal))
    await store.connect()
    await store.migrate()
    assert await store.health_check()
    await store.disconnect()


async def test_wal_that_others_use_is_kept_with_a_warning(path: Path):
    """A file whose write-ahead log is in use cannot leave that mode: it is said, and everything works all the same."""
    async with open_backend(path) as other:
        with capture_logs() as logs:
            async with open_backend(path, wal_mode=False) as backend:
                await backend.tasks.save(make_task())
        assert await other.tasks.get("task") is not None
    (warning,) = [entry for entry in logs if entry["event"] == events.BACKEND_WAL_MODE_FAILED]
    assert (warning["log_level"], warning["mode"]) == ("warning", "wal")
    assert query(path, "PRAGMA journal_mode") == [("wal",)]


async def test_wal_waits_for_who_opens_the_file_too(path: Path, monkeypatch: pytest.MonkeyPatch):
    """SQLite is busy at once, without its timeout, when another connection writes to the file that is to be switched."""
    query(path, "CREATE TABLE t (n)")
    other = _CONNECT(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    class Waiting(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql == "BEGIN EXCLUSIVE":
                other.close()
            return super().execute(sql, *args)

    monkeypatch.setattr(sqlite3, "connect", connecting(Waiting))
    store = make_store(SQLiteOptions(path=path))
    await store.connect()
    await store.disconnect()
    assert query(path, "PRAGMA journal_mode") == [("wal",)]


async def test_wal_is_not_waited_for_for_ever(path: Path):
    """Past the busy timeout the connection fails, and may be tried again."""
    query(path, "CREATE TABLE t (n)")
    store = make_store(SQLiteOptions(path=path, busy_timeout_seconds=0.0))
    with held_writer(path), pytest.raises(PersistenceConnectionError) as caught:
        await store.connect()
    assert (caught.value.code, caught.value.is_retryable) == ("SQLITE_BUSY", True)
    await store.connect()
    await store.disconnect()


async def test_no_statements_are_no_write(path: Path):
    """Nothing to do needs no lock, which another process has at the moment."""
    store = make_store(SQLiteOptions(path=path, busy_timeout_seconds=0.0))
    await store.connect()
    with held_writer(path):
        assert await StoreSession(store, EventLog()).write() == []
    await store.disconnect()


def test_config_refuses_what_is_no_path():
    """Rule 11 for the path that a program gives: no URI, no way up, no NUL."""
    for path in ("", "  ", "a\0b", "file:a.db", "../a.db", "/data/../etc/a.db"):
        with pytest.raises(ValueError, match="path"):
            SQLiteConfig(path=path)


def packed(path: Path, *schemas: Schema) -> PersistenceBackend:
    """Return a disconnected back end with these packs."""
    return create_backend(
        PersistenceConfig(backend="sqlite", sqlite=SQLiteConfig(path=str(path))), schemas=schemas
    )


class TestPacks:
    """Packs of one's own without a registry, with the pack of the examples."""

    @pytest.fixture
    def invoices(self, monkeypatch: pytest.MonkeyPatch) -> Schema:
        """The pack."""
        monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
        (pack,) = load_schemas(["invoices:INVOICES"])
        return pack

    async def test_beside_the_built_in_pack(self, path: Path, invoices: Schema):
        """The database has the tables of both; the repository is given by its type."""
        backend = packed(path, COMPANY, invoices)
        with pytest.raises(PersistenceConnectionError):
            backend.repository(invoices.repositories["invoices"])
        await backend.connect()
        await backend.migrate()
        await backend.tasks.save(make_task())
        assert not await backend.repository(invoices.repositories["invoices"]).of_customer("initech")
        await backend.disconnect()

    async def test_without_the_built_in_pack(self, path: Path, invoices: Schema):
        """There are no tasks, and the error says which packs there are."""
        backend = packed(path, invoices)
        await backend.connect()
        with pytest.raises(AttributeError, match=r"there is no 'tasks': .*packs: invoices"):
            _ = backend.tasks
        await backend.disconnect()

    async def test_packs_that_do_not_fit_together(self, path: Path, invoices: Schema):
        """Two packs of one name are refused at once, and two with one table before the database is migrated."""
        with pytest.raises(MigrationError, match="two schemas are named 'invoices'"):
            packed(path, invoices, invoices)
        backend = packed(path, invoices, Schema("bills", "invoices"))
        await backend.connect()
        with pytest.raises(MigrationError, match="'invoices' and 'bills' both create the table 'invoices'"):
            await backend.migrate()
        await backend.disconnect()
