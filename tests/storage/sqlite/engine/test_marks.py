"""Units that another process forwarded, in the engine: their marks are stored in the same transaction."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine_oracle import Oracle, errors_of, store_with
from engine_rig import counted, needed_engine
from stores import connected, read_rows, rows, run
from tenantry.sql.statements import Statement
from tenantry.storage.protocol import MarkedRequest
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.store import SQLiteStore

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY)"
INSERT = "INSERT INTO t (id) VALUES (?)"
RETURNING = f"{INSERT} RETURNING id"
SENDERS = [bytes([number]) * 16 for number in range(2)]


@pytest.fixture
async def unmarked(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    """A store with the engine, whose database has one row and no table of marks."""
    Oracle.know([run(INSERT), rows(RETURNING)])
    async with connected(store_with(needed_engine(), SQLiteOptions(path=tmp_path / "t.db")), TABLE) as store:
        assert await store.write([(run(INSERT, 1),)]) == [[None]]
        yield store


@pytest.fixture
async def store(unmarked: SQLiteStore) -> SQLiteStore:
    """The same store after the first unit with a mark."""
    assert await unmarked.write([marked(run("UPDATE t SET id = id"), number=1)]) == [[None]]
    return unmarked


def marked(*statements: Statement, number: int, sender: int = 0, is_repeated: bool = False) -> MarkedRequest:
    """Return a forwarded unit whose earlier units have no answer yet."""
    return MarkedRequest(
        statements, sender=SENDERS[sender], number=number, answered_to=0, is_repeated=is_repeated
    )


async def ids(store: SQLiteStore) -> list[int]:
    """Return the ids of all rows."""
    return [row_id for (row_id,) in await read_rows(store, "SELECT id FROM t ORDER BY id")]


async def test_a_batch_of_two_senders_and_of_the_owner(store: SQLiteStore):
    """The engine runs all units in one batch. Each sender gets one row of marks, which answers its repeats."""
    units: Sequence[Any] = [
        marked(run(INSERT, 2), number=2),
        (run(INSERT, 3),),
        marked(run(INSERT, 4), run(INSERT, 5), number=1, sender=1),
        marked(run(INSERT, 6), number=3),
    ]
    with counted(needed_engine(), ended=1):
        assert await store.write(units) == [[None], [None], [None, None], [None]]
    found = await read_rows(store, "SELECT sender, number FROM tenantry_forwarded ORDER BY sender, number")
    assert found == [(SENDERS[0], 1), (SENDERS[0], 3), (SENDERS[1], 1)]
    again = [
        marked(*unit, number=unit.number, sender=SENDERS.index(unit.sender), is_repeated=True)
        for unit in units
        if isinstance(unit, MarkedRequest)
    ]
    with counted(needed_engine()):
        assert await store.write(again) == [[None], [None, None], [None]]
    assert await ids(store) == [1, 2, 3, 4, 5, 6]


async def test_a_refused_unit(store: SQLiteStore):
    """The engine makes the marks before the units run, so Python runs a batch with a refused unit, which gets no mark."""
    with counted(needed_engine(), in_python=1):
        outcomes = await store.write([marked(run(INSERT, 1), number=2), marked(run(INSERT, 2), number=3)])
    assert (errors_of(outcomes), outcomes[1]) == (["DuplicateRecordError"], [None])
    again = await store.write(
        [marked(run(INSERT, number), number=number + 1, is_repeated=True) for number in (1, 2)]
    )
    assert (errors_of(again), again[1]) == (["DuplicateRecordError"], [None])
    assert await ids(store) == [1, 2]


async def test_units_with_results(store: SQLiteStore):
    """The mark stores the results, so the engine leaves units with results to Python."""
    with counted(needed_engine()):
        assert await store.write([marked(rows(RETURNING, 2), number=2)]) == [[[(2,)]]]
        assert await store.write([marked(rows(RETURNING, 2), number=2, is_repeated=True)]) == [[[(2,)]]]


async def test_no_table_of_marks(unmarked: SQLiteStore):
    """Python makes the table for the first marks."""
    with counted(needed_engine(), in_python=1, ended=1):
        assert await unmarked.write([marked(run(INSERT, 2), number=1)]) == [[None]]
        assert await unmarked.write([marked(run(INSERT, 3), number=2)]) == [[None]]
