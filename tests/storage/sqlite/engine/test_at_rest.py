"""The engine opens a database that was closed cleanly, and declines every other file without a trace."""

import _sqlite3
import ctypes
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine_rig import Rig, needed_engine
from stores import rows
from tenantry.storage.sqlite.connections import hardening
from tenantry.storage.sqlite.engine.native import READ
from tenants import open_files

RELEASED = f"{'released':127}\n".encode()
SUMMARY = "SELECT uid, epoch, owner, applied FROM summary"


class Resting:
    """A file at rest, its lock file, and what the engine is asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.directory = root, root / "tenants" / "acme"
        self.path, self.lock_path = self.directory / "tenant.db", self.directory / "lock"
        self.directory.mkdir(parents=True)
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(
                "PRAGMA user_version = 3; CREATE TABLE summary (uid, epoch, owner, applied);"
                "INSERT INTO summary VALUES ('uid', 7, 'token', '[]')"
            )
        self.lock_path.write_bytes(RELEASED)
        self.rig = Rig()
        self.lock = -1
        self.name = b"1 host token"
        self.summary = SUMMARY

    def opening(self, **changes: Any) -> Any:
        """Return the engine's batch that opens the file."""
        asked = {"root": self.root, "path": self.path, "lock_path": self.lock_path, **changes}
        paths = (str(asked["path"]), str(asked["root"]))
        uri = f"file://{self.path}?mode=ro&immutable=1"
        lock = (str(asked["lock_path"]), self.name)
        return needed_engine().opening(*paths, uri, hardening.PRAGMAS, *lock, self.summary, None)

    def open(self, **changes: Any) -> Any:
        """Let the engine open the file, and take the file over; None if Python must open it."""
        batch = self.rig.run_batch(self.opening(**changes))
        if batch is None:
            return None
        opened = batch.opened()
        self.lock = batch.pass_lock()
        return opened

    def close(self) -> None:
        """Close the rig, and the lock if it is held."""
        self.rig.close()
        if self.lock >= 0:
            os.close(self.lock)


@pytest.fixture
def resting(tmp_path: Path) -> Iterator[Resting]:
    """A file at rest."""
    needed_engine()
    made = Resting(tmp_path / "data")
    yield made
    made.close()


def test_opened(resting: Resting):
    """The caller gets the database, which can be read, the file's identity and the row; the lock file names the caller."""
    database, identity, row = resting.open()
    found = resting.path.stat()
    assert identity == (str(resting.path), found.st_ino, found.st_size, found.st_mtime_ns)
    assert row == ("uid", 7, "token", 3, "[]")
    assert resting.lock_path.read_bytes() == f"{resting.name.decode():127}\n".encode()
    with pytest.raises(BlockingIOError), resting.lock_path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    rig = resting.rig
    rig.database.close()
    rig.database = database
    assert rig.read(rows("SELECT epoch FROM summary")) == [[(7,)]]
    assert rig.run(READ, rows("SELECT sha256('')")) is None  # a function of Python's connection
    os.utime(resting.path, ns=(0, found.st_mtime_ns + 1))
    assert rig.run(READ, rows("SELECT epoch FROM summary")) is None
    database.close()
    database.close()
    assert rig.run(READ, rows("SELECT 1")) is None


def is_open(path: Path) -> bool:
    """Return whether this process has the file open."""
    descriptors = Path("/proc/self/fd").iterdir()
    return path in [descriptor.readlink() for descriptor in descriptors if os.path.lexists(descriptor)]


def test_lost(resting: Resting):
    """A database that is lost without `close` closes its file."""
    opened = resting.open()
    assert opened is not None
    assert is_open(resting.path)
    del opened
    assert not is_open(resting.path)


def test_lost_before_it_is_taken(resting: Resting):
    """A file that was opened, but that nobody takes over, is closed, and its lock is released."""
    batch = resting.rig.run_batch(resting.opening())
    assert batch is not None
    assert is_open(resting.path)
    del batch
    assert not is_open(resting.path)
    assert not is_open(resting.lock_path)
    assert resting.lock_path.read_bytes() == RELEASED


def test_taken_twice(resting: Resting):
    """A file is taken over once, and a batch of another kind, or one that did not run, has none."""
    waiting = resting.opening()
    for wrong in (waiting, resting.rig.run(READ, rows("SELECT 1"))):
        for take in (wrong.opened, wrong.pass_lock):
            with pytest.raises(ValueError, match="opened no file"):
                take()
    batch = resting.rig.run_batch(waiting)
    assert batch.opened() is not None
    resting.lock = batch.pass_lock()
    with pytest.raises(ValueError, match="taken over before"):
        batch.opened()
    assert batch.pass_lock() == -1
    with pytest.raises(ValueError, match="no results"):
        batch.results()


