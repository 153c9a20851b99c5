"""The length of the write-ahead log, which the engine fits to the writes."""

import itertools
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from engine_rig import Rig
from stores import run
from tenantry.storage.sqlite.engine import native

PAGES = 4000
SHORT_PAGES = PAGES // 8
LONE_WRITES_MIN = 16

HEADER_BYTES = 32
FRAME_BYTES = 24 + 4096
ZEROS_MAX = 256 * 1024

WRITE = (run("INSERT INTO t (value) VALUES (?)", "a" * 5000),)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Rig]:
    """A writer of a new file in WAL mode."""
    rig = Rig(
        tmp_path / "logged.db",
        "PRAGMA journal_mode = WAL",
        f"PRAGMA wal_autocheckpoint = {PAGES}",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, value)",
    )
    yield rig
    rig.close()


def pages_of(rig: Rig) -> int:
    """Return the pages of the log after which SQLite makes a checkpoint."""
    (pages,) = rig.connection.execute("PRAGMA wal_autocheckpoint").fetchone()
    return int(pages)


def test_lone_writes_have_a_short_log_and_batches_a_long_one(writer: Rig):
    """The log is short after some lone writes in a row, and long again with the first batch of several units."""
    for _ in range(2):
        for _ in range(LONE_WRITES_MIN - 1):
            writer.write(WRITE)
            assert pages_of(writer) == PAGES
        writer.write(WRITE)
        assert pages_of(writer) == SHORT_PAGES
        writer.write(WRITE, WRITE)
        assert pages_of(writer) == PAGES


def test_forwarded_lone_writes_have_a_short_log(writer: Rig):
    """The unit that stores the marks of a forwarded call is no other call."""
    writer.write(WRITE)  # the text counts as authorized from now on
    for _ in range(LONE_WRITES_MIN - 1):
        assert writer.run_batch(writer.database.batch(native.WRITE, [WRITE, WRITE], True)) is not None
    assert pages_of(writer) == SHORT_PAGES


def test_short_log_is_used_again_from_its_begin(writer: Rig, tmp_path: Path):
    """Lone writes make the log's file hardly longer than the pages after which SQLite makes a checkpoint."""
    log = tmp_path / "logged.db-wal"
    for _ in range(SHORT_PAGES):  # each writes more than two pages
        writer.write(WRITE)
    assert log.stat().st_size < (SHORT_PAGES + 50) * 4200
    assert writer.connection.execute("SELECT count(*) FROM t").fetchone() == (SHORT_PAGES,)


def test_log_without_checkpoints_stays_without(writer: Rig):
    """As long as no checkpoint may run, because the log's name may not be durable yet, lone writes turn none on."""
    writer.connection.execute("PRAGMA wal_autocheckpoint = 0")
    for _ in range(2 * LONE_WRITES_MIN):
        writer.write(WRITE)
    assert pages_of(writer) == 0


def lengths_after_each(rig: Rig, log: Path, writes: int) -> list[int]:
    """Write so many rows, and return the length of the log's file after each."""
    lengths = []
    for _ in range(writes):
        rig.write(WRITE)
        lengths.append(log.stat().st_size)
    return lengths


def rows_after_crash(path: Path, copy: Path) -> int:
    """Copy a database and its log, as a crash leaves them, and return how many rows are in the copy."""
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (count,) = connection.execute("SELECT count(*) FROM t").fetchone()
    return int(count)


def test_durable_commits_seldom_make_the_file_longer(writer: Rig, tmp_path: Path):
    """Zeros are appended to the log, as many bytes as it has and at most 256 KiB, and a crash loses no row."""
    log = tmp_path / "logged.db-wal"
    lengths = lengths_after_each(writer, log, 200)
    assert len(set(lengths)) < len(lengths) / 4
    steps = [(before, after - before) for before, after in itertools.pairwise(lengths)]
    assert all(step <= min(before, ZEROS_MAX) + 4 * FRAME_BYTES for before, step in steps)
    assert rows_after_crash(tmp_path / "logged.db", tmp_path / "copy.db") == len(lengths)


@pytest.mark.parametrize("bytes_max", [0, 100_000, 1_000_000])
def test_zeros_stay_below_the_limit_of_the_log(writer: Rig, tmp_path: Path, bytes_max: int):
    """A log that only zeros make as long as its limit would be cut back too early; beyond the limit it has its frames alone."""
    writer.connection.execute(f"PRAGMA journal_size_limit = {bytes_max}")
    lengths = lengths_after_each(writer, tmp_path / "logged.db-wal", 150)  # no checkpoint yet
    long = [length for length in lengths if length >= bytes_max]
    assert len(long) > 50
    assert all((length - HEADER_BYTES) % FRAME_BYTES == 0 for length in long)


def test_commits_that_wait_for_no_disk_append_no_zeros(writer: Rig, tmp_path: Path):
    """With durability ``normal`` there is nothing to save, and the log has its frames alone."""
    writer.connection.execute("PRAGMA synchronous = NORMAL")
    lengths = lengths_after_each(writer, tmp_path / "logged.db-wal", 50)
    assert len(set(lengths)) == len(lengths)
    assert all((length - HEADER_BYTES) % FRAME_BYTES == 0 for length in lengths)


def test_rollback_journal_gets_no_zeros(tmp_path: Path):
    """A journal that SQLite keeps after commits, and that becomes longer, is as long as after the same writes without the engine."""
    path, journal = tmp_path / "journaled.db", tmp_path / "journaled.db-journal"
    exclusive = (
        "PRAGMA locking_mode = EXCLUSIVE"  # SQLite has the journal open when the next transaction begins
    )
    set_up = (exclusive, "PRAGMA journal_mode = PERSIST", "CREATE TABLE t (id INTEGER PRIMARY KEY, value)")
    update = run("UPDATE t SET value = value || ?", "b")  # its journal has a page more after each insert
    rig = Rig(path, *set_up)
    for _ in range(50):
        rig.write(WRITE)
        rig.write((update,))
    rig.close()
    length = journal.stat().st_size
    for file in (path, journal):
        file.unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as plain:
        for statement in set_up:
            plain.execute(statement)
        for _ in range(50):
            plain.execute(WRITE[0].sql, WRITE[0].parameters)
            plain.execute(update.sql, update.parameters)
    assert length == journal.stat().st_size


def test_another_connection_writes_between(writer: Rig, tmp_path: Path):
    """The frames of another writer stay, whoever of the two has made the file longer."""
    path = tmp_path / "logged.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for _ in range(100):
            writer.write(WRITE)
            other.execute(WRITE[0].sql, WRITE[0].parameters)
        assert rows_after_crash(path, tmp_path / "copy.db") == 200


def test_no_room_for_zeros(writer: Rig, tmp_path: Path):
    """Zeros that the disk does not take are left out, and the commit is made."""
    log = tmp_path / "logged.db-wal"
    lengths_after_each(writer, log, 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # Room for the frames of a few rows. Python ignores SIGXFSZ, so a write beyond the limit fails.
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 12 * FRAME_BYTES, limits[1]))
        lengths = lengths_after_each(writer, log, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert lengths[-1] == lengths[1] == log.stat().st_size
    assert rows_after_crash(tmp_path / "logged.db", tmp_path / "copy.db") == 5
