"""A SQLite file as the original and as the replica of a move: the journal, the passes, and what is left of them."""

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tenantry.errors import ConstraintViolationError, SnapshotError
from tenantry.storage.moves import MovedTable, follow
from tenantry.storage.sqlite.database_files.layout import TenantPaths
from tenantry.storage.sqlite.maintenance.online_backup import copy_database
from tenantry.storage.sqlite.moves.original import SQLiteOriginal
from tenantry.storage.sqlite.moves.replica import SQLiteReplica

TABLES = """
CREATE TABLE plain (id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT, b REAL, twice AS (a || a) STORED);
CREATE TABLE pairs ("the key" BLOB, n INTEGER, value, PRIMARY KEY ("the key", n)) WITHOUT ROWID;
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE UNIQUE, x INTEGER, y INTEGER, UNIQUE (x, y));
CREATE TABLE folded (name TEXT COLLATE NOCASE PRIMARY KEY, n INTEGER);
CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES names (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE log (id INTEGER PRIMARY KEY, text TEXT);
CREATE TRIGGER logged AFTER INSERT ON plain BEGIN INSERT INTO log (text) VALUES ('inserted ' || new.id); END;
"""
NAMES = ["plain", "pairs", "names", "folded", "children", "log"]


def write_at_random(connection: sqlite3.Connection, chance: random.Random, count: int) -> None:
    """Insert, replace, change and delete rows; change keys; and swap unique values."""
    few = lambda: chance.randrange(12)  # noqa: E731  # short
    statements = [
        lambda: ("INSERT INTO plain (a, b) VALUES (?, ?)", (f"a{few()}", few() / 7)),
        lambda: ("UPDATE plain SET a = ? WHERE id = ?", (f"b{few()}", few())),
        lambda: ("DELETE FROM plain WHERE id = ?", (few(),)),
        lambda: ("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)", (bytes([few()]), few(), chance.choice([1, "x", b"y", None]))),
        lambda: ('UPDATE OR REPLACE pairs SET "the key" = ?, n = ? WHERE n = ?', (bytes([few()]), few(), few())),
        lambda: ("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)", (few(), f"n{few()}", few(), few())),
        lambda: ("UPDATE OR REPLACE names SET id = ?, name = ? WHERE id = ?", (few(), f"N{few()}", few())),
        lambda: ("INSERT INTO names VALUES (?, ?, 1, 1) ON CONFLICT DO UPDATE SET y = y + 1", (few(), f"n{few()}")),
        lambda: ("INSERT OR REPLACE INTO folded VALUES (?, ?)", (chance.choice("aAbBcC"), few())),
        lambda: ("UPDATE folded SET name = upper(name) WHERE n = ?", (few(),)),
        lambda: ("INSERT OR IGNORE INTO children SELECT ?, id FROM names LIMIT 1", (few(),)),
        lambda: ("DELETE FROM names WHERE id = ?", (few(),)),
        lambda: ("DELETE FROM log WHERE id < ?", (few(),)),
    ]  # fmt: skip
    for _ in range(count):
        sql, parameters = chance.choice(statements)()
        try:
            connection.execute(sql, parameters)
        except sqlite3.IntegrityError:
            continue  # some of the statements break a constraint, and then change nothing


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of all tables."""
    with closing(sqlite3.connect(path)) as connection:
        return {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in NAMES}


def schema(path: Path) -> list[tuple[str, str]]:
    """Return the names and the SQL of the schema's objects."""
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_schema"))


