"""A model of a disk: from the changes that programs made, what may be on it after the power has gone.

The model is that of a POSIX file system with a journal for its names, such as ext4 or XFS. It promises what fsync(2)
promises, and nothing more.

**Content.** A write changes a page of 4,096 bytes in memory. Until the file is synced, the disk has any of the versions that
the page had since it was last synced, and each page has its own: pages reach the disk in any order. A write of several pages
can therefore be torn. In a torn image even the sectors of 512 bytes of a page are of different versions. The size of a file is
any of those that it had since it was synced, whatever pages reached the disk; a page that did not is zeros.

**A failed sync** marks the pages as clean, as Linux does ("fsyncgate", https://lwn.net/Articles/752063/). The process still
reads what it wrote. The disk has any of the versions, and no later sync writes the page, until the page is written again.

**Names.** A file that is created, moved, linked or removed changes its directories. Such a change is durable once one of them
is synced. Until then the disk has any prefix of each directory's changes, so they keep their order within a directory. A rename
between two directories is one change, as in a journal. A sync of a file does not make its name durable (fsync(2): "Calling fsync()
does not necessarily ensure that the entry in the directory containing the file has also reached disk"). A sync of a directory does
not make what is in its files durable.

Modes, times and locks are left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from power.choices import PAGE_BYTES, Choice
from power.tracing import Operation, Record
from power.trees import Tree


@dataclass
class Page:
    """A page whose content on the disk is not known.

    Attributes:
        versions: What the disk may have, oldest first; the last one is what programs read.
        is_dirty: Whether the next sync writes it.
    """

    versions: list[bytes]
    is_dirty: bool = True


@dataclass(eq=False)
class File:
    """The content of a file: in memory, and what the disk may have of it."""

    content: bytearray = field(default_factory=bytearray)
    pages: dict[int, Page] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=lambda: [0])

    def write(self, offset: int, data: bytes) -> None:
        """Write, past the end too."""
        self._touch(offset, offset + len(data))
        self.content.extend(bytes(max(0, offset + len(data) - len(self.content))))
        self.content[offset : offset + len(data)] = data
        self._changed(offset, offset + len(data))

    def truncate(self, size: int) -> None:
        """Cut off the end, or add zeros."""
        old_size = len(self.content)
        self._touch(size, old_size)
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))
        self._changed(size, old_size)

    def sync(self, *, is_failed: bool = False) -> None:
        """Write the dirty pages to the disk; if that fails, they are clean nevertheless and the disk has what it has."""
        if is_failed:
            for page in self.pages.values():
                page.is_dirty = False
            return
        self.pages = {number: page for number, page in self.pages.items() if not page.is_dirty}
        self.sizes = [len(self.content)]

    def on_disk(self, choice: "Choice") -> bytes:
        """Return what the disk has."""
        size = choice.size(self.sizes)
        found = bytearray(self.content[:size].ljust(size, b"\0"))
        for number, page in self.pages.items():
            start = number * PAGE_BYTES
            if start < size:
                found[start : start + PAGE_BYTES] = choice.page(page.versions)
        return bytes(found[:size])

    def _touch(self, start: int, end: int) -> None:
        """Remember what the pages are before they change."""
        for number in range(start // PAGE_BYTES, -(-end // PAGE_BYTES)):
            if number not in self.pages:
                self.pages[number] = Page([self._page(number)])

    def _changed(self, start: int, end: int) -> None:
        for number in range(start // PAGE_BYTES, -(-end // PAGE_BYTES)):
            self.pages[number].versions.append(self._page(number))
            self.pages[number].is_dirty = True
        if self.sizes[-1] != len(self.content):
            self.sizes.append(len(self.content))

    def _page(self, number: int) -> bytes:
        return bytes(self.content[number * PAGE_BYTES :][:PAGE_BYTES]).ljust(PAGE_BYTES, b"\0")


@dataclass(eq=False)
class Directory:
    """The names in a directory: as programs see them, and as they are durable."""

    names: "dict[str, File | Directory]" = field(default_factory=dict)
    durable: "dict[str, File | Directory]" = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NameChange:
    """One change of names: each name becomes a node's, or goes (None)."""

    names: tuple[tuple[Directory, str, File | Directory | None], ...]

    @property
    def directories(self) -> set[Directory]:
        """The directories that it changes."""
        return {directory for directory, _, _ in self.names}


