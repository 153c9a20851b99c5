"""One owner at a time: the lock, the epoch behind it, and which files are opened at all."""

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from stores import content, make_owned_store, open_owned_store, reached, read_rows, rows, run
from tenantry.errors import (
    DatabaseCorruptError,
    DataDirectoryError,
    MigrationError,
    PersistenceConnectionError,
    StorageFullError,
    TenantOwnedElsewhereError,
)
from tenantry.files import lock_file
from tenantry.storage.sqlite.connections import opening
from tenantry.storage.sqlite.database_files.ownership import FileOwnership
from tenantry.storage.sqlite.store import SQLiteStore
from tenants import open_files, python, query, read_line, threads_since
from warm_process import WarmChild

_OWNER = """
import asyncio, sys
from pathlib import Path
from stores import open_owned_store, run

async def main():
    async with open_owned_store(Path(sys.argv[1])) as store:
        await store.write([(run("CREATE TABLE IF NOT EXISTS t (n INTEGER)"),), (run("INSERT INTO t VALUES (1)"),)])
        print("open", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""

_FORKING_OWNER = """
import asyncio, multiprocessing, os, signal, sys
from pathlib import Path
from stores import open_owned_store, run

def live_on(stdin):
    print(os.getpid(), flush=True)
    os.read(stdin, 1)

async def main():
    async with open_owned_store(Path(sys.argv[1])) as store:
        await store.write([(run("CREATE TABLE t (n INTEGER)"),), (run("INSERT INTO t VALUES (1)"),)])
        if sys.argv[2] == "multiprocessing":  # which gives its children another standard input
            multiprocessing.get_context("fork").Process(target=live_on, args=[os.dup(0)]).start()
        elif os.fork() == 0:
            live_on(0)
            os._exit(0)
        signal.pause()

asyncio.run(main())
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory."""
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def directory(data_dir: Path) -> Path:
    """The tenant's own directory, made already."""
    made = data_dir / "tenants" / "acme"
    made.mkdir(parents=True)
    return made


def other_owner(data_dir: Path, *args: object, script: str = _OWNER) -> AbstractContextManager[WarmChild]:
    """Start a process that opens the tenant's database, writes to it, and keeps it until it gets a line."""
    return python(script, data_dir, *args)


def owner_row(directory: Path) -> tuple[Any, ...]:
    """Return the epoch and the owner that the database names."""
    (row,) = query(directory / "tenant.db", "SELECT epoch, owner FROM tenantry_owner")
    return row


def check_nothing_left(store: SQLiteStore, data_dir: Path) -> None:
    """Assert that a store is closed, with no file open and so no lock held."""
    assert not store.is_connected
    assert open_files(data_dir) == []


