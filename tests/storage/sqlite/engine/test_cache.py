"""A connection's page cache, which the engine fits to the connection's use."""

import _sqlite3
import ctypes
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from engine_rig import Rig
from stores import rows, run

FULL_LIMIT = -2000
READS_OF_YOUNG_READER = 64
PAGE_BYTES = 4096
PAGES_AT_ONCE = 20
"""The pages that SQLite allocates with the first page of an empty cache, unless its compile-time options say otherwise."""

READ = rows("SELECT value FROM t WHERE id = ?", 1)
WRITE = (run("INSERT INTO t (value) VALUES (?)", "a"),)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file in WAL mode with one table and one row."""
    path = tmp_path / "cached.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value)")
        connection.execute("INSERT INTO t (value) VALUES ('a')")
    return path


@pytest.fixture
def writer(file: Path) -> Iterator[Rig]:
    """A writer of the file, set up as tenantry does, before its first batch."""
    rig = Rig(file, f"PRAGMA cache_size = {FULL_LIMIT}")
    yield rig
    rig.close()


@pytest.fixture
def reader(file: Path, writer: Rig) -> Iterator[Rig]:
    """A reader of the file beside the writer, before its first batch."""
    writer.read(READ)
    rig = Rig(f"file:{file}?mode=ro", f"PRAGMA cache_size = {FULL_LIMIT}")
    yield rig
    rig.close()


def used_bytes() -> int:
    """Return what SQLite has allocated in this process."""
    function = ctypes.CDLL(_sqlite3.__file__).sqlite3_memory_used
    function.restype = ctypes.c_int64
    return int(function())


def limit_of(rig: Rig) -> int:
    """Return the limit of a connection's cache: pages, or KiB if it is negative."""
    (limit,) = rig.connection.execute("PRAGMA cache_size").fetchone()
    return int(limit)


def test_first_batch_gives_unused_pages_of_writer_back(writer: Rig):
    """SQLite has allocated 20 pages before the first batch; after it there are those that were used, and the limit is the old one."""
    writer.connection.execute("SELECT count(*) FROM t").fetchall()
    before = used_bytes()
    assert writer.write(WRITE) == [[None]]
    assert used_bytes() < before - PAGES_AT_ONCE // 2 * PAGE_BYTES
    assert limit_of(writer) == FULL_LIMIT


def test_reader_has_a_small_cache_until_it_is_used_more(reader: Rig, writer: Rig):
    """A commit of the writer empties a reader's cache; a new reader does not allocate it in whole again."""
    for _ in range(READS_OF_YOUNG_READER):
        assert 0 < limit_of(reader) < PAGES_AT_ONCE or limit_of(reader) == FULL_LIMIT
        assert reader.read(READ) == [[("a",)]]
    assert 0 < limit_of(reader) < PAGES_AT_ONCE
    writer.write(WRITE)
    assert reader.read(READ) == [[("a",)]]
    assert limit_of(reader) == FULL_LIMIT


def test_database_in_memory_keeps_its_pages():
    """The pages of a database in memory are nowhere else."""
    rig = Rig(
        ":memory:", "CREATE TABLE t (id INTEGER PRIMARY KEY, value)", "INSERT INTO t (value) VALUES ('a')"
    )
    assert rig.read(READ) == [[("a",)]]
    assert rig.write(WRITE) == [[None]]
    rig.close()


def test_locked_file_is_fitted_later(file: Path):
    """A first batch that the lock of another connection keeps out leaves the cache small, and a later batch sets the limit."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        rig = Rig(file, "PRAGMA busy_timeout = 0", f"PRAGMA cache_size = {FULL_LIMIT}")
        other.execute("BEGIN EXCLUSIVE")
        assert rig.run(0, READ) is None
        other.execute("ROLLBACK")
        assert rig.read(READ) == [[("a",)]]
        assert limit_of(rig) == FULL_LIMIT
        rig.close()