class Disk:
    """The files below a directory, as programs see them and as they may be on the disk.

    Args:
        root: The directory. What is in it now is durable.
    """

    def __init__(self, root: Path) -> None:
        self._root_path = str(root)
        self._root = Directory()
        self._nodes: dict[int, File | Directory] = {}
        self._pending: list[NameChange] = []
        self._take_in(root, self._root)

    def apply(self, record: Record) -> None:
        """Change the files as a record says."""
        match record.operation:
            case Operation.CREATE | Operation.MKDIR:
                node = File() if record.operation is Operation.CREATE else Directory()
                self._nodes[record.inode] = node
                self._name((*self._place(record.path), node))
            case Operation.WRITE:
                self._file(record).write(record.offset, record.data)
            case Operation.TRUNCATE:
                self._file(record).truncate(record.offset)
            case Operation.SYNC:
                self._sync(self._nodes[record.inode], is_failed=record.error != 0)
            case Operation.UNLINK | Operation.RMDIR:
                self._unlink(record)
            case Operation.LINK:
                self._name((*self._place(record.other), self._node(record.path)))
            case Operation.RENAME:
                self._rename(record)
            case Operation.MARK:
                pass

    def _is_socket(self, path: str) -> bool:
        """Return whether the name is a socket's, which bind(2) makes unrecorded and which means nothing after a power failure."""
        directory, name = self._place(path)
        return "/peers/" in path and name not in directory.names

    def _unlink(self, record: Record) -> None:
        if not self._is_socket(record.path):
            self._name((*self._place(record.path), None))

    def _rename(self, record: Record) -> None:
        if self._is_socket(record.path):
            return
        old, new = self._place(record.path), self._place(record.other)
        node = self._node(record.path)
        # rename(2): of two names of one file, nothing is done
        if new[0].names.get(new[1]) is not node:
            self._name((*old, None), (*new, node))

    def image(self, choice: Choice) -> Tree:
        """Return what is on the disk after the power has gone."""
        names = self._names_on_disk(choice)
        tree: dict[str, bytes | None] = {}
        left: list[tuple[str, File | Directory]] = [("", self._root)]
        while left:
            path, node = left.pop()
            if isinstance(node, File):
                tree[path] = node.on_disk(choice)
                continue
            if path:
                tree[path] = None
            left.extend((f"{path}/{name}".lstrip("/"), names[node][name]) for name in sorted(names[node]))
        return tree

    def _names_on_disk(self, choice: Choice) -> dict[Directory, dict[str, File | Directory]]:
        found = _Names()
        for change in self._closed([change for change in self._pending if choice.has_name()]):
            _apply_names(found, change)
        return found

    def _closed(self, chosen: Iterable[NameChange], synced: Iterable[Directory] = ()) -> list[NameChange]:
        """Return the changes that are on the disk if these are, and all of these directories: with all that come before."""
        wanted = {id(change) for change in chosen}
        directories = set(synced)
        taken = []
        for change in reversed(self._pending):
            if id(change) in wanted or change.directories & directories:
                taken.append(change)
                directories |= change.directories
        return taken[::-1]

    def _sync(self, node: File | Directory, *, is_failed: bool) -> None:
        if isinstance(node, File):
            node.sync(is_failed=is_failed)
        elif not is_failed:
            done = self._closed((), [node])
            for change in done:
                _apply_names(_Durable(), change)
            gone = {id(change) for change in done}
            self._pending = [change for change in self._pending if id(change) not in gone]

    def _name(self, *names: tuple[Directory, str, File | Directory | None]) -> None:
        change = NameChange(names)
        self._pending.append(change)
        for directory, name, node in names:
            _set(directory.names, name, node)

    def _file(self, record: Record) -> File:
        node = self._nodes[record.inode]
        assert isinstance(node, File), record.path
        return node

    def _node(self, path: str) -> File | Directory:
        directory, name = self._place(path)
        return directory.names[name]

    def _place(self, path: str) -> tuple[Directory, str]:
        *parents, name = path.removeprefix(self._root_path).strip("/").split("/")
        directory = self._root
        for parent in parents:
            found = directory.names[parent]
            assert isinstance(found, Directory), path
            directory = found
        return directory, name

    def _take_in(self, path: Path, directory: Directory) -> None:
        self._nodes[path.stat().st_ino] = directory
        for found in path.iterdir():
            node: File | Directory
            if found.is_dir():
                node = Directory()
                self._take_in(found, node)
            else:
                content = found.read_bytes()
                node = self._nodes.setdefault(
                    found.stat().st_ino, File(bytearray(content), sizes=[len(content)])
                )
            directory.names[found.name] = directory.durable[found.name] = node


class _Names(dict[Directory, dict[str, File | Directory]]):
    """Names of directories that begin as what is durable."""

    def __missing__(self, directory: Directory) -> dict[str, File | Directory]:
        self[directory] = dict(directory.durable)
        return self[directory]


class _Durable:
    """The durable names of directories, to be changed in place."""

    def __getitem__(self, directory: Directory) -> dict[str, File | Directory]:
        return directory.durable


def _apply_names(names: "_Names | _Durable", change: NameChange) -> None:
    for directory, name, node in change.names:
        _set(names[directory], name, node)


def _set(names: dict[str, File | Directory], name: str, node: File | Directory | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node
