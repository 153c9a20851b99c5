"""The engine in C and Python's sqlite3 give the same outcomes: each type, each fetch, and each way to fail."""

import datetime as dt
import decimal
import enum
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine_oracle import ENDED, IN_PYTHON, NOT_TAKEN, Oracle, errors_of, open_oracle
from stores import rows, run
from tenantry.sql.statements import Fetch, Statement

pytestmark = pytest.mark.unmeasured

TABLES = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)",
    "CREATE TABLE strict (id INTEGER PRIMARY KEY, name TEXT UNIQUE, n INTEGER NOT NULL CONSTRAINT positive CHECK (n > 0)) STRICT",
    "CREATE UNIQUE INDEX by_two ON strict (n, name) WHERE n > 1000",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, t_id REFERENCES t (id))",
    "CREATE TABLE late (id INTEGER PRIMARY KEY, t_id REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE log (what)",
    "CREATE TABLE guarded (id INTEGER PRIMARY KEY, n)",
    "CREATE TRIGGER aborting BEFORE INSERT ON guarded WHEN new.n = 1 BEGIN SELECT RAISE(ABORT, 'n is one'); END",
    "CREATE TRIGGER rolling BEFORE INSERT ON guarded WHEN new.n = 3 BEGIN SELECT RAISE(ROLLBACK, 'n is three'); END",
    "CREATE TRIGGER ignoring BEFORE INSERT ON guarded WHEN new.n = 4 BEGIN SELECT RAISE(IGNORE); END",
    """CREATE TRIGGER logging BEFORE INSERT ON guarded WHEN new.n > 4 BEGIN
        INSERT INTO log VALUES (new.n);
        SELECT RAISE(ABORT, 'n is five') WHERE new.n = 5;
    END""",
    f"CREATE TRIGGER wordy BEFORE INSERT ON guarded WHEN new.n = -1 BEGIN SELECT RAISE(ABORT, '{'long ' * 400}'); END",
    "INSERT INTO t (id, a, b) VALUES (1, 'one', NULL), (2, 'two', 2.5), (3, x'00ff', 3)",
)
FAILING = (
    "CREATE TRIGGER failing BEFORE INSERT ON guarded WHEN new.n = 2 BEGIN SELECT RAISE(FAIL, 'n is two'); END",
    """CREATE TRIGGER failing_later BEFORE INSERT ON guarded WHEN new.n = 6 BEGIN
        INSERT INTO log VALUES (new.n);
        SELECT RAISE(FAIL, 'n is six');
    END""",
    "CREATE TRIGGER failing_inside BEFORE INSERT ON guarded WHEN new.n = 7 BEGIN INSERT OR FAIL INTO t (id) VALUES (60), (1); END",
    "CREATE TRIGGER nested BEFORE INSERT ON guarded WHEN new.n = 8 BEGIN INSERT INTO guarded (n) VALUES (0), (2); END",
)
"""Triggers that end a statement with FAIL."""

KIDS = rows("SELECT parent, name FROM kids ORDER BY parent, name")
_PARENTS = (
    "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
    "INSERT INTO parents VALUES (1), (5)",
)
_KIDS = "CREATE TABLE kids (parent INTEGER DEFAULT 5 REFERENCES parents ON DELETE SET DEFAULT, name, UNIQUE (parent, name)"
_KIDS_ROWS = "INSERT INTO kids VALUES (1, 'a'), (1, 'b'), (5, 'b')"
_FILLED = "CREATE TRIGGER filling AFTER UPDATE ON parents BEGIN INSERT INTO kids SELECT 5, 'new' UNION ALL SELECT 5, 'b'; END"
UNCOUNTED = {
    "the table, and a trigger": (
        (*_PARENTS, f"{_KIDS} ON CONFLICT FAIL)", _KIDS_ROWS, _FILLED),
        "UPDATE parents SET id = 5 WHERE id = 5",
    ),
    "the statement, and a trigger": (
        (*_PARENTS, f"{_KIDS})", _KIDS_ROWS, _FILLED),
        "UPDATE OR fail parents SET id = 5 WHERE id = 5",
    ),
    "the table, and a foreign key": (
        (*_PARENTS, f"{_KIDS} ON CONFLICT FAIL)", _KIDS_ROWS),
        "DELETE FROM parents WHERE id = 1",
    ),
}
"""Tables, and a statement that ends with FAIL although no trigger has the word."""

