"""The note of which database a write-ahead log belongs to, and when it is synced."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenantry.storage.sqlite.database_files import log_note

Note = Callable[[Path, int], None]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Make a file in the place of a database."""
    path = tmp_path / "tenant.db"
    path.write_bytes(b"a database")
    return path


@pytest.fixture
def note(tmp_path: Path) -> Iterator[Note]:
    """Return what notes a database and its epoch in a lock file."""
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    yield lambda database, epoch: log_note.note_database(fd, database, epoch)
    os.close(fd)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count syncs."""
    counted: list[int] = []
    monkeypatch.setattr(os, "fsync", counted.append)
    return counted


def replace(database: Path) -> None:
    """Put another file in the place of the database."""
    other = database.with_name("other.db")
    other.write_bytes(b"another database")
    other.rename(database)


def test_a_note_that_may_be_lost(database: Path, note: Note, syncs: list[int]):
    """The first note of a tenant, and notes of later epochs, are not synced: without them nothing is known of the log."""
    for epoch in (1, 1, 2, 5):
        note(database, epoch)
    assert syncs == []


def test_a_note_that_must_not_come_back(database: Path, note: Note, syncs: list[int]):
    """A note is synced where the note before it would condemn the log: it is of another file, or of a later epoch."""
    note(database, 5)
    replace(database)
    note(database, 5)
    assert len(syncs) == 1
    note(database, 4)
    assert len(syncs) == 2


def test_a_sync_that_fails(database: Path, note: Note, monkeypatch: pytest.MonkeyPatch):
    """The error is raised, and raised again until a sync succeeds: the note in memory says nothing of the disk."""
    note(database, 5)
    replace(database)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                note(database, 5)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    note(database, 5)
    assert len(synced) == 1