@pytest.fixture
def paths(tmp_path: Path) -> TenantPaths:
    """Return the paths of a database with `TABLES`."""
    directory = tmp_path / "acme"
    directory.mkdir()
    paths = TenantPaths(directory, directory / "tenant.db", directory / "lock")
    with closing(sqlite3.connect(paths.database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(TABLES)
    return paths


@pytest.fixture
def writer(paths: TenantPaths) -> Iterator[sqlite3.Connection]:
    """Return a connection that writes, as the tenant's store does."""
    with closing(sqlite3.connect(paths.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


def copy_of(paths: TenantPaths) -> Path:
    """Make the copy with which a move begins."""
    path = paths.directory / "copy.db"
    with closing(sqlite3.connect(paths.database)) as connection:
        copy_database(connection, path)
    return path


@pytest.mark.parametrize("seed", range(25))
async def test_the_replica_follows_whatever_is_written(
    paths: TenantPaths, writer: sqlite3.Connection, seed: int
):
    """After each pass the replica equals the original; at the end its schema does, too, and both have no journal."""
    chance = random.Random(seed)
    write_at_random(writer, chance, 60)
    before = schema(paths.database)
    original, position = SQLiteOriginal(paths, ()), {}
    tables = await original.install()
    write_at_random(writer, chance, 30)
    replica = SQLiteReplica(copy_of(paths), ())
    pairs = list(zip(tables, await replica.suspend_rules(), strict=True))
    for _ in range(4):
        write_at_random(writer, chance, chance.choice([0, 5, 60]))
        done = follow(original, replica, pairs, position, is_open=True, is_counted=True)
        position = done.position
        assert contents(paths.database) == contents(replica._database)
    await replica.restore_rules(await original.sequences(tables))
    await original.remove()
    idempotency = [one for one in schema(paths.database) if "tenantry_idempotency" in one[0]]
    assert schema(paths.database) == schema(replica._database) == sorted([*before, *idempotency])
    counters = "SELECT name, seq FROM sqlite_sequence"
    with closing(sqlite3.connect(replica._database)) as connection:
        assert connection.execute(counters).fetchall() == writer.execute(counters).fetchall()


async def test_a_pass_without_changes_copies_nothing(paths: TenantPaths):
    """It ends where the pass before it ended."""
    original = SQLiteOriginal(paths, ())
    tables = await original.install()
    replica = SQLiteReplica(copy_of(paths), ())
    done = follow(original, replica, [(one, one) for one in tables], {}, is_open=False)
    assert (done.keys, set(done.position.values())) == (0, {0})
    assert (
        follow(original, replica, [(one, one) for one in tables], done.position, is_open=False).position
        == done.position
    )


async def test_what_cannot_move_has_a_reason(paths: TenantPaths, writer: sqlite3.Connection):
    """A table without a primary key and a virtual table are named with the reason; tables of tenantry are not listed."""
    writer.execute("CREATE TABLE keyless (a)")
    writer.execute("CREATE VIRTUAL TABLE words USING fts5 (text)")
    writer.execute("CREATE TABLE schema_migrations (schema, version)")
    tables = {one.name: one for one in await SQLiteOriginal(paths, ()).tables()}
    assert tables["keyless"].refusal == "it has no primary key"
    assert tables["words"].refusal == "it is a virtual table"
    assert "schema_migrations" not in tables
    assert tables["pairs"] == MovedTable(
        "pairs", ("the key", "n", "value"), ("BLOB", "INTEGER", ""), ("the key", "n")
    )
    assert tables["plain"].columns == ("id", "a", "b")
    assert {name for name in NAMES if tables[name].refusal is not None} == set()


async def test_a_copy_that_differs_is_found(paths: TenantPaths, writer: sqlite3.Connection):
    """A replica that lost a row fails the pass that counts, and a replica that keeps another value fails any pass."""
    writer.execute("INSERT INTO log VALUES (1, 'one')")
    original = SQLiteOriginal(paths, ())
    tables = await original.install()
    replica = SQLiteReplica(copy_of(paths), ())
    with closing(sqlite3.connect(replica._database)) as connection:
        connection.execute("DELETE FROM log")
        connection.commit()
    assert follow(original, replica, [(one, one) for one in tables], {}, is_open=True).keys == 0
    with pytest.raises(SnapshotError, match="the copy of table 'log' has 0 rows, but the original has 1"):
        follow(original, replica, [(one, one) for one in tables], {}, is_open=True, is_counted=True)
    with closing(sqlite3.connect(replica._database)) as connection:
        connection.execute(
            "CREATE TRIGGER other AFTER INSERT ON log BEGIN UPDATE log SET text = 'other'; END"
        )
    writer.execute("UPDATE log SET text = 'two'")
    with pytest.raises(SnapshotError, match="table 'log' has changed rows that differ"):
        follow(original, replica, [(one, one) for one in tables], {}, is_open=True)


async def test_a_failed_pass_changes_nothing(paths: TenantPaths, writer: sqlite3.Connection):
    """The next pass begins where the one before the failure ended."""
    original = SQLiteOriginal(paths, ())
    tables = await original.install()
    replica = SQLiteReplica(copy_of(paths), ())
    writer.execute("INSERT INTO folded VALUES ('a', 1)")
    writer.execute("INSERT INTO log VALUES (1, 'one')")
    with closing(sqlite3.connect(replica._database)) as connection:
        connection.execute("CREATE TRIGGER no BEFORE INSERT ON log BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(ConstraintViolationError, match="no"):
        follow(original, replica, [(one, one) for one in tables], {}, is_open=True)
    assert contents(replica._database)["folded"] == []
    await replica.suspend_rules()
    follow(original, replica, [(one, one) for one in tables], {}, is_open=True, is_counted=True)
    assert contents(replica._database) == contents(paths.database)


async def test_a_table_that_is_dropped_and_created_again(paths: TenantPaths, writer: sqlite3.Connection):
    """Its changes are not recorded any more, so the next pass fails."""
    original = SQLiteOriginal(paths, ())
    tables = await original.install()
    replica = SQLiteReplica(copy_of(paths), ())
    writer.execute("DROP TABLE folded")
    writer.execute("CREATE TABLE folded (name TEXT COLLATE NOCASE PRIMARY KEY, n INTEGER)")
    with pytest.raises(SnapshotError, match="a table was dropped during the move"):
        follow(original, replica, [(one, one) for one in tables], {}, is_open=True)


async def test_removing_a_journal_can_be_repeated(paths: TenantPaths):
    """Without a journal, and without a database, there is nothing to remove."""
    original = SQLiteOriginal(paths, ())
    await original.install()
    await original.remove()
    before = schema(paths.database)
    await original.remove()
    assert schema(paths.database) == before
    shutil.rmtree(paths.directory)
    await original.remove()
    assert not paths.database.exists()