NAMES = ("t", "strict", "child", "late", "log", "guarded")


@pytest.fixture(params=["file", "memory"])
async def oracle(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Oracle]:
    """Both stores, whose tables are compared at the end."""
    async with open_oracle(tmp_path, *TABLES, kind=request.param) as opened:
        yield opened
        await opened.compare_tables(*NAMES)


class Text(str):
    """A text that is no plain `str`."""

    __slots__ = ()


class Whole(enum.IntEnum):
    """A number that is no plain `int`."""

    ONE = 1


PLAIN: dict[str, object] = {
    "none": None,
    **{f"int {value}": value for value in (0, 1, -1, 127, 2**31, 2**62, 2**63 - 1, -(2**63), True, False)},
    **{f"float {value}": value for value in (0.0, -0.0, 1.5, 5e-324, 1.7976931348623157e308, 2.0**63)},
    **{f"float {value}": float(value) for value in ("inf", "-inf", "nan")},
    **{
        f"text {value!r}": value
        for value in ("", "a", "\0", "a\0b", "\0\0", "é", "€", "\uffff", "😀", "\U0010ffff", "'", "\n")
    },
    "long text": "€" * 70_000,
    **{f"bytes {value!r}": value for value in (b"", b"a", b"\0", b"a\0b", b"\xff", bytes(range(256)))},
    "long bytes": bytes(200_000),
}
UNUSUAL: dict[str, object] = {
    "above": 2**63,
    "below": -(2**63) - 1,
    "huge": 10**100,
    "surrogate": "\ud800",
    "surrogate in text": "a\udfffb",
    "str subclass": Text("text"),
    "int subclass": Whole.ONE,
    "bytearray": bytearray(b"bytes"),
    "memoryview": memoryview(b"bytes"),
    "object": object(),
    "list": [1],
    "tuple": (1,),
    "decimal": decimal.Decimal("1.5"),
    "complex": 1j,
    "timedelta": dt.timedelta(1),
}


@pytest.mark.parametrize("value", PLAIN.values(), ids=PLAIN.keys())
async def test_plain_values(oracle: Oracle, value: object):
    """A plain value is stored, found, compared and returned as Python's driver does it."""
    insert = run("INSERT INTO t (a, b) VALUES (?, ?)", value, value)
    returned = Statement(
        "test.returned", "INSERT INTO t (a) VALUES (?) RETURNING a, typeof(a)", (value,), Fetch.ONE
    )
    assert (await oracle.write([(insert,), (insert, returned)]))[0] == [None]
    await oracle.read([rows("SELECT ?, typeof(?), length(?), hex(?)", value, value, value, value)])
    await oracle.read([rows("SELECT a, b, typeof(a) FROM t WHERE a IS ?", value), rows("SELECT a FROM t")])


@pytest.mark.parametrize("value", UNUSUAL.values(), ids=UNUSUAL.keys())
async def test_unusual_values(oracle: Oracle, value: object):
    """Every other value is left to Python's driver, which adapts or refuses it."""
    await oracle.write(
        [(run("INSERT INTO t (a) VALUES (?)", value),), (run("INSERT INTO log VALUES (1)"),)], NOT_TAKEN
    )
    await oracle.read([rows("SELECT ?", value)], NOT_TAKEN)


PARAMETERS: dict[str, Any] = {
    "too few": (),
    "too many": (1, 2),
    "a list": [1],
    "a dict": {"a": 1},
    "a generator": None,
    "a number": 5,
    "nothing": None,
}


@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS.keys())
async def test_parameters(oracle: Oracle, parameters: Any):
    """Wrong numbers and other sequences of parameters are left to Python."""
    way = IN_PYTHON if type(parameters) is tuple else NOT_TAKEN
    insert = Statement("test.insert", "INSERT INTO t (a) VALUES (?)", parameters)
    await oracle.write([(insert,), (run("INSERT INTO log VALUES (1)"),)], way)
    await oracle.read([Statement("test.rows", "SELECT ?", parameters, Fetch.ALL)], way)