def test_closed(resting: Resting):
    """A batch closes the file and releases the lock; a file of Python's connection, and no lock, are refused."""
    database, _, _ = resting.open()
    assert resting.lock_path.read_bytes() != RELEASED
    with pytest.raises(ValueError, match="not held"):
        database.closing(-1)
    with pytest.raises(TypeError):
        database.closing("lock")
    with pytest.raises(ValueError, match="not one that the engine has opened"):
        resting.rig.database.closing(resting.lock)
    closing_batch, resting.lock = database.closing(resting.lock), -1
    assert is_open(resting.path)
    assert resting.rig.run_batch(closing_batch) is not None
    assert not is_open(resting.path)
    assert not is_open(resting.lock_path)
    assert resting.lock_path.read_bytes() == RELEASED
    database.close()


def test_lent(resting: Resting):
    """A connection of Python uses the engine's from then on, also for what both have begun; the engine goes on with it."""
    database, _, _ = resting.open()
    rig = resting.rig
    rig.database.close()
    rig.database = database
    assert rig.read(rows("SELECT epoch FROM summary")) == [[(7,)]]
    before = open_files(resting.directory)
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    database.lend(connection)
    assert open_files(resting.directory) == before
    assert connection.execute("SELECT uid FROM summary").fetchall() == [("uid",)]
    connection.create_function("twice", 1, lambda value: 2 * value)
    assert rig.read(rows("SELECT twice(epoch) FROM summary")) == [[(14,)]]
    with (
        closing(sqlite3.connect(":memory:")) as unused,
        pytest.raises(ValueError, match="no connection of its own"),
    ):
        database.lend(unused)
    with pytest.raises(ValueError, match="not one that the engine has opened"):
        database.closing(None)
    connection.close()
    assert rig.run(READ, rows("SELECT epoch FROM summary")) is None
    database.close()
    assert not is_open(resting.path)


def mutex_of(connection: sqlite3.Connection) -> int | None:
    """Return the address of the mutex of SQLite's connection; None if no two threads may use the connection at once."""
    find = ctypes.CDLL(_sqlite3.__file__).sqlite3_db_mutex
    find.argtypes, find.restype = [ctypes.c_void_p], ctypes.c_void_p
    mutex: int | None = find(ctypes.c_void_p.from_address(id(connection) + object.__basicsize__))
    return mutex


def test_lent_to_threads(resting: Resting):
    """Two threads may use the connection at once, as every connection of Python: a cursor may end on any thread."""
    database, _, _ = resting.open()
    with closing(sqlite3.connect(":memory:")) as connection:
        assert mutex_of(connection)
        database.lend(connection)
        assert mutex_of(connection)
    database.close()


def test_lent_to_what_cannot_borrow(resting: Resting):
    """A connection that was used or closed, and what is no connection, is refused, and the engine's connection stays as it was."""
    database, _, _ = resting.open()
    with closing(sqlite3.connect(":memory:")) as used:
        used.execute("SELECT 1")
        with pytest.raises(ValueError, match="has been used"):
            database.lend(used)
        assert used.execute("SELECT 2").fetchone() == (2,)
    with pytest.raises(ValueError, match="is closed"):
        database.lend(used)
    with pytest.raises(TypeError):
        database.lend(5)
    database.close()
    with (
        closing(sqlite3.connect(":memory:")) as unused,
        pytest.raises(ValueError, match="no connection of its own"),
    ):
        database.lend(unused)
    assert not is_open(resting.path)


def test_closed_without_a_lock(resting: Resting):
    """A batch closes the file, and leaves the lock."""
    database, _, _ = resting.open()
    assert resting.rig.run_batch(database.closing(None)) is not None
    assert not is_open(resting.path)
    assert is_open(resting.lock_path)


def test_closing_that_never_runs(resting: Resting):
    """A lock that the engine has got is released with the batch."""
    database, _, _ = resting.open()
    batch, resting.lock = database.closing(resting.lock), -1
    assert is_open(resting.lock_path)
    del batch
    assert not is_open(resting.lock_path)


def test_the_largest_inode():
    """The number of an inode has no sign."""
    with closing(sqlite3.connect(":memory:")) as connection:
        needed_engine().Database(connection, None, ("/tenant.db", 2**64 - 1, 1, 1)).close()


