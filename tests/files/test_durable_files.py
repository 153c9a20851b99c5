"""What is made, moved and removed is synced in its directory, and what is found there is too."""

import errno
import os
import stat
from pathlib import Path

import pytest

from directory_entries import EntryRecorder
from tenantry.errors import DataDirectoryError
from tenantry.files import durable_files


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EntryRecorder:
    """Follow what is done below the test's directory."""
    return EntryRecorder(tmp_path, monkeypatch)


def test_a_root_with_missing_parents(tmp_path: Path, entries: EntryRecorder):
    """Every directory that is made is private, and durable before another is made in it."""
    root = tmp_path / "a" / "b" / "data"
    durable_files.make_root(root)
    assert (entries.unsynced, entries.made_in_unsynced) == (set(), [])
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(entries.synced)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (root, *root.parents[:2])} == {0o700}


def test_a_root_that_is_found(tmp_path: Path, entries: EntryRecorder):
    """It may have been made by a process that died before its sync: so it is synced in its parent."""
    root = tmp_path / "data"
    root.mkdir()
    durable_files.make_root(root)
    assert entries.unsynced == set()


def test_a_root_whose_parent_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A found root on a mount point of a read-only file system is used; a failing disk is an error."""
    root = tmp_path / "data"
    root.mkdir()
    code = errno.EROFS

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    durable_files.make_root(root)
    code = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        durable_files.make_root(root)


def test_a_root_that_is_a_file(tmp_path: Path):
    """It is refused as what it is."""
    (tmp_path / "data").touch()
    with pytest.raises(NotADirectoryError):
        durable_files.make_root(tmp_path / "data")


@pytest.mark.parametrize("found", [0, 1, 2, 3])
def test_directories_below_a_root(tmp_path: Path, entries: EntryRecorder, found: int):
    """Whether they are made or found, they are durable in the end."""
    directory = tmp_path
    for name in ("a", "b", "c")[:found]:
        directory /= name
        directory.mkdir()
        if name != ("a", "b", "c")[found - 1]:
            durable_files.sync_directory(directory.parent)  # as the process that made the next directory did
    durable_files.make_directories(tmp_path, tmp_path / "a" / "b" / "c")
    assert (entries.unsynced, entries.made_in_unsynced) == (set(), [])
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_link_on_the_way(tmp_path: Path):
    """It is refused, and nothing is made behind it."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataDirectoryError, match="is a link"):
        durable_files.make_directories(tmp_path, tmp_path / "a" / "b")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_moving_linking_and_removing(tmp_path: Path, entries: EntryRecorder):
    """Each is synced when it returns, done a second time too."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    durable_files.sync_directory(tmp_path)
    source, target, second = tmp_path / "from" / "file", tmp_path / "to" / "file", tmp_path / "to" / "second"
    source.write_text("content")
    durable_files.move(source, target)
    assert entries.unsynced == set()
    for _ in range(2):
        durable_files.link(target, second)
        assert entries.unsynced == set()
    assert second.read_text() == "content"
    for _ in range(2):
        durable_files.remove_files(target, second)
        assert (entries.unsynced, list((tmp_path / "to").iterdir())) == (set(), [])


def test_removing_a_tree(tmp_path: Path, entries: EntryRecorder):
    """Its parent is synced, also if somebody else removed the tree before."""
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "file").touch()
    durable_files.remove_tree(tree)
    assert (entries.unsynced, tree.exists()) == (set(), False)
    entries.synced.clear()
    durable_files.remove_tree(tree)
    durable_files.remove_tree(tmp_path / "never" / "was")
    assert entries.synced == [tmp_path]
