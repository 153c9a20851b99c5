"""The trace that ``recorder.c`` writes: every change to the files below one directory, in the order of its effect."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any, Final

_HEADER: Final = struct.Struct("=IiQQIIQ")


class Kind(IntFlag):
    """Kinds of system calls that can be made to fail; ``recorder.c`` has the same table."""

    OPEN = 1
    READ = 2
    WRITE = 4
    SYNC = 8
    TRUNCATE = 16
    RENAME = 32
    UNLINK = 64
    MKDIR = 128
    LINK = 256


class Operation(IntEnum):
    """What a record says; ``recorder.c`` has the same table."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    RENAME = 5
    UNLINK = 6
    MKDIR = 7
    RMDIR = 8
    LINK = 9
    MARK = 10


@dataclass(frozen=True, slots=True)
class Record:
    """One change, or one mark of the program.

    Attributes:
        operation: What happened.
        error: The error number of a sync that failed; everything else is only recorded when it succeeded.
        inode: The number of the file or directory.
        offset: Where a write began, in bytes; the new size of a truncated file.
        path: The absolute path, or the text of a mark.
        other: The new path of a rename and of a link.
        data: What was written.
    """

    operation: Operation
    path: str
    other: str = ""
    error: int = 0
    inode: int = 0
    offset: int = 0
    data: bytes = b""

    @property
    def mark(self) -> Any:
        """What the program said here; None for every other record."""
        return json.loads(self.path) if self.operation is Operation.MARK else None


def read_trace(path: Path) -> list[Record]:
    """Return the records of a trace. The last one may be cut off: the process was killed while it wrote it."""
    return list(_records(path.read_bytes()))


def _records(content: bytes) -> Iterator[Record]:
    at = 0
    while at + _HEADER.size <= len(content):
        operation, error, inode, offset, path_bytes, other_bytes, data_bytes = _HEADER.unpack_from(
            content, at
        )
        path_at = at + _HEADER.size
        other_at = path_at + path_bytes
        data_at = other_at + other_bytes
        at = data_at + data_bytes
        if at <= len(content):
            yield Record(
                Operation(operation),
                path=content[path_at:other_at].decode(),
                other=content[other_at:data_at].decode(),
                error=error,
                inode=inode,
                offset=offset,
                data=content[data_at:at],
            )
