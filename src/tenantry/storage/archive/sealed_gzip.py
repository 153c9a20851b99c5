"""Compressed files in which every changed byte is found out, and which any gzip reads.

gzip's checksum covers the content, but neither the header's time and flags nor the last bits before the checksum
(RFC 1952, section 2.3; RFC 1951, section 3.2.3). So a second member follows, without content, whose comment is the SHA-256 of every byte
before it. Members that follow each other are one file to everything that reads gzip (RFC 1952, section 2.2). The last bytes of a file are compared
with what they must be before anything is decompressed.
"""

import gzip
import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from tenantry.errors import SnapshotCorruptError, SnapshotNotFoundError
from tenantry.files.atomic_file import DraftFile, storage_errors
from tenantry.files.digests import file_sha256
from tenantry.threads import check_cancelled

LEVEL: Final = 5
"""Measured on text and numbers: 58 MB/s to 38 %; level 6 has half the speed and gains one per cent, level 1 twice and loses 12."""

_CHUNK_BYTES: Final = 1024 * 1024
_FCOMMENT: Final = 0x10
_OS_UNKNOWN: Final = 255
_SEAL_HEADER: Final = struct.pack("<2sBBIBB", b"\x1f\x8b", 8, _FCOMMENT, 0, 0, _OS_UNKNOWN)
_SEAL_END: Final = b"\x03\x00" + struct.pack("<II", 0, 0)  # an empty block, its CRC and its size


HEADER: Final = b"\x1f\x8b\x08\x00" + bytes(4)
"""How every file that is made here begins: gzip without a name and a time."""


class Reader(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Return so many bytes, and fewer only at the end."""
        ...


class Writer(Protocol):
    """What bytes are written to."""

    def write(self, content: bytes, /) -> object:
        """Take all of them."""
        ...


def compress(source: Path, target: Path) -> tuple[int, str]:
    """Write a file compressed and sealed into a new file, durably.

    Returns:
        The size of the new file in bytes, and its SHA-256 in hexadecimal.

    Raises:
        StorageFullError: There is no room.
        SnapshotError: A file cannot be read or written; there is no new file.
    """
    with storage_errors(f"compress {source} into {target}"):
        with source.open("rb") as file, compressed(target) as writer:
            shutil.copyfileobj(file, writer, _CHUNK_BYTES)
        return target.stat().st_size, file_sha256(target)


def decompress(source: Path, target: Path, *, bytes_max: int, sha256: str) -> None:
    """Write the content of a compressed and sealed file into a new file, durably.

    Args:
        source: What `compress` made.
        target: The new file.
        bytes_max: How large the content may be.
        sha256: Its SHA-256 in hexadecimal.

    Raises:
        SnapshotCorruptError: It is not what was compressed, or larger.
        SnapshotNotFoundError: There is no such file.
        StorageFullError: There is no room.
        SnapshotError: A file cannot be read or written.

    After an error there is no new file.
    """
    doing = f"decompress {source} into {target}"
    with storage_errors(doing), decompressed(source) as reader, DraftFile(target) as draft:
        _, digest = copy_digested(reader, draft, bytes_max)
        if reader.read(1):
            raise SnapshotCorruptError(f"{source} holds more than the {bytes_max} bytes that it should")
        if digest != sha256:
            raise SnapshotCorruptError(
                f"{source} holds something else than what was stored: SHA-256 {digest}"
            )


@contextmanager
def compressed(target: Path) -> Iterator[Writer]:
    """Give what writes into a new compressed and sealed file, which is there at the end of the block, durably.

    Raises:
        OSError: It cannot be written; there is no new file.
    """
    with DraftFile(target) as draft:
        digested = _Digested(draft)
        # Without a name and a time: the same content gives the same bytes.
        with gzip.GzipFile("", "wb", LEVEL, digested, mtime=0) as writer:
            yield writer
        draft.write(_seal(digested.sha256.hexdigest()))


@contextmanager
def decompressed(source: Path) -> Iterator[Reader]:
    """Check the seal of a compressed file and give what reads its content.

    Raises:
        SnapshotCorruptError: Its seal is not that of its bytes, or, in the block, it cannot be decompressed.
        SnapshotNotFoundError: There is no such file.
        OSError: It cannot be read.
    """
    if not source.is_file():
        raise SnapshotNotFoundError(f"there is no file {source}")
    with source.open("rb") as file:
        _check_seal(file, source)
        file.seek(0)
        try:
            yield gzip.GzipFile(fileobj=_CancellableFile(file), mode="rb")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise SnapshotCorruptError(f"{source} cannot be decompressed: {error}") from error


def copy_digested(source: Reader, target: Writer, bytes_max: int) -> tuple[int, str]:
    """Copy at most so many bytes, and return how many there were and their SHA-256 in hexadecimal."""
    digested = _Digested(target)
    bytes_left = bytes_max
    while chunk := source.read(min(bytes_left, _CHUNK_BYTES)):
        digested.write(chunk)
        bytes_left -= len(chunk)
    return bytes_max - bytes_left, digested.sha256.hexdigest()


class _CancellableFile:
    """Reads a file until the work of this thread is cancelled.

    A single read of gzip's can last for as long as the file is large: it skips members without content, and long names in headers.

    Args:
        file: The file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, and fewer only at the end."""
        check_cancelled()
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to another place."""
        return self._file.seek(offset, whence)


class _Digested:
    """Passes bytes on and digests them."""

    def __init__(self, target: Writer) -> None:
        self.sha256 = hashlib.sha256()
        self._target = target

    def write(self, content: bytes) -> int:
        check_cancelled()
        self.sha256.update(content)
        self._target.write(content)
        return len(content)

    def flush(self) -> None:
        """Hold nothing back: gzip may ask."""


def _seal(sha256: str) -> bytes:
    return _SEAL_HEADER + f"SHA-256 of all before: {sha256}".encode("ascii") + b"\0" + _SEAL_END


def has_seal(path: Path) -> bool:
    """Return whether a file ends with a seal; the digest in the seal is not compared.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        seal_bytes = len(_seal("0" * 64))
        file.seek(max(0, os.fstat(file.fileno()).st_size - seal_bytes))
        return file.read().startswith(_SEAL_HEADER)


def _check_seal(file: BinaryIO, path: Path) -> None:
    bytes_before = os.fstat(file.fileno()).st_size - len(_seal("0" * 64))
    sha256 = hashlib.sha256()
    bytes_left = max(bytes_before, 0)
    while chunk := file.read(min(bytes_left, _CHUNK_BYTES)):
        check_cancelled()
        sha256.update(chunk)
        bytes_left -= len(chunk)
    if bytes_before < 0 or file.read() != _seal(sha256.hexdigest()):
        raise SnapshotCorruptError(f"{path} is damaged: it is not what was written")
