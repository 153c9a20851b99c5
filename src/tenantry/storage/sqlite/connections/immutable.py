"""Opens a closed database as an immutable file.

A database is *closed* when its last owner closed it cleanly and no process has it open. A closed database is a single file, without a
journal or a write-ahead log beside it. SQLite reads an immutable file without a lock, a log or shared memory
(https://www.sqlite.org/uri.html#uriimmutable). SQLite does not detect changes of such a file, so `ImmutableFile` detects them.
"""

import os
import sqlite3
import stat
from pathlib import Path

from tenantry.storage.sqlite.connections.opening import IMMUTABLE, SQLiteOptions, open_read_only
from tenantry.storage.sqlite.database_files.database_file import has_log


class ImmutableFile:
    """A closed database file. Detects later changes of the file: compares the file's inode, size and modification time."""

    __slots__ = ("_identity", "_path")

    def __init__(self, path: str, identity: tuple[int, int, int]) -> None:
        self._path = path
        self._identity = identity

    @classmethod
    def find(cls, path: Path) -> "ImmutableFile | None":
        """Return the file; None if the file is missing or empty, or has a journal or a non-empty log beside it."""
        name = str(path)
        identity = _identity(name)
        if identity is None or has_log(name) or os.path.lexists(f"{name}-journal"):
            return None
        return cls(name, identity)

    @property
    def identity(self) -> tuple[str, int, int, int]:
        """The path, the inode, the size in bytes and the modification time in nanoseconds."""
        return (self._path, *self._identity)

    def is_unchanged(self) -> bool:
        """Return whether the path still names the same, unchanged file, and no log with content is beside the file."""
        return self._identity == _identity(self._path) and not has_log(self._path)


def open_immutable(options: SQLiteOptions) -> tuple[sqlite3.Connection, ImmutableFile] | None:
    """Open a closed database; return a read-only connection and the file, or None if the database is not closed."""
    assert options.path is not None
    file = ImmutableFile.find(options.path)
    if file is None:
        return None
    return open_read_only(options.path, IMMUTABLE, options), file


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:  # SQLite reports the same error
        return None
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
