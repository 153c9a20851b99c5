"""Units with idempotency keys, in the engine: they run once, and what is stored is what Python's store stores."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine_oracle import ENDED, IN_PYTHON, NOT_TAKEN, Oracle, errors_of, open_oracle
from stores import OPTIONS, read_rows, rows, run
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.protocol import KeyedRequest, MarkedRequest
from tenantry.storage.sqlite.statements.idempotency import STATEMENTS_MAX

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY)"
INSERT = "INSERT INTO t (id) VALUES (?)"
KEYS = "SELECT key, hex(payload_hash), results, created_at FROM tenantry_idempotency ORDER BY key"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
RETENTION = timedelta(minutes=1)


@pytest.fixture
async def unkeyed(tmp_path: Path) -> AsyncIterator[Oracle]:
    """Both stores, without a table of keys. At the end the tables are compared."""
    async with open_oracle(tmp_path, TABLE) as oracle:
        yield oracle
        await oracle.compare_tables("t")
        await oracle.read([rows(KEYS)])


@pytest.fixture
async def oracle(unkeyed: Oracle) -> Oracle:
    """The same stores after the first keyed unit."""
    await unkeyed.write([keyed(run(INSERT, 1), key="first")], None)
    return unkeyed


def keyed(
    *statements: Statement, key: str, payload_hash: bytes = b"1", after: timedelta = timedelta()
) -> KeyedRequest:
    """Return a unit with a key that was sent so long after noon."""
    now = NOON + after
    return KeyedRequest(statements, key=key, payload_hash=payload_hash, now=now, kept_since=now - RETENTION)


async def ids(oracle: Oracle) -> list[int]:
    """Return the ids of all rows in the engine's store."""
    return [row_id for (row_id,) in await read_rows(oracle.native, "SELECT id FROM t ORDER BY id")]


async def test_units_with_and_without_keys(oracle: Oracle):
    """The engine runs them in one batch; a unit that was sent again returns the stored results."""
    units = [
        keyed(run(INSERT, 2), key="one"),
        (run(INSERT, 3),),
        MarkedRequest((run(INSERT, 4),), sender=bytes(16), number=1, answered_to=0, is_repeated=False),
        keyed(run(INSERT, 5), run(INSERT, 6), key="two"),
        keyed(run(INSERT, 2), key="one"),
        (rows("SELECT id FROM t WHERE id > 4"),),
    ]
    first = await oracle.write([units[2]], None)  # makes the table of marks
    assert first == [[None]]
    await oracle.write([(run("DELETE FROM t WHERE id = 4"),)])
    assert await oracle.write([*units[:2], *units[3:]]) == [
        [None],
        [None],
        [None, None],
        [None],
        [[(5,), (6,)]],
    ]
    assert await oracle.write([units[0], units[3], units[0]]) == [[None], [None, None], [None]]
    assert await ids(oracle) == [1, 2, 3, 5, 6]


async def test_units_with_keys_and_with_marks(oracle: Oracle):
    """The engine runs them in one batch, and one of them was sent again."""
    forwarded = [
        MarkedRequest(
            (run(INSERT, number),), sender=bytes(16), number=number, answered_to=0, is_repeated=False
        )
        for number in (10, 11)
    ]
    await oracle.write(forwarded[:1], None)  # makes the table of marks
    repeated = keyed(run(INSERT, 1), key="first")
    assert await oracle.write([repeated, forwarded[1], keyed(run(INSERT, 12), key="new")]) == [[None]] * 3
    assert await ids(oracle) == [1, 10, 11, 12]


async def test_a_key_of_another_unit(oracle: Oracle):
    """The unit is refused with the error of Python's store, and the others of its batch are written."""
    outcomes = await oracle.write(
        [
            (run(INSERT, 2),),
            keyed(run(INSERT, 3), key="first", payload_hash=b"2"),
            keyed(run(INSERT, 4), key="other"),
        ]
    )
    assert errors_of(outcomes) == ["IdempotencyConflictError"]
    assert await ids(oracle) == [1, 2, 4]


