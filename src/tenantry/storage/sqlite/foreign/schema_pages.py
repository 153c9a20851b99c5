"""Measures a database file's schema without SQLite, because SQLite would parse the whole schema into memory.

The schema is the table whose b-tree begins at page 1 (https://www.sqlite.org/fileformat2.html, sections 1.3, 1.6 and 2.6).
This module reads only the sizes of the table's rows, and never the contents.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO, Final

from tenantry.errors import DatabaseCorruptError

ROWS_MAX: Final = 10_000
ROWS_BYTES_MAX: Final = 2**20
"""The limit is low because SQLite uses up to fifty times as much memory for the text of a view."""

_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_PAGE_BYTES_MAX: Final = 65_536
_INTERIOR: Final = 0x05
_LEAF: Final = 0x0D
_VARINT_BYTES_MAX: Final = 9


def check_schema_size(path: Path, *, rows_max: int = ROWS_MAX) -> None:
    """Raise `DatabaseCorruptError` if the file is not a database, or if its schema is too large to parse."""
    try:
        with path.open("rb") as file:
            pages = _Pages(file, rows_max)
            pages.visit(1)
            while pages.waiting:
                pages.visit(pages.waiting.pop())
    except (IndexError, struct.error) as error:
        raise DatabaseCorruptError(
            f"{path} is damaged, or is not a database: its schema cannot be read"
        ) from error
    except ValueError as error:
        raise DatabaseCorruptError(f"{path} is refused: {error}") from error


class _Pages:
    """The pages of a file's schema, visited one after the other."""

    def __init__(self, file: BinaryIO, rows_max: int) -> None:
        header = file.read(_HEADER_BYTES)
        if header[: len(_MAGIC)] != _MAGIC:
            raise ValueError("the file is not an SQLite database")
        (size,) = struct.unpack_from(">H", header, 16)
        self._page_bytes = _PAGE_BYTES_MAX if size == 1 else size
        if self._page_bytes < 512 or self._page_bytes & (self._page_bytes - 1):  # noqa: PLR2004  # section 1.3.2
            raise ValueError("the database's page size is not valid")
        self._file = file
        self._rows_max = rows_max
        self._rows = self._rows_bytes = self._visited = 0
        self._pages_max = os.fstat(file.fileno()).st_size // self._page_bytes
        self.waiting: list[int] = []

    def visit(self, number: int) -> None:
        """Count the rows of one page, and add the page's child pages to `waiting`."""
        self._visited += 1
        # In files that SQLite writes, an interior page has at least two children, and each leaf has a row.
        if self._visited > 2 * self._rows_max or not 1 <= number <= self._pages_max:
            raise IndexError(number)
        self._file.seek((number - 1) * self._page_bytes)
        page = self._file.read(self._page_bytes)
        start = _HEADER_BYTES if number == 1 else 0
        kind, cells = struct.unpack_from(">B2xH", page, start)
        if kind == _INTERIOR:
            self._note_children(page, start, cells)
        elif kind == _LEAF:
            for (offset,) in struct.iter_unpack(">H", page[start + 8 : start + 8 + 2 * cells]):
                self._count(_varint(page, offset))
        else:
            raise IndexError(kind)

    def _note_children(self, page: bytes, start: int, cells: int) -> None:
        self.waiting.append(struct.unpack_from(">I", page, start + 8)[0])
        for (offset,) in struct.iter_unpack(">H", page[start + 12 : start + 12 + 2 * cells]):
            self.waiting.append(struct.unpack_from(">I", page, offset)[0])
        if len(self.waiting) > 2 * self._rows_max:
            raise IndexError(len(self.waiting))

    def _count(self, row_bytes: int) -> None:
        self._rows += 1
        self._rows_bytes += row_bytes
        if self._rows > self._rows_max or self._rows_bytes > ROWS_BYTES_MAX:
            raise ValueError(f"the schema has more than {self._rows_max} objects or {ROWS_BYTES_MAX} bytes")


def _varint(page: bytes, offset: int) -> int:
    value = 0
    for place in range(_VARINT_BYTES_MAX):
        byte = page[offset + place]
        if place == _VARINT_BYTES_MAX - 1:
            return (value << 8) | byte
        value = (value << 7) | (byte & 0x7F)
        if not byte & 0x80:
            return value
    raise AssertionError
