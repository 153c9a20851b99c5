"""The engine opens a database that was closed cleanly, and declines every other file without a trace."""

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

RELEASED = f"{'released':127}\n".encode()
SUMMARY = "SELECT uid, epoch, owner, version, applied FROM summary"


class Resting:
    """A file at rest, its lock file, and what the engine is asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.directory = root, root / "tenants" / "acme"
        self.path, self.lock_path = self.directory / "tenant.db", self.directory / "lock"
        self.directory.mkdir(parents=True)
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(
                "CREATE TABLE summary (uid, epoch, owner, version, applied);"
                "INSERT INTO summary VALUES ('uid', 7, 'token', 3, '[]')"
            )
        self.lock_path.write_bytes(RELEASED)
        self.lock = os.open(self.lock_path, os.O_RDWR)
        self.name = b"1 host token"
        self.summary = SUMMARY

    def open(self, **changes: Any) -> Any:
        """Let the engine open the file."""
        asked = {"root": self.root, "path": self.path, "lock_path": self.lock_path, **changes}
        uri = f"file://{self.path}?mode=ro&immutable=1"
        return needed_engine().open_at_rest(
            self.lock,
            str(asked["lock_path"]),
            self.name,
            str(asked["root"]),
            str(asked["path"]),
            uri,
            self.summary,
        )


@pytest.fixture
def resting(tmp_path: Path) -> Iterator[Resting]:
    """A file at rest."""
    needed_engine()
    made = Resting(tmp_path / "data")
    yield made
    os.close(made.lock)


def test_opened(resting: Resting):
    """The caller gets the database, which can be read, the file's identity and the row; the lock file names the caller."""
    database, identity, row = resting.open()
    found = resting.path.stat()
    assert identity == (str(resting.path), found.st_ino, found.st_size, found.st_mtime_ns)
    assert row == ("uid", 7, "token", 3, "[]")
    assert resting.lock_path.read_bytes() == f"{resting.name.decode():127}\n".encode()
    with pytest.raises(BlockingIOError), resting.lock_path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    rig = Rig()
    rig.database.close()
    rig.database = database
    assert rig.read(rows("SELECT epoch FROM summary")) == [[(7,)]]
    assert rig.run(READ, rows("SELECT sha256('')")) is None  # a function of Python's connection
    os.utime(resting.path, ns=(0, found.st_mtime_ns + 1))
    assert rig.run(READ, rows("SELECT epoch FROM summary")) is None
    database.close()
    database.close()
    assert rig.run(READ, rows("SELECT 1")) is None
    rig.close()


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


def change_summary(resting: Resting, sql: str) -> None:
    """Change the row, or the table."""
    with closing(sqlite3.connect(resting.path, isolation_level=None)) as connection:
        connection.execute(sql)


def beside(suffix: str) -> Callable[[Resting], object]:
    """Return what puts a file beside the database."""
    return lambda resting: resting.path.with_name(f"tenant.db{suffix}").write_bytes(b"")


def replace_lock(resting: Resting) -> None:
    """Put another lock file at the path of the lock file that is open."""
    resting.lock_path.unlink()
    resting.lock_path.write_bytes(RELEASED)


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
    "no database": lambda resting: resting.path.write_bytes(b"x" * 4096),
    "a linked file": link_file,
    "a linked directory": link_directory,
    "another lock file": replace_lock,
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
    assert resting.open() is None
    assert os.pread(resting.lock, 200, 0) == RELEASED


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
    rig = Rig()
    hardening.harden(rig.connection)
    found = "SELECT * FROM pragma_cell_size_check, pragma_cache_size"
    expected = rig.connection.execute(found).fetchall()
    rig.database.close()
    rig.database, _, _ = resting.open()
    assert rig.read(rows(found)) == [expected]
    rig.close()


def test_paths(resting: Resting):
    """A path that is not below the root, or too long, is declined, and a path that need not be UTF-8 is taken."""
    for root in (resting.path, resting.root / "tenants" / "acm", "/" + "x" * 4096, resting.root / "other"):
        assert resting.open(root=root) is None
    assert resting.open(path=f"{resting.root}/{'x/' * 3000}y") is None
    assert resting.open(lock_path=f"{resting.root}/{'x' * 5000}") is None
    for wrong in ("a\0b", 5):
        with pytest.raises((TypeError, ValueError)):
            needed_engine().open_at_rest(resting.lock, wrong, b"", "/", "/x", "", "")


def test_modified_at(tmp_path: Path):
    """The time is that of `os.stat`, whatever the name; a missing file has none."""
    file = tmp_path / os.fsdecode(b"\xff")
    assert needed_engine().modified_at(str(file)) is None
    file.write_bytes(b"")
    assert needed_engine().modified_at(str(file)) == file.stat().st_mtime_ns
    with pytest.raises((TypeError, ValueError)):
        needed_engine().modified_at("a\0b")
