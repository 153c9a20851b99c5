"""When the engine leaves a batch to Python, and when it does not even try."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from engine_oracle import Oracle, described, errors_of, store_with
from engine_rig import counted, needed_engine
from stores import OPTIONS, connected, rows, run
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.trials import FAILURES_MAX, SKIPPED_MAX

INSERT = "INSERT INTO t (id) VALUES (?)"
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY)"


@pytest.mark.parametrize("kind", ["file", "rollback-journal"])
@pytest.mark.parametrize("holder", ["BEGIN IMMEDIATE", "BEGIN"], ids=["writer", "reader"])
async def test_a_lock_of_another_process(tmp_path: Path, kind: str, holder: str):
    """The engine waits for the lock once, and the error is that of Python's store. A unit with an error of its own keeps it."""
    if (kind, holder) == ("file", "BEGIN"):
        return  # with a write-ahead log, a reader locks nobody out
    Oracle.know([run(INSERT)])
    outcomes = []
    for engine in (None, needed_engine()):
        options = replace(OPTIONS[kind](tmp_path), busy_timeout_seconds=0.05)
        assert options.path is not None
        options.path.unlink(missing_ok=True)
        async with connected(store_with(engine, options), TABLE) as store:
            await store.write([(run(INSERT, 1),)])
            with closing(sqlite3.connect(options.path, isolation_level=None)) as other:
                other.execute(holder)
                other.execute("SELECT * FROM t").fetchall()
                with counted(needed_engine(), **({} if engine is None else {"refused": 1})):
                    outcomes.append(await store.write([(run(INSERT, 2),), (run(INSERT, 1),)]))
            assert await store.write([(run(INSERT, 2),)]) == [[None]]
    assert described(outcomes[1]) == described(outcomes[0])
    assert errors_of(outcomes[1])[0] == "QueryError"


async def test_batches_that_fail_in_a_row(tmp_path: Path):
    """After some batches in a row that ran twice, the next ones run only in Python; after a success, all are tried again."""
    module = needed_engine()
    Oracle.know([run(INSERT), run("SELECT 1")])
    async with connected(store_with(module, SQLiteOptions(path=tmp_path / "t.db")), TABLE) as store:
        refused = [(run(INSERT, 1), run(INSERT, 1))]  # Python runs a refused unit of several statements
        before = module.counts()["in_python"]
        for _ in range(1000):
            assert errors_of(await store.write(refused)) == ["DuplicateRecordError"]
        assert FAILURES_MAX < module.counts()["in_python"] - before < 40
        with counted(module, ended=1):
            await store.read([rows("SELECT 1")])  # on another connection
        before = module.counts()["ended"]
        for n in range(10, 10 + 2 * SKIPPED_MAX):
            assert await store.write([(run(INSERT, n),)]) == [[None]]
        assert module.counts()["ended"] - before >= SKIPPED_MAX
        with counted(module, ended=1, in_python=1):
            await store.write(refused)
            await store.write([(run(INSERT, 1000),)])


async def test_python_functions_that_take_long(tmp_path: Path):
    """A batch that calls Python functions for a long time leaves the engine: in Python it gives way to other jobs."""
    module = needed_engine()
    sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT COUNT(sha256('' || i)) FROM n"
    Oracle.know([rows(sql)])
    async with connected(store_with(module, SQLiteOptions(path=tmp_path / "t.db")), TABLE) as store:
        assert await store.read([rows(sql, 1)]) == [
            [(1,)]
        ]  # the reader is the engine's own, until it needs a function of Python
        for count, way in ((100, "ended"), (250_000, "in_python"), (100, "ended")):
            with counted(module, **{way: 1}):
                assert await store.read([rows(sql, count)]) == [[(count,)]]
