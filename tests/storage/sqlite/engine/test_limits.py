"""The engine's limits: texts of the process, statements of a connection, bytes of a result, and what lies beyond each of them."""

import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands import environment
from engine_rig import Rig, counted, needed_engine
from stores import HANG_SECONDS, rows, run
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.sqlite.engine.native import READ, WRITE

STATEMENTS_MAX = 128
TEXTS_MAX = 4096

PROGRAM = """
from engine_rig import Rig, counted
from stores import rows
from tenantry.storage.sqlite.engine.native import READ

rig = Rig(":memory:")
texts = [rows(f"SELECT {number}, ?", number) for number in range(int(TEXTS_MAX))]
for first in range(0, len(texts), 64):
    assert rig.read(*texts[first : first + 64]) == [[(n, n)] for n in range(first, min(first + 64, len(texts)))]
assert rig.batch(READ, [rows("SELECT 'one text too many'")]) is None
assert rig.read(texts[0], texts[-1]) == [[(0, 0)], [(len(texts) - 1, len(texts) - 1)]]
rig.close()
"""


Limit = Callable[[int], int]


@pytest.fixture
def limit() -> Iterator[Limit]:
    """The function that limits the bytes of a result."""
    module = needed_engine()
    before = module.limit_results(0)
    module.limit_results(before)
    yield module.limit_results
    module.limit_results(before)


def test_more_texts_than_statements(rig: Rig):
    """A connection that prepares more texts than it keeps statements for answers each of them, in any order."""
    statements = [
        rows(f"SELECT {number}, value FROM t WHERE id = ?", number)
        for number in range(2 * STATEMENTS_MAX + 7)
    ]
    rig.write(*[(run("INSERT INTO t (id, value) VALUES (?, ?)", n, str(n)),) for n in range(len(statements))])
    order = list(range(len(statements))) * 2
    random.Random(1).shuffle(order)
    assert rig.read(*[statements[n] for n in order]) == [[(n, str(n))] for n in order]
    # One unit may use more texts than fit.
    assert rig.write(tuple(statements)) == [[[(n, str(n))] for n in range(len(statements))]]


def test_more_texts_than_a_process_keeps():
    """The engine keeps 4,096 texts; later texts are Python's, and the earlier ones stay the engine's."""
    needed_engine()
    program = PROGRAM.replace("TEXTS_MAX", str(TEXTS_MAX))
    support = Path(__file__).parents[3] / "support"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(PYTHONPATH=f"{Path(sys.modules['tenantry'].__path__[0]).parent}:{support}"),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fetch", [Fetch.ALL, Fetch.NAMED_ALL])
@pytest.mark.parametrize("kind", [READ, WRITE])
def test_large_results(rig: Rig, limit: Limit, fetch: Fetch, kind: int):
    """A batch whose results exceed the limit is rolled back and left to Python, wherever the limit is reached."""
    rig.write(*[(run("INSERT INTO t (value) VALUES (?)", "x" * 100),) for _ in range(100)])
    insert = run("INSERT INTO t (value) VALUES ('new')")
    query = Statement(
        "test.read", "SELECT id, value AS a_long_name_of_a_column FROM t WHERE value <> 'new'", (), fetch
    )
    units = [query] if kind == READ else [(insert,), (query,)]
    ways = set()
    for bytes_max in range(0, 40_000, 500):
        limit(bytes_max)
        ended = rig.run(kind, *units)
        ways.add(ended is not None)
        if ended is not None:
            results = ended.results()[-1]
            if kind == WRITE:
                (results,) = results
            assert len(results if fetch is Fetch.ALL else results[1]) == 100
    assert ways == {True, False}
    assert not rig.connection.in_transaction


def test_large_error(rig: Rig, limit: Limit):
    """Without memory for a constraint's message, Python runs the batch."""
    limit(1)
    duplicates = [(run("INSERT INTO t (id) VALUES (1)"),)] * 2
    with counted(rig.module, in_python=1):
        assert rig.run(WRITE, *duplicates) is None
    limit(1000)
    batch = rig.run(WRITE, *duplicates)
    assert [unit for unit, _, _ in batch.errors()] == [1]
    assert batch.has_errors


def test_large_values(rig: Rig, limit: Limit):
    """Values of megabytes go through, and a result may be as large as the limit says."""
    text, blob = "€" * 1_000_000, bytes(3_000_000)
    assert rig.write((run("INSERT INTO t (value) VALUES (?), (?)", text, blob),)) == [[None]]
    assert rig.read(rows("SELECT value FROM t ORDER BY id")) == [[(text,), (blob,)]]
    limit(5_999_999)
    assert rig.run(READ, rows("SELECT value FROM t")) is None


def test_many_parameters(rig: Rig):
    """A statement may have as many parameters as the connection allows, and one more is Python's."""
    rig.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 1000)
    insert = run(f"INSERT INTO t (value) VALUES {', '.join(['(?)'] * 1000)}", *range(1000))
    assert rig.write((insert,)) == [[None]]
    assert rig.read(rows("SELECT count(*), max(value) FROM t")) == [[(1000, 999)]]
    assert rig.run(WRITE, (run(f"{insert.sql}, (?)", *range(1001)),)) is None
