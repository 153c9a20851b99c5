"""Compressed files that any gzip reads and in which every changed byte is detected.

gzip's checksum covers the content, but neither the header's time and flags nor the last bits before the checksum
(RFC 1952, section 2.3; RFC 1951, section 3.2.3). So a second member follows, without content, whose comment is the SHA-256 of every
byte before it: the seal. Any program that reads gzip takes both members for one file (RFC 1952, section 2.2).

A file is read once: the same pass decompresses it and digests it. So what comes out of it is worth something only when the pass
has ended without an error. Until then it is in a draft without a name.
"""

import gzip
import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import UnsupportedOperation
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol

from tenantry.errors import SnapshotCorruptError, SnapshotNotFoundError
from tenantry.files.atomic_file import DraftFile, storage_errors
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


class CompressedFile(NamedTuple):
    """A file that `compress` wrote.

    Attributes:
        path: Where it is.
        size_bytes: Its size.
        sha256: Its SHA-256, in hexadecimal.
        content_sha256: The SHA-256 of what was compressed.
    """

    path: Path
    size_bytes: int
    sha256: str
    content_sha256: str


def compress(source: Path, target: Path) -> CompressedFile:
    """Write a file compressed and sealed into a new file, durably.

    Raises:
        StorageFullError: There is no room.
        SnapshotError: A file cannot be read or written; there is no new file.
    """
    doing = f"compress {source} into {target}"
    with storage_errors(doing), source.open("rb") as file, DraftFile(target) as draft:
        stored = _Digested(draft)
        with _sealed(stored) as writer:
            content = _Digested(writer)
            shutil.copyfileobj(file, content, _CHUNK_BYTES)
    return CompressedFile(target, stored.size_bytes, stored.sha256, content.sha256)


def decompress(source: Path, target: Path, *, bytes_max: int, content_sha256: str, sha256: str) -> None:
    """Write the content of a compressed and sealed file into a new file, durably.

    Args:
        source: What `compress` made.
        target: The new file.
        bytes_max: How large the content may be.
        content_sha256: The content's SHA-256, in hexadecimal.
        sha256: The compressed file's.

    Raises:
        SnapshotCorruptError: It is not what was compressed, or larger.
        SnapshotNotFoundError: There is no such file.
        StorageFullError: There is no room.
        SnapshotError: A file cannot be read or written.

    After an error there is no new file.
    """
    doing = f"decompress {source} into {target}"
    with storage_errors(doing), DraftFile(target) as draft, decompressed(source, sha256=sha256) as reader:
        _, digest = copy_digested(reader, draft, bytes_max)
        if reader.read(1):
            raise SnapshotCorruptError(f"{source} holds more than the {bytes_max} bytes that it should")
        if digest != content_sha256:
            raise SnapshotCorruptError(f"{source} is corrupt: the SHA-256 of its content is {digest}")


@contextmanager
def compressed(target: Path) -> Iterator[Writer]:
    """Give what writes into a new compressed and sealed file, which is there at the end of the block, durably.

    Raises:
        OSError: It cannot be written; there is no new file.
    """
    with DraftFile(target) as draft, _sealed(_Digested(draft)) as writer:
        yield writer


@contextmanager
def decompressed(source: Path, *, sha256: str | None = None) -> Iterator[Reader]:
    """Give what reads the content of a compressed and sealed file, and check the whole file at the end of the block.

    The block must not publish what it reads: the check comes after it.

    Args:
        source: The file.
        sha256: Its SHA-256 in hexadecimal, where it is known.

    Raises:
        SnapshotCorruptError: Its seal or its SHA-256 is not that of its bytes, or it cannot be decompressed.
        SnapshotNotFoundError: There is no such file.
        OSError: It cannot be read.
    """
    if not source.is_file():
        raise SnapshotNotFoundError(f"there is no file {source}")
    with source.open("rb") as file:
        sealed = _SealedFile(file, source)
        try:
            yield gzip.GzipFile(fileobj=sealed, mode="rb")
        except (gzip.BadGzipFile, EOFError, zlib.error, SnapshotCorruptError) as error:
            # The first effect of a changed byte may be any of these: then the message is that the file is damaged.
            sealed.check(sha256)
            if isinstance(error, SnapshotCorruptError):
                raise
            raise SnapshotCorruptError(f"{source} cannot be decompressed: {error}") from error
        sealed.check(sha256)


def copy_digested(source: Reader, target: Writer, bytes_max: int) -> tuple[int, str]:
    """Copy at most so many bytes, and return how many there were and their SHA-256 in hexadecimal."""
    digested = _Digested(target)
    while chunk := source.read(min(bytes_max - digested.size_bytes, _CHUNK_BYTES)):
        digested.write(chunk)
    return digested.size_bytes, digested.sha256


class _SealedFile:
    """Reads a sealed file from its first byte to its last, once, and digests it, until the work of this thread is cancelled.

    gzip may ask for many reads to give one byte: it skips members without content, and long names in headers.

    Args:
        file: The file.
        path: Its path, for messages.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._sealed_bytes_left = max(os.fstat(file.fileno()).st_size - _SEAL_BYTES, 0)
        self._sha256 = hashlib.sha256()
        self._end = b""

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, and fewer only at the end."""
        check_cancelled()
        content = self._file.read(size)
        sealed = memoryview(content)[: self._sealed_bytes_left]
        self._sha256.update(sealed)
        self._sealed_bytes_left -= len(sealed)
        self._end = (self._end + content[len(sealed) :])[: _SEAL_BYTES + 1]
        return content

    def seek(self, *_: int) -> int:
        """Refuse: gzip asks only in order to begin again."""
        raise UnsupportedOperation(f"{self._path} is read once, from its first byte to its last")

    def check(self, sha256: str | None) -> None:
        """Read the rest and raise unless the file is what was written.

        Args:
            sha256: The SHA-256 that the whole file must have; None if that is not known.

        Raises:
            SnapshotCorruptError: It is not.
        """
        while self.read(_CHUNK_BYTES):
            pass
        is_sealed = self._end == _seal(self._sha256.hexdigest())
        self._sha256.update(self._end)
        if not is_sealed or sha256 not in {None, self._sha256.hexdigest()}:
            raise SnapshotCorruptError(f"{self._path} is damaged: it is not what was written")


class _Digested:
    """Passes bytes on and digests them.

    Attributes:
        size_bytes: How many there were.
    """

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
        """Hold nothing back: gzip may ask."""


@contextmanager
def _sealed(target: _Digested) -> Iterator[Writer]:
    """Give what compresses into a target, and write the seal at the end of the block."""
    # Without a name and a time: the same content gives the same bytes.
    with gzip.GzipFile("", "wb", LEVEL, target, mtime=0) as writer:
        yield writer
    target.write(_seal(target.sha256))


def _seal(sha256: str) -> bytes:
    return _SEAL_HEADER + f"SHA-256 of all before: {sha256}".encode("ascii") + b"\0" + _SEAL_END


_SEAL_BYTES: Final = len(_seal("0" * 64))


def has_seal(path: Path) -> bool:
    """Return whether a file ends with a seal; the digest in the seal is not compared.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _SEAL_BYTES))
        return file.read().startswith(_SEAL_HEADER)
