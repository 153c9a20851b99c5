"""Compresses and decompresses files with gzip, and digests them in the same pass.

The content is worth something only when the pass has ended without an error. Until then it is in a draft without a name.

Files of earlier versions have a second gzip member without content; readers of gzip ignore it (RFC 1952, section 2.2).
"""

import gzip
import hashlib
import io
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol

from tenantry.errors import SnapshotCorruptError, SnapshotNotFoundError
from tenantry.files.atomic_file import DraftFile, storage_errors
from tenantry.threads import check_cancelled

LEVEL: Final = 5
"""Measured on text and numbers: 58 MB/s to 38 %; level 6 has half the speed and gains one per cent, level 1 twice and loses 12."""

_CHUNK_BYTES: Final = 1024 * 1024


class Writer(Protocol):
    """Takes bytes."""

    def write(self, content: bytes, /) -> object:
        """Take all of them."""


class CompressedFile(NamedTuple):
    """A file that `compress` wrote.

    Attributes:
        content_sha256: The SHA-256 of what was compressed.
    """

    path: Path
    size_bytes: int
    sha256: str
    content_sha256: str


def compress(source: Path, target: Path) -> CompressedFile:
    """Write a file compressed into a new file, durably. The same content gives the same bytes.

    Raises:
        StorageFullError: There is no space.
        SnapshotError: A file cannot be read or written; there is no new file.
    """
    doing = f"compress {source} into {target}"
    with storage_errors(doing), source.open("rb") as file, DraftFile(target) as draft:
        stored = _Digested(draft)
        with _gzip_into(stored) as writer:
            content = _Digested(writer)
            shutil.copyfileobj(file, content, _CHUNK_BYTES)
    return CompressedFile(target, stored.size_bytes, stored.sha256, content.sha256)


def decompress(source: Path, target: Path, *, bytes_max: int, content_sha256: str, sha256: str) -> None:
    """Write the content of a compressed file into a new file, durably.

    Args:
        source: What `compress` made.
        target: The new file.
        bytes_max: How large the content may be.
        content_sha256: The content's SHA-256, in hexadecimal.
        sha256: The compressed file's.

    Raises:
        SnapshotCorruptError: It is not what was compressed, or larger.
        SnapshotNotFoundError: The file does not exist.
        StorageFullError: There is no space.
        SnapshotError: A file cannot be read or written.

    After an error there is no new file.
    """
    doing = f"decompress {source} into {target}"
    with storage_errors(doing), DraftFile(target) as draft, decompressed(source) as reader:
        _, found = copy_digested(reader, draft, bytes_max)
        if reader.read(1):
            raise SnapshotCorruptError(f"{source} contains more than {bytes_max} bytes")
        if (found, reader.stored_sha256) != (content_sha256, sha256):
            raise SnapshotCorruptError(f"{source} is damaged: it is not what was written")


@contextmanager
def compressed(target: Path) -> Iterator[Writer]:
    """Give a writer into a new compressed file, which exists at the end of the block, durably."""
    with DraftFile(target) as draft, _gzip_into(_Digested(draft)) as writer:
        yield writer


class CompressedReader(gzip.GzipFile):
    """Reads the content of a compressed file."""

    def __init__(self, file: BinaryIO) -> None:
        self._stored = _DigestedFile(file)
        super().__init__(fileobj=self._stored, mode="rb")

    @property
    def stored_sha256(self) -> str:
        """The SHA-256 of the compressed bytes read until now, in hexadecimal: at the end of the content, of the whole file."""
        return self._stored.sha256.hexdigest()


@contextmanager
def decompressed(source: Path) -> Iterator[CompressedReader]:
    """Give a reader of the content of a compressed file.

    Raises:
        SnapshotCorruptError: It cannot be decompressed.
        SnapshotNotFoundError: The file does not exist.
        OSError: It cannot be read.
    """
    if not source.is_file():
        raise SnapshotNotFoundError(f"there is no file {source}")
    with source.open("rb") as file:
        try:
            yield CompressedReader(file)
        except EOFError as error:
            raise SnapshotCorruptError(
                f"{source} was cut short, at {source.stat().st_size} bytes: copy it again"
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise SnapshotCorruptError(f"{source} is damaged: it cannot be decompressed ({error})") from error


def copy_digested(source: BinaryIO | gzip.GzipFile, target: Writer, bytes_max: int) -> tuple[int, str]:
    """Copy at most so many bytes, and return how many there were and their SHA-256 in hexadecimal."""
    digested = _Digested(target)
    while chunk := source.read(min(bytes_max - digested.size_bytes, _CHUNK_BYTES)):
        digested.write(chunk)
    return digested.size_bytes, digested.sha256


class _DigestedFile(io.RawIOBase):
    """Reads a file once and digests it, until the work of this thread is cancelled.

    One read from a `gzip.GzipFile` may need many reads of the file: members without content and long names in headers are skipped.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        check_cancelled()
        content = self._file.read(size)
        self.sha256.update(content)
        return content


class _Digested:
    """Passes bytes on and digests them."""

    def __init__(self, target: Writer) -> None:
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()
        self._target = target

    @property
    def sha256(self) -> str:
        """The SHA-256 of all of them, in hexadecimal."""
        return self._sha256.hexdigest()

    def write(self, content: bytes) -> int:
        check_cancelled()
        self._sha256.update(content)
        self._target.write(content)
        self.size_bytes += len(content)
        return len(content)

    def flush(self) -> None:
        """Do nothing; `gzip.GzipFile` may call it."""


def _gzip_into(target: _Digested) -> gzip.GzipFile:
    # Without a name and a time: the same content gives the same bytes.
    return gzip.GzipFile("", "wb", LEVEL, target, mtime=0)