ROWS = {
    "no rows": "SELECT a, b FROM t WHERE 0",
    "one row": "SELECT a, b FROM t WHERE id = 1",
    "some rows": "SELECT a, b, a FROM t ORDER BY id",
    "no name": 'SELECT 1, \'x\' AS "", 2 AS "é """',
    "an explanation": "EXPLAIN QUERY PLAN SELECT 1",
    "a pragma": "PRAGMA table_info(t)",
    "a union": "SELECT 1 UNION SELECT 2 UNION SELECT NULL ORDER BY 1",
}
CHANGES = {
    "one": "INSERT INTO t (a) VALUES ('new')",
    "none": "UPDATE t SET a = 1 WHERE 0",
    "all": "UPDATE t SET a = id",
    "delete": "DELETE FROM t",
    "ignored": "INSERT OR IGNORE INTO t (id) VALUES (1)",
    "replaced": "REPLACE INTO t (id) VALUES (1)",
    "upsert": "INSERT INTO t (id) VALUES (1) ON CONFLICT DO UPDATE SET a = 'again'",
    "with": "WITH n (i) AS (SELECT 4 UNION SELECT 5) INSERT INTO t (id) SELECT i FROM n",
    "trigger": "INSERT INTO guarded (n) VALUES (7), (8)",
    "ignoring trigger": "INSERT INTO guarded (n) VALUES (4)",
    "returning": "INSERT INTO t (a) VALUES ('x'), ('y') RETURNING id, a AS name",
    "returning none": "DELETE FROM t WHERE 0 RETURNING id",
    "update returning": "UPDATE t SET b = a RETURNING *",
    "table": "CREATE TABLE made (id)",
    "comment": "-- nothing",
}


@pytest.mark.parametrize("fetch", Fetch)
@pytest.mark.parametrize("sql", ROWS.values(), ids=ROWS.keys())
async def test_reads(oracle: Oracle, sql: str, fetch: Fetch):
    """Each fetch of each kind of query has the driver's result, alone and in a snapshot with others."""
    statement = Statement("test.read", sql, (), fetch)
    way = IN_PYTHON if fetch in (Fetch.NONE, Fetch.ROWCOUNT) else ENDED
    await oracle.read([statement], way)
    await oracle.read([rows("SELECT 1"), statement, rows("SELECT 2")], way)
    await oracle.write([(statement,)], way)


@pytest.mark.parametrize("fetch", Fetch)
@pytest.mark.parametrize("sql", CHANGES.values(), ids=CHANGES.keys())
async def test_writes(oracle: Oracle, sql: str, fetch: Fetch):
    """Each fetch of each kind of write has the driver's result, alone, in a unit and among others; a read of it is refused."""
    statement = Statement("test.write", sql, (), fetch)
    log = run("INSERT INTO log VALUES ('beside')")
    await oracle.read([statement], None)
    await oracle.read([rows("SELECT 1"), statement], None)
    await oracle.write([(log,), (statement,), (log,)], None)
    await oracle.write([(log, statement, log)], None)
    await oracle.write([(log,), (run("UPDATE t SET a = 0"), statement), (log,)], None)


@pytest.mark.parametrize("fetch", [Fetch.ONE, Fetch.ALL, Fetch.NAMED_ONE, Fetch.NAMED_ALL])
async def test_taken_writes(oracle: Oracle, fetch: Fetch):
    """What fits runs in the engine."""
    returning = Statement("test.write", CHANGES["returning"], (), fetch)
    await oracle.write([(returning,), (returning, returning)])


