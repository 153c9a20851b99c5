"""Files that appear whole or not at all, whatever ends their writing."""

import fcntl
import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from stores import small_disk
from tenantry.errors import SnapshotError, StorageFullError
from tenantry.files.atomic_file import DRAFT_SUFFIX, DraftFile, storage_errors
from tenants import open_files, python, read_line

WRITES_AND_WAITS = """
import sys
from pathlib import Path
from tenantry.files.atomic_file import DraftFile
draft = DraftFile(Path(sys.argv[1]))
draft.open()
draft.write(b"a long beginning" * 1000)
draft._file.flush()
print("begun", flush=True)
sys.stdin.readline()
draft.publish()
print("published", flush=True)
sys.stdin.readline()
"""


def names(directory: Path) -> list[str]:
    """Return what lies in the directory."""
    return sorted(path.name for path in directory.iterdir())


def test_it_appears_at_the_end(tmp_path: Path):
    """Until the end there is what was there before; then the new content, private, and nothing else."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with DraftFile(path) as draft:
        draft.write(b"new ")
        draft.write(b"content")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["file"]
    assert open_files(tmp_path) == []


def test_an_error_leaves_what_was_there(tmp_path: Path):
    """A block that raises publishes nothing."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), DraftFile(path) as draft:
        draft.write("no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]
    assert open_files(tmp_path) == []


def test_discarding_twice_or_nothing_is_no_error(tmp_path: Path):
    """It can stand in any `finally`; a published file stays."""
    draft = DraftFile(tmp_path / "file")
    draft.discard()
    draft.open()
    draft.open()
    draft.publish()
    draft.discard()
    draft.discard()
    assert names(tmp_path) == ["file"]


def test_what_a_crash_left_is_taken_over(tmp_path: Path):
    """A process that is killed while it writes leaves what was there, and its draft is in nobody's way."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with python(WRITES_AND_WAITS, path) as process:
        read_line(process)
    assert names(tmp_path) == ["file", f"file{DRAFT_SUFFIX}"]
    assert path.read_bytes() == b"old"
    with DraftFile(path) as draft:
        draft.write(b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_what_a_crash_left_can_be_removed(tmp_path: Path):
    """Removing a leftover touches no file that was published, and is no error without one."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    DraftFile(path).remove_leftover()
    with python(WRITES_AND_WAITS, path) as process:
        read_line(process)
    DraftFile(path).remove_leftover()
    assert names(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_two_at_once_do_not_mix(tmp_path: Path):
    """Who comes while another process writes is refused and may try again; the other's file is not disturbed."""
    path = tmp_path / "file"
    with python(WRITES_AND_WAITS, path) as process:
        assert read_line(process) == "begun"
        DraftFile(path).remove_leftover()
        with pytest.raises(SnapshotError, match="try again") as caught, DraftFile(path):
            pass
        assert caught.value.is_retryable
        assert process.stdin is not None
        print(file=process.stdin, flush=True)
        assert read_line(process) == "published"
        assert path.read_bytes() == b"a long beginning" * 1000
        with DraftFile(path) as draft:
            draft.write(b"new")
        assert path.read_bytes() == b"new"


def test_a_draft_that_was_published_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who gets the lock only after the file got its name begins a draft of his own and does not write into that file."""
    first, second = DraftFile(tmp_path / "file"), DraftFile(tmp_path / "file")
    first.open()
    first.write(b"first")
    flock = fcntl.flock

    def publish_first(file: BinaryIO, operation: int) -> None:
        monkeypatch.undo()
        first.publish()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", publish_first)
    second.open()
    second.write(b"2")
    assert (tmp_path / "file").read_bytes() == b"first"
    second.publish()
    assert (tmp_path / "file").read_bytes() == b"2"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["link", "hard-link", "readable", "pipe", "directory"])
def test_something_else_in_the_drafts_place_is_refused(tmp_path: Path, kind: str):
    """Whoever may write to the directory cannot get at the content, or have another file written over."""
    victim, place = tmp_path / "victim", tmp_path / f"file{DRAFT_SUFFIX}"
    victim.write_bytes(b"precious")
    victim.chmod(0o600)
    if kind == "link":
        place.symlink_to(victim)
    elif kind == "hard-link":
        place.hardlink_to(victim)
    elif kind == "readable":
        place.write_bytes(b"mine")
        place.chmod(0o644)
    elif kind == "pipe":
        os.mkfifo(place, 0o600)
    else:
        place.mkdir()
    with pytest.raises(SnapshotError), storage_errors("write"), DraftFile(tmp_path / "file"):
        pass
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "file").exists()
    assert open_files(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path):
    """A full disk is told as such, what was there stays, and the room is free again."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk / "file").write_bytes(b"old")
        for _ in range(5):
            doing = storage_errors("write")
            with (
                pytest.raises(StorageFullError, match="free space") as caught,
                doing,
                DraftFile(disk / "file") as draft,
            ):
                draft.write(bytes(2_000_000))
            assert caught.value.is_retryable
            assert (names(disk), (disk / "file").read_bytes()) == (["file"], b"old")
        with DraftFile(disk / "file") as draft:
            draft.write(bytes(500_000))
        assert open_files(disk) == []


@pytest.mark.parametrize("path", ["missing/file", "file/below"])
def test_where_no_file_can_be_is_told(tmp_path: Path, path: str):
    """The error names the path and says what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(SnapshotError, match="check the path") as caught, storage_errors("write"):
        DraftFile(tmp_path / path).open()
    assert not caught.value.is_retryable
    assert str(tmp_path / path) in str(caught.value)