def modes_below(directory: Path) -> dict[str, int]:
    """Return the permissions of everything in it, by name."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}


class TestLock:
    """Who has the lock has the file."""

    async def test_second_process_is_told_who_has_it(self, data_dir: Path):
        """While a process has it open another gets its pid and host; after its end the other can open it."""
        with other_owner(data_dir) as process:
            assert read_line(process) == "open"
            store = make_owned_store(data_dir)
            with pytest.raises(TenantOwnedElsewhereError, match=str(process.pid)) as caught:
                await store.connect()
            assert (caught.value.tenant_id, caught.value.pid) == ("acme", process.pid)
            assert caught.value.host == os.uname().nodename
            assert caught.value.is_retryable
            assert open_files(data_dir) == []
            process.communicate("close\n")
            assert process.returncode == 0
        async with open_owned_store(data_dir) as store:
            assert await read_rows(store, "SELECT n FROM t") == [(1,)]

    async def test_killed_process_leaves_it_free(self, data_dir: Path, directory: Path):
        """Kill -9, and the next one opens it at once, finds what was acknowledged, and fences the dead one off."""
        with other_owner(data_dir) as process:
            assert read_line(process) == "open"
            before = owner_row(directory)
            process.kill()
            process.wait()
        async with open_owned_store(data_dir, must_exist=True) as store:
            assert await read_rows(store, "SELECT n FROM t") == [(1,)]
            assert owner_row(directory)[0] == before[0] + 1
            assert await store.write([(run("INSERT INTO t VALUES (2)"),)]) == [[None]]

    @pytest.mark.parametrize("way", ["fork", "multiprocessing"])
    async def test_forked_child_does_not_keep_it(self, data_dir: Path, way: str):
        """A child gives its copy of the lock back, and not the lock: it is the parent's, and ends with the parent."""
        with other_owner(data_dir, way, script=_FORKING_OWNER) as process:
            child = int(read_line(process))
            with pytest.raises(TenantOwnedElsewhereError) as caught:
                await make_owned_store(data_dir).connect()
            assert caught.value.pid == process.pid
            process.kill()
            process.wait()
            os.kill(child, 0)  # it lives
            async with open_owned_store(data_dir, must_exist=True) as store:
                assert await read_rows(store, "SELECT n FROM t") == [(1,)]
            os.kill(child, 0)

    async def test_second_registry_of_one_process_is_refused(self, data_dir: Path):
        """The lock is the open file's, not the process's."""
        async with open_owned_store(data_dir) as store:
            with pytest.raises(TenantOwnedElsewhereError) as caught:
                await make_owned_store(data_dir).connect()
            assert caught.value.pid == os.getpid()
            assert await store.health_check()

    async def test_closed_and_opened_again(self, data_dir: Path, directory: Path):
        """A clean close says so in the lock file; opening and reading after it costs the database no write."""
        store = make_owned_store(data_dir)
        for _ in range(2):
            await store.connect()
            await store.migrate()
            assert f'"pid": {os.getpid()}' in (directory / "lock").read_text()
            await store.disconnect()
            assert (directory / "lock").read_text().split()[0] == "released"
        before = content(directory / "tenant.db")
        async with open_owned_store(data_dir) as reader:
            assert await reader.read([rows("SELECT * FROM tasks")]) == [[]]
        assert content(directory / "tenant.db") == before

    @pytest.mark.parametrize("held", ["", "{", "[]", "5", '{"pid": "x", "host": 1}', '{"pid": null}', "\0"])
    async def test_holder_without_a_name(self, data_dir: Path, directory: Path, held: str):
        """A holder that has not written its name yet, or wrote nonsense, is refused to others all the same."""
        async with open_owned_store(data_dir):
            (directory / "lock").write_text(held)
            with pytest.raises(TenantOwnedElsewhereError, match="process unknown on this host") as caught:
                await make_owned_store(data_dir).connect()
        assert (caught.value.pid, caught.value.host) == (None, None)

    async def test_lock_that_is_removed_while_it_is_taken(
        self, data_dir: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A lock on a file that is no longer at its path locks nobody out: the one that is there is taken."""
        real, calls = lock_file.fcntl.flock, []

        def flock(fd: int, operation: int) -> None:
            real(fd, operation)
            if not calls:
                (directory / "lock").unlink()
            calls.append(fd)

        monkeypatch.setattr(lock_file.fcntl, "flock", flock)
        async with open_owned_store(data_dir):
            assert len(calls) == 2
            with pytest.raises(TenantOwnedElsewhereError):
                await make_owned_store(data_dir).connect()
        assert open_files(data_dir) == []

    @pytest.mark.parametrize("failing", ["flock", "pread", "pwrite"])
    async def test_lock_that_cannot_be_taken(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, failing: str
    ):
        """A file system that fails on the way leaves no lock and no open file; later it can be taken."""

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        store = make_owned_store(data_dir)
        with monkeypatch.context() as patched:
            patched.setattr(lock_file.fcntl if failing == "flock" else lock_file.os, failing, fail)
            with pytest.raises(StorageFullError, match=r"cannot lock .*: free space on the disk"):
                await store.connect()
        assert open_files(data_dir) == []
        await store.connect()
        await store.disconnect()

    async def test_release_that_cannot_be_written(
        self, data_dir: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """The lock goes even if the file cannot say so; the next owner then takes the last for one that crashed."""
        store = make_owned_store(data_dir)
        await store.connect()
        await store.migrate()
        epoch = owner_row(directory)[0]

        def fail(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patched:
            patched.setattr(lock_file.os, "pwrite", fail)
            await store.disconnect()
        assert open_files(data_dir) == []
        async with open_owned_store(data_dir):
            assert owner_row(directory)[0] == epoch + 1

    async def test_cancelled_while_opening_gives_the_lock_back(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A caller that is cancelled while its store opens leaves no lock, no file and no thread."""
        threads = set(threading.enumerate())
        locked, go = threading.Event(), threading.Event()
        acquire = FileOwnership.acquire

        def slow_acquire(self: FileOwnership) -> None:
            acquire(self)
            locked.set()
            assert go.wait(60)

        monkeypatch.setattr(FileOwnership, "acquire", slow_acquire)
        store = make_owned_store(data_dir)
        caller = asyncio.create_task(store.connect())
        await reached(locked.is_set)
        caller.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert not store.is_connected
        assert open_files(data_dir) == []
        assert threads_since(threads) == []
        async with open_owned_store(data_dir):
            pass


class TestEpoch:
    """An owner that lost its lock without noticing cannot write."""

    @pytest.mark.parametrize("has_written", [True, False])
    async def test_replaced_owner_is_fenced_off(self, data_dir: Path, directory: Path, has_written: bool):  # noqa: FBT001  # a parameter of the test
        """The lock file was removed and someone else took a new one: the old owner's next write fails and is not stored."""
        async with open_owned_store(data_dir) as first:
            await first.write([(run("CREATE TABLE t (n)"),)])
        async with open_owned_store(data_dir) as old:
            if has_written:
                await old.write([(run("INSERT INTO t VALUES (1)"),)])
            (directory / "lock").unlink()
            async with open_owned_store(data_dir) as new:
                for outcome in await old.write([(run("INSERT INTO t VALUES (2)"),), (rows("SELECT 1"),)]):
                    assert isinstance(outcome, TenantOwnedElsewhereError)
                    assert outcome.pid == os.getpid()
                with pytest.raises(TenantOwnedElsewhereError):
                    await old.begin()
                assert await new.write([(run("INSERT INTO t VALUES (3)"),)]) == [[None]]
                found = [(1,), (3,)] if has_written else [(3,)]
                assert await read_rows(new, "SELECT n FROM t ORDER BY n") == found
            (outcome,) = await old.write([(run("INSERT INTO t VALUES (4)"),)])
            assert isinstance(outcome, TenantOwnedElsewhereError)
            assert outcome.pid is None  # the new owner has closed and left no name
        assert query(directory / "tenant.db", "SELECT n FROM t ORDER BY n") == found

    async def test_replaced_owner_finds_no_lock_file_at_all(self, data_dir: Path, directory: Path):
        """The new owner's name is only for the message: without it the old owner is refused all the same."""
        async with open_owned_store(data_dir) as old:
            (directory / "lock").unlink()
            async with open_owned_store(data_dir):
                (directory / "lock").unlink()
                (outcome,) = await old.write([(rows("SELECT 1"),)])
        assert isinstance(outcome, TenantOwnedElsewhereError)

    async def test_first_write_raises_it_once(self, data_dir: Path, directory: Path):
        """After a clean close the epoch goes up with the first write, in that write's transaction, and stays."""
        async with open_owned_store(data_dir) as store:
            pass
        epoch = owner_row(directory)[0]
        async with open_owned_store(data_dir) as store:
            assert owner_row(directory)[0] == epoch
            await store.write([(run("CREATE TABLE t (n)"),)])
            await store.write([(run("INSERT INTO t VALUES (1)"),)])
            assert owner_row(directory)[0] == epoch + 1

    async def test_epoch_of_a_lost_transaction_is_raised_again(self, data_dir: Path, directory: Path):
        """A first write that was rolled back took the epoch with it; the next one raises it."""
        async with open_owned_store(data_dir) as store:
            await store.write(
                [(run("CREATE TABLE t (n INTEGER PRIMARY KEY)"),), (run("INSERT INTO t VALUES (1)"),)]
            )
        epoch = owner_row(directory)[0]
        async with open_owned_store(data_dir) as store:
            transaction = await store.begin()
            await transaction.rollback()
            assert owner_row(directory)[0] == epoch
            outcomes = await store.write(
                [(run("INSERT OR ROLLBACK INTO t VALUES (1)"),), (run("INSERT INTO t VALUES (2)"),)]
            )
            assert outcomes[1] == [None]
            assert owner_row(directory)[0] == epoch + 1

    async def test_owner_that_could_not_fence_leaves_that_to_the_next(self, data_dir: Path, directory: Path):
        """Whoever closes before it could raise the epoch does not say that all is well."""
        async with open_owned_store(data_dir):
            pass
        (directory / "lock").write_text("{}")  # as a crashed owner leaves it, who may yet be alive
        epoch = owner_row(directory)[0]
        with pytest.raises(DatabaseCorruptError):
            await make_owned_store(data_dir, uid="uid-2").connect()
        assert (directory / "lock").read_text().split() != ["released"]
        async with open_owned_store(data_dir):
            assert owner_row(directory)[0] == epoch + 1


class TestFiles:
    """What is opened, and with which rights."""

    async def test_database_of_another_tenant_is_refused(self, data_dir: Path, directory: Path):
        """A file that was put into the wrong directory is found out, not changed, and left closed and unlocked."""
        async with open_owned_store(data_dir, uid="uid-2"):
            pass
        before = content(directory / "tenant.db")
        store = make_owned_store(data_dir, uid="uid-1")
        for _ in range(2):
            with pytest.raises(DatabaseCorruptError, match="another tenant"):
                await store.connect()
            check_nothing_left(store, data_dir)
        assert content(directory / "tenant.db") == before
        async with open_owned_store(data_dir, uid="uid-2"):
            pass

    async def test_failed_claim_leaves_no_transaction(self, data_dir: Path, directory: Path):
        """A claim that fails half way is rolled back whole, and its caller finds the store closed and unlocked."""
        query(directory / "tenant.db", "CREATE TABLE schema_migrations (schema, version, checksum)")
        query(directory / "tenant.db", "CREATE VIEW tenantry_owner AS SELECT 1 AS id")
        before = content(directory / "tenant.db")
        store = make_owned_store(data_dir)
        with pytest.raises(PersistenceConnectionError, match="tenantry_owner"):
            await store.connect()
        check_nothing_left(store, data_dir)
        assert (directory / "lock").read_text().split() != ["released"]
        assert content(directory / "tenant.db") == before
        query(directory / "tenant.db", "DROP VIEW tenantry_owner")
        await store.connect()
        await store.disconnect()

    async def test_refused_migrations_leave_the_file_unclaimed(self, data_dir: Path, directory: Path):
        """A newer file is opened, for its refusal is migrate's to say; until then it is neither claimed nor changed."""
        query(directory / "tenant.db", "PRAGMA user_version = 99")
        before = (directory / "tenant.db").read_bytes()
        store = make_owned_store(data_dir)
        for _ in range(2):
            await store.connect()
            for _ in range(2):
                with pytest.raises(MigrationError, match="newer than"):
                    await store.migrate()
            await store.disconnect()
            check_nothing_left(store, data_dir)
        assert (directory / "lock").read_text().split() != ["released"]
        assert (directory / "tenant.db").read_bytes() == before
        assert set(modes_below(directory)) == {"lock", "tenant.db"}

    async def test_plan_of_a_past_connection_is_not_a_migration(self, data_dir: Path):
        """What was planned when it was open says nothing once it is closed: migrate needs a connection."""
        async with open_owned_store(data_dir):
            pass
        store = make_owned_store(data_dir)
        await store.connect()
        await store.disconnect()
        with pytest.raises(PersistenceConnectionError, match=r"connect\(\) first") as caught:
            await store.migrate()
        assert not caught.value.is_retryable

    @pytest.mark.parametrize("found", ["missing", "empty"])
    async def test_database_that_must_exist(self, data_dir: Path, directory: Path, found: str):
        """A tenant whose file went, or was emptied, is not given a new one."""
        if found == "empty":
            (directory / "tenant.db").touch()
        with pytest.raises(DatabaseCorruptError, match="missing or empty"):
            await make_owned_store(data_dir, must_exist=True).connect()
        assert not (directory / "tenant.db").exists() or (directory / "tenant.db").stat().st_size == 0

    async def test_everything_is_private(self, data_dir: Path):
        """Directories are 0700 and files 0600, those of the write-ahead log too, whatever the umask is."""
        umask = os.umask(0)
        try:
            async with open_owned_store(data_dir) as store:
                await store.write([(run("CREATE TABLE t (n)"),)])
                await read_rows(store, "SELECT * FROM t")
                modes = modes_below(data_dir)
        finally:
            os.umask(umask)
        files = dict.fromkeys(["tenant.db", "tenant.db-wal", "tenant.db-shm", "lock"], 0o600)
        assert modes == {"tenants": 0o700, "acme": 0o700, **files}

    @pytest.mark.parametrize(
        "linked", ["tenants", "tenants/acme", "tenants/acme/tenant.db", "tenants/acme/lock"]
    )
    @pytest.mark.parametrize("is_dangling", [True, False], ids=["dangling", "to-something"])
    async def test_links_are_refused(self, data_dir: Path, tmp_path: Path, linked: str, is_dangling: bool):  # noqa: FBT001  # a parameter of the test
        """A symbolic link anywhere below the data directory leads nowhere: what it points to is neither read nor made."""
        target, path = tmp_path / "elsewhere", data_dir / linked
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
        if not is_dangling:
            target.mkdir() if path.suffix == "" and path.name != "lock" else target.touch()
        with pytest.raises(PersistenceConnectionError):
            await make_owned_store(data_dir).connect()
        assert target.exists() is not is_dangling
        if target.is_dir():
            assert list(target.iterdir()) == []
        assert open_files(data_dir) == []

    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "fifo"])
    @pytest.mark.parametrize("name", ["tenant.db", "lock"])
    async def test_what_is_no_file_is_refused(
        self, data_dir: Path, directory: Path, make: Callable[[Path], None], name: str
    ):
        """A directory or a pipe in a file's place is neither opened nor waited for."""
        make(directory / name)
        with pytest.raises(PersistenceConnectionError):
            await make_owned_store(data_dir).connect()
        assert open_files(data_dir) == []

    async def test_file_on_the_way_is_refused(self, data_dir: Path):
        """A file where a directory should be is named."""
        (data_dir / "tenants").touch()
        with pytest.raises(DataDirectoryError) as caught:
            await make_owned_store(data_dir).connect()
        assert caught.value.path == str(data_dir / "tenants")

    async def test_replaced_while_it_is_opened(
        self, data_dir: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """The path must lead to the file that was looked at: one that was swapped meanwhile is refused."""
        real = opening.read_file_version

        def replace_then_read(connection: Any) -> int:
            (directory / "new").touch()
            (directory / "new").rename(directory / "tenant.db")
            return real(connection)

        monkeypatch.setattr(opening, "read_file_version", replace_then_read)
        with pytest.raises(PersistenceConnectionError, match="was replaced"):
            await make_owned_store(data_dir).connect()
        assert open_files(data_dir) == []
