"""The model of a disk: what may be on it after the power has gone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from power.choices import (
    CONTENT_ONLY,
    MAXIMAL,
    MINIMAL,
    NAMES_ONLY,
    PAGE_BYTES,
    SECTOR_BYTES,
    Choice,
    RandomChoice,
)
from power.disk import Disk
from power.tracing import Operation, Record
from power.trees import Tree, digest

pytestmark = pytest.mark.unmeasured

SEEDS = [str(seed) for seed in range(300)]


class Files:
    """Changes files of a model, by hand; every name is a path below the root."""

    def __init__(self, root: Path) -> None:
        self.disk = Disk(root)
        self._root = root
        self._inodes = {"": root.stat().st_ino}
        self._next_inode = 10**9

    def image(self, choice: Choice = MINIMAL) -> Tree:
        """Return what the disk has."""
        return self.disk.image(choice)

    def images(self) -> list[Tree]:
        """Return many images that are possible."""
        return [self.image(RandomChoice(seed)) for seed in SEEDS]

    def create(self, name: str) -> None:
        """Create a file."""
        self._make(Operation.CREATE, name)

    def mkdir(self, name: str) -> None:
        """Create a directory."""
        self._make(Operation.MKDIR, name)

    def write(self, name: str, data: bytes, offset: int = 0) -> None:
        """Write."""
        self._do(Operation.WRITE, name, offset=offset, data=data)

    def truncate(self, name: str, size: int) -> None:
        """Truncate."""
        self._do(Operation.TRUNCATE, name, offset=size)

    def sync(self, *names: str, error: int = 0) -> None:
        """Sync files or directories, or let that fail."""
        for name in names:
            self._do(Operation.SYNC, name, error=error)

    def rename(self, name: str, other: str) -> None:
        """Rename."""
        self._do(Operation.RENAME, name, other)
        self._inodes[other] = self._inodes.pop(name)

    def link(self, name: str, other: str) -> None:
        """Link."""
        self._do(Operation.LINK, name, other)
        self._inodes[other] = self._inodes[name]

    def remove(self, name: str, *, is_directory: bool = False) -> None:
        """Remove a file, or a directory."""
        self._do(Operation.RMDIR if is_directory else Operation.UNLINK, name)

    def durable(self, name: str, content: bytes) -> None:
        """Have a file that is on the disk with this content."""
        self.create(name)
        self.write(name, content)
        self.sync(name, str(Path(name).parent).removeprefix("."))

    def _make(self, operation: Operation, name: str) -> None:
        self._next_inode += 1
        self._inodes[name] = self._next_inode
        self._do(operation, name)

    def _do(self, operation: Operation, name: str, other: str = "", **fields: object) -> None:
        paths = [str(self._root / path) if path else "" for path in (name, other)]
        self.disk.apply(Record(operation, *paths, inode=self._inodes[name], **fields))  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """An empty disk."""
    return Files(tmp_path)


def test_a_write_is_on_the_disk_once_it_is_synced(files: Files):
    """Before that it is there or not; afterwards always."""
    files.durable("file", b"old")
    files.write("file", b"new")
    assert files.image(MINIMAL) == {"file": b"old"}
    assert files.image(MAXIMAL) == {"file": b"new"}
    assert {tree["file"] for tree in files.images()} == {b"old", b"new"}
    files.sync("file")
    assert {tree["file"] for tree in files.images()} == {b"new"}


def test_a_new_name_is_on_the_disk_once_its_directory_is_synced(files: Files):
    """The sync of the file alone does not make its name durable."""
    files.create("file")
    files.write("file", b"content")
    files.sync("file")
    assert files.image(MINIMAL) == {}
    assert sorted(map(dict, {digest(i): i for i in files.images()}.values()), key=len) == [
        {},
        {"file": b"content"},
    ]
    files.sync("")
    assert files.image(MINIMAL) == {"file": b"content"}


def test_a_synced_directory_says_nothing_of_its_files(files: Files):
    """A name whose content was not synced leads to an empty file, or to one of the right size with zeros."""
    files.create("file")
    files.write("file", b"content")
    files.sync("")
    assert files.image(MINIMAL) == {"file": b""}
    assert {tree["file"] for tree in files.images()} == {b"", bytes(7), b"content"}


@pytest.mark.parametrize(
    "replace",
    [
        pytest.param(lambda files: files.rename("new", "file"), id="rename"),
        pytest.param(lambda files: files.remove("file"), id="unlink"),
        pytest.param(lambda files: files.link("new", "other"), id="link"),
    ],
)
def test_a_change_of_names_is_on_the_disk_once_the_directory_is_synced(
    files: Files, replace: Callable[[Files], None]
):
    """Before that both states are possible, and no third."""
    files.durable("file", b"old")
    files.durable("new", b"new")
    before = files.image(MAXIMAL)
    replace(files)
    after = files.image(MAXIMAL)
    assert files.image(MINIMAL) == before
    assert {digest(tree) for tree in files.images()} == {digest(before), digest(after)}
    files.sync("")
    assert {digest(tree) for tree in files.images()} == {digest(after)}


def test_what_was_removed_with_its_directory_is_back(files: Files):
    """A tree that was removed, and whose parent was not synced, is there again as a whole or in part."""
    files.mkdir("directory")
    files.sync("")
    files.durable("directory/file", b"content")
    files.remove("directory/file")
    files.remove("directory", is_directory=True)
    assert files.image(MINIMAL) == {"directory": None, "directory/file": b"content"}
    files.sync("")
    assert files.image(MINIMAL) == {}


def test_a_directory_keeps_the_order_of_its_names(files: Files):
    """A later name is not on the disk without the earlier ones of its directory; other directories have their own order."""
    for name in ("one", "two"):
        files.mkdir(name)
    files.sync("")
    for number in range(4):
        files.create(f"one/{number}")
        files.create(f"two/{number}")
    found = set()
    for tree in files.images():
        counts = tuple(sum(path.startswith(f"{name}/") for path in tree) for name in ("one", "two"))
        for name, count in zip(("one", "two"), counts, strict=True):
            assert all(f"{name}/{number}" in tree for number in range(count))
        found.add(counts)
    assert {(0, 4), (4, 0), (2, 3)} <= found


def test_a_rename_between_directories_is_one_change(files: Files):
    """The file is never at both places and never at none."""
    for name in ("one", "two"):
        files.mkdir(name)
    files.sync("")
    files.durable("one/file", b"content")
    files.rename("one/file", "two/file")
    assert {tuple(path for path in sorted(tree) if path.endswith("file")) for tree in files.images()} == {
        ("one/file",),
        ("two/file",),
    }
    files.sync("two")
    assert "one/file" not in files.image(MINIMAL)


def test_pages_reach_the_disk_in_any_order(files: Files):
    """Of a write of several pages each may be there or not; in a torn image even each sector."""
    files.durable("file", b"o" * 3 * PAGE_BYTES)
    files.write("file", b"n" * 3 * PAGE_BYTES)
    found = [tree["file"] or b"" for tree in files.images()]
    assert {content[::PAGE_BYTES] for content in found} == {
        bytes([one, two, three]) for one in b"on" for two in b"on" for three in b"on"
    }
    sectors = [
        content[start : start + SECTOR_BYTES]
        for content in found
        for start in range(0, PAGE_BYTES, SECTOR_BYTES)
    ]
    assert all(len(set(sector)) == 1 for sector in sectors)
    assert any(len(set(content[:PAGE_BYTES])) == 2 for content in found)


def test_each_version_of_a_page_is_possible(files: Files):
    """Until a sync the disk has any of the contents that the page had, not only the first and the last."""
    files.durable("file", b"0")
    for version in b"123":
        files.write("file", bytes([version]))
    assert {tree["file"] for tree in files.images()} == {b"0", b"1", b"2", b"3"}


def test_what_was_cut_off_does_not_come_back_with_the_size(files: Files):
    """A file that was cut and has grown again has zeros there, once that is synced; before, anything that it had."""
    files.durable("file", b"content")
    files.truncate("file", 3)
    files.truncate("file", 7)
    assert files.image(MAXIMAL) == {"file": b"con\0\0\0\0"}
    assert {len(tree["file"] or b"") for tree in files.images()} == {3, 7}
    files.sync("file")
    assert files.image(MINIMAL) == {"file": b"con\0\0\0\0"}


def test_a_failed_sync_loses_what_it_did_not_write(files: Files):
    """Later syncs succeed and do not write it; only when its page is written again does it reach the disk."""
    files.durable("file", b"old")
    files.write("file", b"new")
    files.sync("file", error=5)
    files.sync("file")
    assert files.image(MINIMAL) == {"file": b"old"}
    assert files.image(MAXIMAL) == {"file": b"new"}
    files.write("file", b"more", 2 * PAGE_BYTES)
    files.sync("file")
    assert (files.image(MINIMAL)["file"] or b"")[:3] == b"old"
    files.write("file", b"n")
    files.sync("file")
    assert (files.image(MINIMAL)["file"] or b"")[:3] == b"new"


def test_the_extremes(files: Files):
    """Names and content reach the disk independently of each other."""
    files.durable("file", b"old")
    files.write("file", b"new")
    files.rename("file", "moved")
    assert files.image(CONTENT_ONLY) == {"file": b"new"}
    assert files.image(NAMES_ONLY) == {"moved": b"old"}


def test_a_seed_decides_everything(files: Files):
    """The same seed gives the same image, so that a finding can be looked at again."""
    for number in range(20):
        files.create(str(number))
        files.write(str(number), b"content")
    assert [digest(tree) for tree in files.images()] == [digest(tree) for tree in files.images()]
