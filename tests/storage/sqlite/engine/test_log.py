"""The length of the write-ahead log, which the engine fits to the writes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_rig import Rig
from stores import run
from tenantry.storage.sqlite.engine import native

PAGES = 4000
SHORT_PAGES = PAGES // 8
LONE_WRITES_MIN = 16

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
