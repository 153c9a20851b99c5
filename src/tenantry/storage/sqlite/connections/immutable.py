"""Reads a closed database as a file that does not change.

A database is *closed* when its last owner closed it cleanly and no process has it open: it is one file, with no journal and no
write-ahead log beside it. SQLite reads such a file without a lock, a log or shared memory if it is told that the file is immutable
(https://www.sqlite.org/uri.html#uriimmutable). SQLite then does not notice a change, so `ImmutableFile` has to.
"""

import os
import sqlite3
import stat
from pathlib import Path

from tenantry.storage.sqlite.connections.opening import SQLiteOptions, open_read_only
from tenantry.storage.sqlite.database_files.database_file import has_log


class ImmutableFile:
    """A database file that was found closed; it tells whether the file was changed since.

    Args:
        identity: The file's inode, size and modification time when it was found.
    """

    __slots__ = ("_identity", "_path")

    def __init__(self, path: str, identity: tuple[int, int, int]) -> None:
        self._path = path
        self._identity = identity

    @classmethod
    def find(cls, path: Path) -> "ImmutableFile | None":
        """Return the file; None if it is missing or empty, or has a journal, or a log that is not empty, beside it."""
        name = str(path)
        identity = _identity(name)
        if identity is None or has_log(name) or os.path.lexists(f"{name}-journal"):
            return None
        return cls(name, identity)

    def is_unchanged(self) -> bool:
        """Return whether it is the same file with the same content, and no process has written to a log for it."""
        return self._identity == _identity(self._path) and not has_log(self._path)


def open_immutable(options: SQLiteOptions) -> tuple[sqlite3.Connection, ImmutableFile] | None:
    """Open a closed database for reading.

    Returns:
        A connection that cannot write, and the file, which tells whether it was changed since; None if the database is not
        closed: it is missing or empty, or has a journal or a write-ahead log beside it.
    """
    assert options.path is not None
    file = ImmutableFile.find(options.path)
    if file is None:
        return None
    return open_read_only(options.path, "mode=ro&immutable=1", options), file


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:  # SQLite meets the same error and reports it
        return None
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
