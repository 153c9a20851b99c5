"""Units and reads inside a transaction over several calls: the engine runs them, and answers as Python does."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine_oracle import ENDED, IN_PYTHON, REFUSED, Oracle, errors_of, open_oracle, store_with
from engine_rig import needed_engine
from stores import COUNT_TO_A_BILLION, OPTIONS, connected, read_rows, rows, run
from tenantry.errors import TransactionClosedError
from tenantry.sql.statements import Fetch, Statement

TABLES = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER CHECK (n < 100))",
    "CREATE TABLE late (t_id INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TRIGGER rolling BEFORE INSERT ON t WHEN new.n = 3 BEGIN SELECT RAISE(ROLLBACK, 'n is three'); END",
    "CREATE TRIGGER failing BEFORE INSERT ON t WHEN new.n = 4 BEGIN SELECT RAISE(FAIL, 'n is four'); END",
    "INSERT INTO t (id) VALUES (1)",
)
INSERT = "INSERT INTO t (id) VALUES (?)"
COUNT = rows("SELECT count(*), max(id) FROM t")


@pytest.fixture(params=["file", "memory", "rollback-journal"])
async def oracle(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Oracle]:
    """Both stores, whose tables are compared at the end."""
    async with open_oracle(tmp_path, *TABLES, kind=request.param) as opened:
        await opened.write([(run(INSERT, 2),)], None)  # the first write of a file is Python's
        yield opened
        await opened.compare_tables("t", "late")


async def test_units_and_reads(oracle: Oracle):
    """The calls of a transaction see each other, and the engine runs them all."""
    named = Statement("test.named", "SELECT id, n FROM t WHERE id = 10", (), Fetch.NAMED_ONE)
    returning = Statement("test.returning", f"{INSERT} RETURNING id AS new", (11,), Fetch.NAMED_ALL)
    changed = Statement("test.changed", "UPDATE t SET n = 5 WHERE id > 1", (), Fetch.ROWCOUNT)
    calls = [(run(INSERT, 10),), named, (returning, changed), COUNT]
    outcomes = await oracle.transact(calls, [ENDED] * 4)
    assert outcomes[2][1] == 3
    assert outcomes[3] == [(4, 11)]


FAILING = {
    "refused": ((run(INSERT, 1),), IN_PYTHON),
    "a unit refused in the middle": ((run(INSERT, 20), run(INSERT, 1), run(INSERT, 21)), IN_PYTHON),
    "or fail": ((run("INSERT OR FAIL INTO t (id) VALUES (30), (1)"),), IN_PYTHON),
    "raise fail": ((run("INSERT INTO t (id, n) VALUES (30, 1), (31, 4)"),), IN_PYTHON),
    "or rollback": ((run("INSERT OR ROLLBACK INTO t (id) VALUES (1)"),), REFUSED),
    "raise rollback": ((run(INSERT, 30), run("INSERT INTO t (id, n) VALUES (31, 3)")), REFUSED),
    "a read that fails": (rows("SELECT abs(-9223372036854775808)"), IN_PYTHON),
    "a read that writes": (rows("DELETE FROM t RETURNING id"), IN_PYTHON),
    "unasked rows": ((run("DELETE FROM t RETURNING id"),), IN_PYTHON),
    "undecodable": (rows("SELECT CAST(x'ff' AS TEXT)"), IN_PYTHON),
    "long and undecodable": (rows("SELECT CAST(x'ff' || zeroblob(100000) AS TEXT)"), ENDED),
    "no table": ((run("INSERT INTO missing VALUES (1)"),), IN_PYTHON),
    "syntax": (rows("SELECT FROM"), IN_PYTHON),
}


@pytest.mark.parametrize(("call", "way"), FAILING.values(), ids=FAILING.keys())
async def test_failing_calls(oracle: Oracle, call: Statement | tuple[Statement, ...], way: str):
    """A call that fails has no effect, and the transaction goes on, unless SQLite has ended it."""
    is_over = way == REFUSED
    ways = [ENDED, ENDED, way, *([IN_PYTHON] * 2 if is_over else [ENDED] * 2)]
    outcomes = await oracle.transact([(run(INSERT, 10),), COUNT, call, (run(INSERT, 11),), COUNT], ways)
    found = errors_of(outcomes)
    assert len(found) == 1 + 3 * is_over
    assert set(found[1:]) <= {"TransactionClosedError"}
    assert await oracle.read([COUNT], None) == [[(2, 2)] if is_over else [(4, 11)]]


async def test_a_commit_that_is_refused(oracle: Oracle):
    """A deferred constraint is checked at COMMIT, which is Python's."""
    calls = [(run(INSERT, 10),), (run("INSERT INTO late (t_id) VALUES (99)"),)]
    outcomes = await oracle.transact(calls, [ENDED] * 2)
    assert errors_of(outcomes) == ["ConstraintViolationError"]


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_cancelled_call(tmp_path: Path, kind: str):
    """The statement is interrupted, the transaction is rolled back, and the writer is free."""
    endless = rows(COUNT_TO_A_BILLION)
    Oracle.know([run(INSERT), endless])
    async with connected(store_with(needed_engine(), OPTIONS["file"](tmp_path)), *TABLES) as store:
        transaction = await store.begin()
        assert await transaction.write((run(INSERT, 10),)) == [None]
        call = transaction.read(endless) if kind == "read" else transaction.write((run(INSERT, 11), endless))
        endless_call = asyncio.ensure_future(call)
        await asyncio.sleep(0)  # the call is in the engine's queue
        endless_call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless_call
        with pytest.raises(TransactionClosedError):
            await transaction.write((run(INSERT, 12),))
        await transaction.rollback()
        assert await store.write([(run(INSERT, 13),)]) == [[None]]
        assert await read_rows(store, "SELECT id FROM t") == [(1,), (13,)]