REFUSED = {
    "primary key": ("INSERT INTO t (id) VALUES (1)", ENDED),
    "rowid": ("INSERT INTO t (rowid) VALUES (2)", ENDED),
    "unique": ("INSERT INTO strict (name, n) VALUES ('a', 1), ('a', 2)", ENDED),
    "not null": ("INSERT INTO strict (name) VALUES ('a')", ENDED),
    "check": ("INSERT INTO strict (name, n) VALUES ('a', 0)", ENDED),
    "type": ("INSERT INTO strict (name, n) VALUES ('a', 'text')", ENDED),
    "mismatch": ("INSERT INTO t (id) VALUES ('text')", IN_PYTHON),
    "foreign key": ("INSERT INTO child (t_id) VALUES (99)", ENDED),
    "foreign key of a parent": ("DELETE FROM t WHERE id = (SELECT t_id FROM child)", ENDED),
    "or rollback": ("INSERT OR ROLLBACK INTO t (id) VALUES (1)", IN_PYTHON),
    "or fail after a row": ("INSERT OR FAIL INTO t (id) VALUES (50), (1)", IN_PYTHON),
    "or fail at once": ("INSERT OR FAIL INTO t (id) VALUES (1), (50)", IN_PYTHON),
    "or abort": ("INSERT OR ABORT INTO t (id) VALUES (50), (1)", ENDED),
    "raise abort": ("INSERT INTO guarded (n) VALUES (0), (1)", ENDED),
    "raise rollback": ("INSERT INTO guarded (n) VALUES (3)", IN_PYTHON),
    "abort after a trigger's change": ("INSERT INTO guarded (n) VALUES (5)", IN_PYTHON),
    "a long message": ("INSERT INTO guarded (n) VALUES (-1)", IN_PYTHON),
    "deferred foreign key": ("INSERT INTO late (t_id) VALUES (99)", IN_PYTHON),
    "no table": ("INSERT INTO missing VALUES (1)", IN_PYTHON),
    "syntax": ("INSERT INTO", IN_PYTHON),
    "two statements": ("INSERT INTO log VALUES (1); INSERT INTO log VALUES (2)", IN_PYTHON),
    "foreign key of rows": ("INSERT INTO child (t_id) VALUES (99), (98) RETURNING id", None),
    "overflow": ("SELECT abs(-9223372036854775808)", IN_PYTHON),
    "savepoint": ("INSERT INTO log SELECT json('{')", IN_PYTHON),
    "undecodable": ("INSERT INTO log VALUES (1) RETURNING CAST(x'ff' AS TEXT)", IN_PYTHON),
}


@pytest.mark.parametrize("values", ["(2)", "(0), (2)", "(6)", "(7)", "(8)", "(9), (-1)"])
async def test_a_fail_in_a_trigger(tmp_path: Path, values: str):
    """With such a trigger in the database, a refused statement may have kept rows, which SQLite does not count: Python runs the batch."""
    log = (run("INSERT INTO log VALUES ('beside')"),)
    failing = (run(f"INSERT INTO guarded (n) VALUES {values}"),)
    async with open_oracle(tmp_path, *TABLES, *FAILING) as oracle:
        assert len(errors_of(await oracle.write([log, failing, log, failing, log], IN_PYTHON))) == 2
        await oracle.compare_tables(*NAMES)
        assert await oracle.read([rows("SELECT count(*), sum(what = 'beside') FROM log")]) == [[(3, 3)]]
        assert await oracle.read([rows("SELECT count(*) FROM guarded"), rows("SELECT count(*) FROM t")]) == [
            [(0,)],
            [(3,)],
        ]


@pytest.mark.parametrize(("tables", "sql"), UNCOUNTED.values(), ids=UNCOUNTED.keys())
async def test_a_fail_without_a_word_in_a_trigger(tmp_path: Path, tables: Sequence[str], sql: str):
    """The statement or a table asks for FAIL; the refused statement leaves no rows, and the others are written."""
    log = (run("INSERT INTO log VALUES ('beside')"),)
    async with open_oracle(tmp_path, "CREATE TABLE log (what)", *tables) as oracle:
        await oracle.write([log], None)  # the first write of a file is Python's
        assert len(errors_of(await oracle.write([log, (run(sql),), log], IN_PYTHON))) == 1
        assert await oracle.read([rows("SELECT count(*) FROM log"), KIDS]) == [
            [(3,)],
            [(1, "a"), (1, "b"), (5, "b")],
        ]
        await oracle.compare_tables("log", "kids")


@pytest.mark.parametrize("fetch", [Fetch.ROWCOUNT, Fetch.NONE, Fetch.ONE, Fetch.NAMED_ALL])
@pytest.mark.parametrize(("sql", "way"), REFUSED.values(), ids=REFUSED.keys())
async def test_refused(oracle: Oracle, sql: str, way: str | None, fetch: Fetch):
    """A statement that fails has the driver's error, alone, among others, and in a unit with others, and changes nothing else."""
    await oracle.write([(run("INSERT INTO child (t_id) VALUES (3)"),)])
    failing = Statement("test.failing", sql, (), fetch)
    log = run("INSERT INTO log VALUES ('beside')")
    ways = way if fetch is Fetch.ROWCOUNT else None
    await oracle.write([(failing,)], ways)
    await oracle.write([(log,), (failing,), (log,)], ways)
    await oracle.write([(log,), (failing,), (failing,), (log,)], None)
    await oracle.write([(log,), (log, failing), (log,)], None)
    await oracle.write([(failing, log), (failing,)], None)
    await oracle.read([rows("SELECT * FROM log")])


