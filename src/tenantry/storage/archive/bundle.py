"""A bundle: a tenant in one file that other programs can read, ``manifest.json``, ``SHA256SUMS`` and ``tenant.db`` in a ``.tar.gz``.

    tar xzf acme.tar.gz && sha256sum -c SHA256SUMS && sqlite3 tenant.db

This module writes and reads the archive itself, without `tarfile`. The form (POSIX.1-1988, "ustar") is fixed to the byte: the same
tenant gives the same file, and reading compares the archive with what the manifest says. So no name and no size in a bundle is used
as a path or trusted.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tenantry.errors import SnapshotCorruptError, SnapshotError, StorageFullError
from tenantry.files.atomic_file import DraftFile, storage_errors
from tenantry.files.disk_space import room_bytes
from tenantry.storage.archive.manifest import MANIFEST_BYTES_MAX, Manifest, seal, unseal
from tenantry.storage.archive.recognition import recognize
from tenantry.storage.archive.sealed_gzip import Reader, Writer, compressed, copy_digested, decompressed

MANIFEST_NAME: Final = "manifest.json"
SUMS_NAME: Final = "SHA256SUMS"
DATABASE_NAME: Final = "tenant.db"

_BLOCK_BYTES: Final = 512
_END: Final = bytes(2 * _BLOCK_BYTES)
_SIZE_FIELD: Final = slice(124, 136)
_OCTAL_MAX: Final = 8**11 - 1


def write_bundle(target: Path, database: Path, manifest: Manifest) -> None:
    """Write a bundle, durably and as a whole; what was there is replaced.

    Args:
        target: The new file.
        database: A database that is one file, and that nobody changes during the call.
        manifest: The manifest of this database, of the kind ``bundle``.

    Raises:
        SnapshotCorruptError: The database is not the one that the manifest describes.
        StorageFullError: There is no space.
        SnapshotError: A file cannot be read or written, or the manifest is not a bundle's.

    After an error the target is as it was.
    """
    if manifest.kind != "bundle":
        raise SnapshotError(f"a bundle needs a manifest of the kind 'bundle', not {manifest.kind!r}")
    doing = f"bundle {database} into {target}"
    with storage_errors(doing), database.open("rb") as source, compressed(target) as archive:
        archive.write(_before_database(seal(manifest), manifest))
        found = copy_digested(source, archive, manifest.database_bytes)
        if found != (manifest.database_bytes, manifest.database_sha256) or source.read(1):
            raise SnapshotCorruptError(f"{database} is not the database that its manifest describes")
        archive.write(_after_database(manifest))


def read_bundle(
    source: Path, directory: Path, *, bytes_max: int, room: Callable[[Path], int] = room_bytes
) -> tuple[Manifest, Path]:
    """Check every byte of a bundle and write its database as ``tenant.db`` into a directory, durably.

    Whether the database is sound, and whether it is a tenant's, is not checked.

    Args:
        source: The bundle.
        directory: The directory; it must exist and be private.
        bytes_max: The size of the largest database that there is space for. The space is checked again with each part that is
            written, because others write at the same time.
        room: Returns how many bytes may be written into the directory at this moment.

    Returns:
        The manifest, and the path of the database.

    Raises:
        SnapshotCorruptError: It is not what was written, or not a bundle.
        SnapshotNotFoundError: The file does not exist.
        StorageFullError: There is no space.
        SnapshotError: A newer tenantry made the bundle, or a file cannot be read or written.

    After an error there is no new file.
    """
    target = directory / DATABASE_NAME
    doing = f"unpack {source} into {directory}"
    with (
        storage_errors(doing),
        _recognized(source),
        DraftFile(target) as draft,
        decompressed(source) as archive,
    ):
        manifest = _read_manifest(archive, source)
        if manifest.database_bytes > bytes_max:
            raise StorageFullError(
                f"{source} contains a database of {manifest.database_bytes} bytes, and there is room for {bytes_max}: free disk space, "
                "then try again"
            )
        found = copy_digested(archive, _LeavingRoom(draft, directory, room), manifest.database_bytes)
        is_whole = found == (manifest.database_bytes, manifest.database_sha256)
        after = _after_database(manifest)
        if not is_whole or archive.read(len(after) + 1) != after:
            raise SnapshotCorruptError(f"{source} does not contain the database that its manifest describes")
    return manifest, target


class _LeavingRoom:
    """Writes only while the disk has space for it.

    Args:
        target: Where it writes to.
        directory: The directory of the target.
        room: Returns how many bytes may be written there.
    """

    def __init__(self, target: Writer, directory: Path, room: Callable[[Path], int]) -> None:
        self._target = target
        self._directory = directory
        self._room = room

    def write(self, content: bytes) -> None:
        """Write.

        Raises:
            StorageFullError: It would take space that tenants need for their writes.
        """
        if self._room(self._directory) < len(content):
            raise StorageFullError(
                f"{self._directory} has only the space left that tenants need for their writes: free disk space, then try again"
            )
        self._target.write(content)


@contextmanager
def _recognized(source: Path) -> Iterator[None]:
    """Replace the error of a file that is not a bundle by one that says what the file is, if that is recognized."""
    try:
        yield
    except SnapshotCorruptError as error:
        found = recognize(source)
        if found is None:
            raise
        raise SnapshotCorruptError(f"{source} is {found}") from error


def _read_manifest(archive: Reader, source: Path) -> Manifest:
    """Read the archive up to the database, and compare all of it with what the manifest says."""
    header = archive.read(_BLOCK_BYTES)
    size_bytes = _size_in(header)
    if not 0 < size_bytes <= MANIFEST_BYTES_MAX:
        raise SnapshotCorruptError(f"{source} is not a bundle: it does not begin with a manifest")
    content = archive.read(size_bytes)
    manifest = unseal(content)
    before = _before_database(content, manifest)
    rest = archive.read(len(before) - len(header) - len(content))
    if header + content + rest != before or manifest.kind != "bundle":
        raise SnapshotCorruptError(
            f"{source} is not a bundle: it contains something else than a manifest, sums and a database"
        )
    return manifest


def _before_database(content: bytes, manifest: Manifest) -> bytes:
    sums = "".join(
        f"{sha256}  {name}\n"
        for sha256, name in (
            (hashlib.sha256(content).hexdigest(), MANIFEST_NAME),
            (manifest.database_sha256, DATABASE_NAME),
        )
    ).encode("ascii")
    modified_seconds = int(manifest.created_at.timestamp())
    return b"".join(
        (
            _header(MANIFEST_NAME, len(content), modified_seconds),
            content + _padding(len(content)),
            _header(SUMS_NAME, len(sums), modified_seconds),
            sums + _padding(len(sums)),
            _header(DATABASE_NAME, manifest.database_bytes, modified_seconds),
        )
    )


def _after_database(manifest: Manifest) -> bytes:
    return _padding(manifest.database_bytes) + _END


def _header(name: str, size_bytes: int, modified_seconds: int) -> bytes:
    """Return the header block of a file that only its owner can read; the user who unpacks it becomes the owner."""
    fields = (
        name.encode("ascii").ljust(100, b"\0"),
        b"0000600\0",  # mode
        b"0000000\0" * 2,  # user, group
        _number(size_bytes),
        _number(min(max(modified_seconds, 0), _OCTAL_MAX)),
        b" " * 8,  # the checksum is made with spaces in its own field
        b"0" + bytes(100),  # a regular file, no link
        b"ustar\x0000",
        bytes(64),  # names of user and group
        b"0000000\0" * 2,  # device
        bytes(155 + 12),
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _number(value: int) -> bytes:
    """Return a number in octal; a larger one in binary with the first bit set, as GNU tar, BSD tar and Python write it."""
    return b"%011o\0" % value if value <= _OCTAL_MAX else b"\x80" + value.to_bytes(11, "big")


def _size_in(header: bytes) -> int:
    try:
        return int(header[_SIZE_FIELD].rstrip(b"\0"), 8)
    except ValueError:
        return 0


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % _BLOCK_BYTES)