async def test_expired_keys(oracle: Oracle):
    """A key that has expired is used again, and each new key removes some that have expired."""
    for number in range(2, 40):
        await oracle.write([keyed(run(INSERT, number), key=f"key-{number}")])
    later = RETENTION * 2
    await oracle.write([keyed(run(INSERT, 40), key="first", payload_hash=b"2", after=later)])
    assert len(await read_rows(oracle.native, KEYS)) == 39 - 16 + 1
    await oracle.write(
        [keyed(run(INSERT, 41), key="key-39", after=later), keyed(run(INSERT, 42), key="new", after=later)]
    )
    assert [row[0] for row in await read_rows(oracle.native, KEYS)] == ["first", "key-39", "new"]


@pytest.mark.parametrize("fetch", [Fetch.ROWCOUNT, Fetch.ALL, Fetch.NAMED_ONE])
async def test_units_with_results(oracle: Oracle, fetch: Fetch):
    """The results are stored, so the engine leaves such a unit and those that share its batch to Python, and its repeats too."""
    returning = keyed(
        Statement(
            "test.returning", INSERT if fetch is Fetch.ROWCOUNT else f"{INSERT} RETURNING id", (2,), fetch
        ),
        key="one",
    )
    (result,), _ = await oracle.write([returning, keyed(run(INSERT, 3), key="two")], NOT_TAKEN)
    assert result is not None
    assert await oracle.write([returning, keyed(run(INSERT, 3), key="two")], NOT_TAKEN) == [[result], [None]]


@pytest.mark.parametrize("count", [STATEMENTS_MAX, STATEMENTS_MAX + 1])
async def test_units_of_many_statements(oracle: Oracle, count: int):
    """The results of very many statements could be too large to be stored, and Python refuses such a unit."""
    unit = keyed(*(run(INSERT, number) for number in range(2, count + 2)), key="many")
    way = ENDED if count == STATEMENTS_MAX else NOT_TAKEN
    for _ in range(2):
        assert await oracle.write([unit], way) == [[None] * count]


async def test_a_unit_that_a_constraint_refuses(oracle: Oracle):
    """Python runs the batch: the unit has its error and stores no key, and the others are written."""
    for units in (
        [keyed(run(INSERT, 1), key="one"), keyed(run(INSERT, 2), key="two")],
        [(run(INSERT, 3),), keyed(run(INSERT, 4), run(INSERT, 1), key="one")],
    ):
        assert errors_of(await oracle.write(units, IN_PYTHON)) == ["DuplicateRecordError"]
    assert await oracle.write([keyed(run(INSERT, 5), key="one"), (run(INSERT, 5),)])
    assert await ids(oracle) == [1, 2, 3, 5]


async def test_a_plain_unit_that_a_constraint_refuses(oracle: Oracle):
    """The engine keeps the error, and stores the keys of the others."""
    outcomes = await oracle.write([(run(INSERT, 1),), keyed(run(INSERT, 2), key="one"), (run(INSERT, 2),)])
    assert errors_of(outcomes) == ["DuplicateRecordError"] * 2
    assert await oracle.write([keyed(run(INSERT, 2), key="one")]) == [[None]]


async def test_no_table_of_keys(unkeyed: Oracle):
    """Python makes the table for the first key."""
    for number, way in ((1, IN_PYTHON), (2, ENDED)):
        assert await unkeyed.write([keyed(run(INSERT, number), key=f"key-{number}")], way) == [[None]]


async def test_damaged_results(oracle: Oracle, tmp_path: Path):
    """What is stored with the key is no result of the unit: only this unit fails, with the error of Python's store."""
    for damaged in ("[", "[]", "[[1]]", '[{"hex":"x"}]'):
        for place in ("native", "python"):
            path = OPTIONS["file"](tmp_path / place).path
            assert path is not None
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("UPDATE tenantry_idempotency SET results = ? WHERE key = 'first'", (damaged,))
        await oracle.write([keyed(run(INSERT, 1), key="first"), (run("UPDATE t SET id = id"),)])


async def test_the_statements_of_a_caller(oracle: Oracle):
    """The text of a statement of tenantry's own is refused from a caller, also after the engine has run it."""
    await oracle.write([keyed(run(INSERT, 2), key="one")])
    forged = run(
        "INSERT OR REPLACE INTO tenantry_idempotency VALUES (?, ?, ?, ?)", "forged", b"1", "[null]", "9999"
    )
    for store in (oracle.native, oracle.python):
        assert errors_of(await store.write([(forged,)])) == ["QueryError"]
    await oracle.write([keyed(run(INSERT, 3), key="two")])