async def test_errors_of_a_batch(oracle: Oracle):
    """Each unit that a constraint refuses has an error of its own, whose fields name the constraint."""
    units = [(run(sql),) for sql, way in REFUSED.values() if way == ENDED]
    outcomes = await oracle.write([*units, (run("INSERT INTO log VALUES (1)"),), *units])
    assert len(errors_of(outcomes)) > 10
    assert len({id(outcome) for outcome in outcomes}) == len(outcomes)


UNDECODABLE = {
    "byte": "ff",
    "continuation alone": "80",
    "cut after two": "e282",
    "cut after three": "f09f98",
    "overlong": "c080",
    "overlong of three": "e08080",
    "overlong of four": "f0808080",
    "surrogate": "eda080",
    "above the last": "f4908080",
    "five bytes": "f888808080",
    "bad second": "e228a1",
    "bad third": "e28228",
    "after good ones": "6162e282acff",
}
DECODABLE = {
    "first of two": "c280",
    "last of two": "dfbf",
    "first of three": "e0a080",
    "before surrogates": "ed9fbf",
    "after surrogates": "ee8080",
    "first of four": "f0908080",
    "last of all": "f48fbfbf",
    "nothing": "",
    "zero": "00",
}


@pytest.mark.parametrize("content", UNDECODABLE.values(), ids=UNDECODABLE.keys())
async def test_undecodable_text(oracle: Oracle, content: str):
    """A text that Python's decoder refuses is left to Python, also as a name of a column."""
    await oracle.write([(run(f"INSERT INTO t (id, a) VALUES (10, CAST(x'{content}' AS TEXT))"),)])
    for fetch in (Fetch.ONE, Fetch.ALL, Fetch.NAMED_ALL):
        await oracle.read([Statement("test.read", "SELECT a FROM t WHERE id = 10", (), fetch)], IN_PYTHON)
    await oracle.read([rows("SELECT 1"), rows(f"SELECT CAST(x'{content}' AS TEXT)")], IN_PYTHON)
    await oracle.write([(run("DELETE FROM t WHERE id = 10"),)])


@pytest.mark.parametrize("good", ["a" * 100_000, "é" * 50_000], ids=["ascii", "latin"])
async def test_a_long_undecodable_text(oracle: Oracle, good: str):
    """The engine returns a long text of a read unchecked, and Python runs the read again. A text of a write is checked before COMMIT."""
    bad = "SELECT CAST(? || x'ff' AS TEXT) AS text"
    for fetch in (Fetch.ONE, Fetch.ALL, Fetch.NAMED_ALL):
        await oracle.read([Statement("test.read", bad, (good,), fetch)])
    await oracle.read([rows("SELECT ?", good), rows(bad, good), rows("SELECT ? || 'good'", good)])
    await oracle.write([(rows(f"INSERT INTO log VALUES (1) RETURNING ({bad})", good),)], IN_PYTHON)


@pytest.mark.parametrize("content", DECODABLE.values(), ids=DECODABLE.keys())
async def test_decodable_text(oracle: Oracle, content: str):
    """The first and last characters of each length are decoded."""
    ((value,),) = (await oracle.read([rows(f"SELECT CAST(x'{content}' AS TEXT)")]))[0]
    assert value == bytes.fromhex(content).decode()


async def test_schema_changed_by_another_connection(tmp_path: Path):
    """A statement that was prepared before a change of the schema has the columns from after the change."""
    async with open_oracle(tmp_path, "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)") as oracle:
        queries = [
            Statement("test.read", "SELECT * FROM t", (), fetch)
            for fetch in (Fetch.ALL, Fetch.ONE, Fetch.NAMED_ALL)
        ]
        for change in (
            "ALTER TABLE t ADD COLUMN b DEFAULT 'b'",
            "ALTER TABLE t ADD COLUMN c",
            "ALTER TABLE t DROP COLUMN a",
        ):
            await oracle.read(queries)
            await oracle.write([(queries[0], queries[1], queries[2])])
            await oracle.write([(run(change),)])
        assert (await oracle.read(queries))[0] == [("b", None)]
        await oracle.write([(run("DROP TABLE t"),)])
        await oracle.read(queries, IN_PYTHON)
