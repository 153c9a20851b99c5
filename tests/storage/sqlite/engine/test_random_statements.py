"""Random statements, values and units on the engine and on Python's sqlite3: the outcomes and the files are the same.

``make soak`` tries more of them; ``SOAK_SEED`` and ``SOAK_EXAMPLES`` select them.
"""

import asyncio
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from engine_oracle import Oracle, open_oracle
from engine_rig import needed_engine
from power.soak import figures, soak_seed, soak_size
from stores import rows
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.protocol import KeyedRequest

pytestmark = pytest.mark.unmeasured

TABLES = (
    "CREATE TABLE a (id INTEGER PRIMARY KEY, value, name TEXT UNIQUE, n INTEGER CHECK (n IS NULL OR n < 5))",
    "CREATE TABLE b (id INTEGER PRIMARY KEY, a_id REFERENCES a (id), late_id REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE log (what)",
    """CREATE TRIGGER watch BEFORE UPDATE ON a BEGIN
        INSERT INTO log VALUES (old.id);
        SELECT RAISE(FAIL, 'fail') WHERE new.n = 4;
        SELECT RAISE(ABORT, 'abort') WHERE new.n = 3;
        SELECT RAISE(ROLLBACK, 'rollback') WHERE new.n = 2;
        SELECT RAISE(IGNORE) WHERE new.n = 1;
    END""",
    "INSERT INTO a (id, value) VALUES (1, 'one'), (2, x'ff'), (3, 2.5)",
)

IDS = st.integers(1, 6) | st.none()
SMALL = st.integers(0, 6) | st.none()
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
)
UNUSUAL = st.sampled_from([2**63, "\ud800", bytearray(b"x"), [1], 1j])
PARAMETERS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "INSERT INTO a (id, value) VALUES (?, ?)": (IDS, VALUES),
    "INSERT INTO a (id, value) VALUES (?, ?) RETURNING id, value, typeof(value) AS kind": (IDS, VALUES),
    "INSERT OR IGNORE INTO a (id, n) VALUES (?, ?)": (IDS, SMALL),
    "INSERT OR REPLACE INTO a (id, name) VALUES (?, ?)": (IDS, SMALL),
    "INSERT OR FAIL INTO a (id, n) VALUES (?, ?), (?, ?)": (IDS, SMALL, IDS, SMALL),
    "INSERT OR ROLLBACK INTO a (id, n) VALUES (?, ?)": (IDS, SMALL),
    "INSERT INTO a (id) VALUES (?) ON CONFLICT DO UPDATE SET n = ? RETURNING *": (IDS, SMALL),
    "UPDATE a SET n = ? WHERE id > ?": (SMALL, SMALL),
    "UPDATE a SET value = ?, name = ? WHERE id = ? RETURNING value": (VALUES, SMALL, IDS),
    "DELETE FROM a WHERE id = ?": (IDS,),
    "INSERT INTO b (a_id, late_id) VALUES (?, ?)": (IDS, IDS),
    "DELETE FROM b": (),
    "SELECT * FROM a ORDER BY id": (),
    "SELECT value, n, value FROM a WHERE value IS ? OR id = ?": (VALUES, IDS),
    "SELECT ?, typeof(?), hex(?)": (VALUES, VALUES, VALUES),
    "SELECT CAST(? AS TEXT) AS text": (VALUES,),
    "SELECT abs(?)": (VALUES,),
    "SELECT value FROM missing": (),
    "SELECT json(?)": (VALUES,),
}


@st.composite
def statements(draw: Callable[..., Any]) -> Statement:
    """A statement with fitting parameters, most of the time."""
    sql = draw(st.sampled_from(sorted(PARAMETERS)))
    values = [draw(values) for values in PARAMETERS[sql]]
    if draw(st.integers(0, 15)) == 0:
        values = draw(st.sampled_from([[*values, None], values[:-1], [draw(UNUSUAL) for _ in values]]))
    return Statement("test.random", sql, tuple(values), draw(st.sampled_from(Fetch)))


def keyed(unit: tuple[Statement, ...], key: int) -> KeyedRequest:
    """Return the unit with one of a few keys."""
    now = datetime(2026, 1, 31, tzinfo=UTC)
    return KeyedRequest(
        unit, key=f"key-{key}", payload_hash=repr(unit).encode(), now=now, kept_since=now - timedelta(days=1)
    )


UNITS = st.lists(statements(), min_size=1, max_size=3).map(tuple)
KEYED_UNITS = st.builds(keyed, UNITS, st.integers(1, 4))
CALLS = (
    st.tuples(st.just("read"), st.lists(statements(), min_size=1, max_size=4))
    | st.tuples(st.just("write"), st.lists(UNITS | KEYED_UNITS, min_size=1, max_size=5))
    | st.tuples(st.just("transact"), st.lists(UNITS | statements(), min_size=1, max_size=5))
)


async def compare(calls: list[tuple[str, list[Any]]], kind: str) -> None:
    """Make the calls on both stores, and compare the answers and the tables."""
    with tempfile.TemporaryDirectory() as directory:
        async with open_oracle(Path(directory), *TABLES, kind=kind) as oracle:
            for name, content in calls:
                await getattr(oracle, name)(content, None)
            await oracle.compare_tables("a", "b", "log")
            await oracle.read([rows("SELECT * FROM tenantry_idempotency ORDER BY key")], None)


@pytest.mark.parametrize(
    "examples", [25, pytest.param(soak_size("EXAMPLES", 5000), marks=pytest.mark.soak)], ids=["short", "soak"]
)
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_random_statements(kind: str, examples: int):
    """Whatever is read or written, both stores have the same outcomes and content."""
    chosen, before = soak_seed(), needed_engine().counts()
    with figures(f"random statements, {kind}", chosen) as found, asyncio.Runner() as runner:

        @seed(chosen)
        @settings(max_examples=examples, database=None)
        @given(st.lists(CALLS, min_size=1, max_size=6))
        def check(calls: list[tuple[str, list[Any]]]) -> None:
            runner.run(compare(calls, kind))

        check()
        after = needed_engine().counts()
        found.update({name: after[name] - before[name] for name in after})
    assert found["ended"]
    assert found["in_python"]


def test_oracle_sees_a_difference(tmp_path: Path):
    """An oracle whose stores differ fails, so that a passing comparison means something."""

    async def differ() -> None:
        async with open_oracle(tmp_path, *TABLES) as oracle:
            statement = Statement("test.change", "UPDATE a SET value = 1.0", (), Fetch.NONE)
            await oracle.python.write([(statement,)])
            with pytest.raises(AssertionError):
                await oracle.compare_tables("a")
            await oracle.native.write([(statement._replace(sql="UPDATE a SET value = 1"),)])
            with pytest.raises(AssertionError):
                await oracle.compare_tables("a")
            Oracle.know([statement])
            await oracle.native.write([(statement,)])
            await oracle.compare_tables("a")

    asyncio.run(differ())
