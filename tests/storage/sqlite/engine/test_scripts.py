"""Scripts that set a connection up run in the engine, and again in Python if SQLite refuses them."""

import sqlite3

import pytest

from engine_rig import Rig
from tenantry.storage.sqlite.connections.script import run_script


def test_script(rig: Rig):
    """All statements run, and rows do not matter."""
    run_script("PRAGMA cache_size = -321; SELECT 1; INSERT INTO t VALUES (1, 2);", rig.module, rig.connection)
    assert rig.connection.execute("PRAGMA cache_size").fetchone() == (-321,)
    assert rig.connection.execute("SELECT * FROM t").fetchall() == [(1, 2)]


def test_refused_script(rig: Rig):
    """The error is that of Python's driver."""
    with pytest.raises(sqlite3.OperationalError, match="no such table: missing") as refused:
        run_script("SELECT 1; SELECT * FROM missing;", rig.module, rig.connection)
    assert refused.value.sqlite_errorname == "SQLITE_ERROR"


def test_callback_of_python(rig: Rig):
    """A script may call functions of Python, which need the interpreter's lock."""
    seen: list[int] = []
    rig.connection.create_function("note", 1, seen.append)
    run_script("SELECT note(1); SELECT note(2);", rig.module, rig.connection)
    assert seen == [1, 2]


def test_wrong_use(rig: Rig):
    """A closed connection, another object, and another script are refused."""
    for wrong in ((object(), ""), (rig.connection, b""), (rig.connection, "\0"), (rig.connection,)):
        with pytest.raises((TypeError, ValueError)):
            rig.module.execute(*wrong)
    rig.connection.close()
    with pytest.raises(ValueError, match="closed"):
        rig.module.execute(rig.connection, "")