def test_forked_child(resting: Resting):
    """A forked child closes the locks that the engine holds, so that a lock ends with the parent."""
    batch = resting.rig.run_batch(resting.opening())
    child = os.fork()
    if not child:
        os._exit(is_open(resting.lock_path) or batch.pass_lock() != -1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert is_open(resting.lock_path)


def change_summary(resting: Resting, sql: str) -> None:
    """Change the row, or the table."""
    with closing(sqlite3.connect(resting.path, isolation_level=None)) as connection:
        connection.execute(sql)


def beside(suffix: str) -> Callable[[Resting], object]:
    """Return what puts a file beside the database."""
    return lambda resting: resting.path.with_name(f"tenant.db{suffix}").write_bytes(b"")


def link_lock(resting: Resting) -> None:
    """Make the lock file a link."""
    resting.lock_path.rename(resting.root / "elsewhere")
    resting.lock_path.symlink_to(resting.root / "elsewhere")


def link_directory(resting: Resting) -> None:
    """Make the tenant's directory a link."""
    resting.directory.rename(resting.root / "elsewhere")
    resting.directory.symlink_to(resting.root / "elsewhere")


def link_file(resting: Resting) -> None:
    """Make the database a link."""
    resting.path.rename(resting.root / "elsewhere.db")
    resting.path.symlink_to(resting.root / "elsewhere.db")


DECLINED: dict[str, Callable[[Resting], object]] = {
    "a log": beside("-wal"),
    "a journal": beside("-journal"),
    "an empty file": lambda resting: resting.path.write_bytes(b""),
    "no file": lambda resting: resting.path.unlink(),
    "an owner with a NUL character": lambda resting: change_summary(
        resting, "UPDATE summary SET owner = 'a' || char(0) || 'b'"
    ),
    "an epoch of another type": lambda resting: change_summary(resting, "UPDATE summary SET epoch = '7'"),
    "no database": lambda resting: resting.path.write_bytes(b"x" * 4096),
    "a linked file": link_file,
    "a linked directory": link_directory,
    "a linked lock file": link_lock,
    "no lock file": lambda resting: resting.lock_path.unlink(),
    "no table": lambda resting: change_summary(resting, "DROP TABLE summary"),
    "no row": lambda resting: change_summary(resting, "DELETE FROM summary"),
    "no owner": lambda resting: change_summary(resting, "UPDATE summary SET owner = NULL"),
    "an undecodable owner": lambda resting: change_summary(
        resting, "UPDATE summary SET owner = CAST(x'ff' AS TEXT)"
    ),
    "an undecodable uid": lambda resting: change_summary(
        resting, "UPDATE summary SET uid = CAST(x'ff' AS TEXT)"
    ),
    "a long name": lambda resting: setattr(resting, "name", b"x" * 128),
    "a wrong query": lambda resting: setattr(resting, "summary", "SELECT 1"),
    "no query": lambda resting: setattr(resting, "summary", ""),
}


@pytest.mark.parametrize("change", DECLINED.values(), ids=DECLINED.keys())
def test_declined(resting: Resting, change: Callable[[Resting], object]):
    """Python opens the file, and finds the lock file as it was."""
    change(resting)
    before = resting.lock_path.read_bytes() if resting.lock_path.exists() else None
    assert resting.open() is None
    assert not is_open(resting.lock_path)
    assert before == (resting.lock_path.read_bytes() if resting.lock_path.exists() else None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"released",
        b"\n",
        b"released x\n",
        f"{'1 host token':127}\n".encode(),
        b"released" + b" " * 200 + b"\n",
        bytes(128),
    ],
)
def test_lock_of_another_owner(resting: Resting, content: bytes):
    """A lock file that does not say that its last holder released it is Python's to judge."""
    resting.lock_path.write_bytes(content)
    assert resting.open() is None
    assert resting.lock_path.read_bytes() == content


def test_held_lock(resting: Resting):
    """A lock that another descriptor holds is not waited for."""
    with resting.lock_path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert resting.open() is None
    assert resting.open() is not None


def test_pragmas(resting: Resting):
    """The engine's connection has the pragmas that every connection sets."""
    rig = resting.rig
    hardening.harden(rig.connection)
    found = "SELECT * FROM pragma_cell_size_check, pragma_cache_size"
    expected = rig.connection.execute(found).fetchall()
    rig.database.close()
    rig.database, _, _ = resting.open()
    assert rig.read(rows(found)) == [expected]


def test_paths(resting: Resting):
    """A path that is not below the root, or too long, is declined, and a path that need not be UTF-8 is taken."""
    for root in (resting.path, resting.root / "tenants" / "acm", "/" + "x" * 4096, resting.root / "other"):
        assert resting.open(root=root) is None
    assert resting.open(path=f"{resting.root}/{'x/' * 3000}y") is None
    assert resting.open(lock_path=f"{resting.root}/{'x' * 5000}") is None
    for wrong in ("a\0b", 5):
        with pytest.raises((TypeError, ValueError)):
            needed_engine().opening(wrong, "/", "", "", None, None, None, None)
    with pytest.raises(UnicodeEncodeError):
        needed_engine().opening("/x", "/", "\ud800", "", None, None, None, None)
    for incomplete in ((None, "/", None, None), ("/x", None, "/l", b""), ("/x", "/", "/l", None)):
        path, root, *lock = incomplete
        with pytest.raises(ValueError, match="needs a"):
            needed_engine().opening(path, root, "", "", *lock, None, None)


def test_modified_at(tmp_path: Path):
    """The time is that of `os.stat`, whatever the name; a missing file has none."""
    file = tmp_path / os.fsdecode(b"\xff")
    assert needed_engine().modified_at(str(file)) is None
    file.write_bytes(b"")
    assert needed_engine().modified_at(str(file)) == file.stat().st_mtime_ns
    with pytest.raises((TypeError, ValueError)):
        needed_engine().modified_at("a\0b")
