"""When the engine leaves a batch to Python before it has written anything: another owner, a changed file, an open transaction."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine_rig import Rig, counted
from stores import rows, run
from tenantry.storage.sqlite.connections.immutable import ImmutableFile
from tenantry.storage.sqlite.engine.native import READ, WRITE

OWNER = "CREATE TABLE tenantry_owner (id INTEGER PRIMARY KEY, owner, epoch DEFAULT 1)"
INSERT = (run("INSERT INTO t (value) VALUES (1)"),)


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Rig]:
    """A rig whose writes are guarded."""
    rig = Rig(tmp_path / "owned.db", OWNER, "CREATE TABLE t (value)", token="token")
    yield rig
    rig.close()


@pytest.mark.parametrize("owner", [None, "", "toke", "token2", "TOKEN", "token\0", "\0token", b"token", 5])
def test_other_owner(owned: Rig, owner: Any):
    """A write runs only if the file holds exactly this owner's token; a read needs no owner."""
    owned.connection.execute("INSERT INTO tenantry_owner (id, owner) VALUES (1, 'token')")
    assert owned.write(INSERT) == [[None]]
    owned.connection.execute("UPDATE tenantry_owner SET owner = ?", (owner,))
    with counted(owned.module, in_python=1):
        assert owned.run(WRITE, INSERT) is None
    assert not owned.connection.in_transaction
    assert owned.read(rows("SELECT * FROM t")) == [[(1,)]]


def test_no_owner(owned: Rig):
    """A write of a file without an owner, or without the owner's table, is Python's."""
    assert owned.run(WRITE, INSERT) is None
    owned.connection.execute("DROP TABLE tenantry_owner")
    assert owned.run(WRITE, INSERT) is None
    assert owned.read(rows("SELECT * FROM t")) == [[]]


def test_open_transaction(rig: Rig):
    """A batch never runs inside a transaction of Python, and does not end it."""
    rig.connection.execute("BEGIN")
    rig.connection.execute("INSERT INTO t (value) VALUES (1)")
    for kind, unit in ((READ, rows("SELECT 1")), (WRITE, INSERT)):
        assert rig.run(kind, unit) is None
    assert rig.connection.in_transaction
    rig.connection.execute("ROLLBACK")
    assert rig.read(rows("SELECT count(*) FROM t")) == [[(0,)]]


def test_locked_file(tmp_path: Path, rig: Rig):
    """A write to a file that another connection writes is refused with SQLite's code and message; later writes succeed."""
    rig.connection.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(tmp_path / "rig.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert rig.run(WRITE, INSERT).refusal() == (sqlite3.SQLITE_BUSY, b"database is locked")
        assert rig.run(READ, rows("SELECT 1 FROM t"), rows("SELECT 1 FROM t")) is None
        other.execute("ROLLBACK")
    assert rig.write(INSERT) == [[None]]


def test_read_that_writes(rig: Rig):
    """A statement that writes is no read, and a statement that ends a transaction breaks nothing."""
    for sql in ("INSERT INTO t (value) VALUES (1) RETURNING 1", "DELETE FROM t", "COMMIT", "BEGIN"):
        rig.run(READ, rows(sql))
        rig.run(READ, rows("SELECT 1"), rows(sql), rows("SELECT 2"))
        assert not rig.connection.in_transaction
    for sql in ("COMMIT", "ROLLBACK", "COMMIT; SELECT 1"):
        assert rig.run(WRITE, INSERT, (run(sql),)) is None
        rig.connection.execute("DELETE FROM t")
        assert not rig.connection.in_transaction


NAMES = ["plain.db", "ä €.db", os.fsdecode(b"not utf-8 \xff.db")]


@pytest.mark.parametrize("name", NAMES)
def test_changed_immutable_file(tmp_path: Path, name: str):
    """A read of an immutable file is Python's as soon as the file differs from the one that was opened, or has a log."""
    path = tmp_path / name
    Rig(path, "CREATE TABLE t (value)").close()
    file = ImmutableFile.find(path)
    assert file is not None
    rig = Rig(path)
    rig.database = rig.module.Database(rig.connection, None, file.identity)

    def is_taken() -> bool:
        """Return whether the engine reads, which has to agree with Python."""
        is_native = rig.run(READ, rows("SELECT * FROM t")) is not None
        assert is_native == file.is_unchanged()
        return is_native

    assert is_taken()
    log = path.with_name(f"{name}-wal")
    log.write_bytes(b"")
    assert is_taken()
    log.write_bytes(b"x")
    assert not is_taken()
    log.unlink()
    assert is_taken()
    kept = path.stat()
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns + 1))
    assert not is_taken()
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert is_taken()
    moved = path.with_name("moved.db")
    path.rename(moved)
    assert not is_taken()
    path.symlink_to(moved)
    assert not is_taken()
    path.unlink()
    path.mkdir()
    assert not is_taken()
    rig.close()
