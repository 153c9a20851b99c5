"""A tenant in one file that others can read: ``manifest.json``, ``SHA256SUMS`` and ``tenant.db`` in a ``.tar.gz``.

    tar xzf acme.tar.gz && sha256sum -c SHA256SUMS && sqlite3 tenant.db

The archive is made and read here and not by `tarfile`: its form (POSIX.1-1988, "ustar") is fixed to the byte, so that the same
tenant gives the same file, and so that reading is a comparison with what the manifest says must be there. No name and no
size out of a bundle is ever followed.
"""

import hashlib
from collections.abc import Iterator
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
        database: A database that is one file and does not change meanwhile.
        manifest: Of the kind ``bundle``, and of this very database.

    Raises:
        SnapshotCorruptError: The database is not the one that the manifest describes.
        StorageFullError: There is no room.
        SnapshotError: A file cannot be read or written, or the manifest is no bundle's.

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


def read_bundle(source: Path, directory: Path, *, bytes_max: int) -> tuple[Manifest, Path]:
    """Check a bundle to the last byte and write its database, alone, as ``tenant.db`` into a directory, durably.

    That the database is sound, and nothing but a tenant's, is not checked.

    Args:
        source: The bundle.
        directory: Where to; it must exist and be private.
        bytes_max: For how large a database there is room; that is looked at again with each part, for others may write meanwhile.

    Returns:
        The manifest, and the path of the database.

    Raises:
        SnapshotCorruptError: It is not what was written, or no bundle.
        SnapshotNotFoundError: There is no such file.
        StorageFullError: There is no room.
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
                f"{source} holds a database of {manifest.database_bytes} bytes, and there is room for {bytes_max}: make room, "
                "then try again"
            )
        found = copy_digested(archive, _LeavingRoom(draft, directory), manifest.database_bytes)
        is_whole = found == (manifest.database_bytes, manifest.database_sha256)
        after = _after_database(manifest)
        if not is_whole or archive.read(len(after) + 1) != after:
            raise SnapshotCorruptError(f"{source} does not hold the database that its manifest describes")
    return manifest, target


class _LeavingRoom:
    """Writes while there is room.

    Args:
        target: What it writes to.
        directory: Where that is.
    """

    def __init__(self, target: Writer, directory: Path) -> None:
        self._target = target
        self._directory = directory

    def write(self, content: bytes) -> None:
        """Write.

        Raises:
            StorageFullError: It would take the space that tenants need.
        """
        if room_bytes(self._directory) < len(content):
            raise StorageFullError(
                f"no room is left in {self._directory}, if tenants are to go on writing: make room, then try again"
            )
        self._target.write(content)


@contextmanager
def _recognized(source: Path) -> Iterator[None]:
    """Say of a file that is damaged, or not a bundle, what it is, where it looks like something known."""
    try:
        yield
    except SnapshotCorruptError as error:
        found = recognize(source)
        if found is None:
            raise
        raise SnapshotCorruptError(f"{source} is {found}") from error


def _read_manifest(archive: Reader, source: Path) -> Manifest:
    """Read up to the database, and compare it all with what the manifest in it says."""
    header = archive.read(_BLOCK_BYTES)
    size_bytes = _size_in(header)
    if not 0 < size_bytes <= MANIFEST_BYTES_MAX:
        raise SnapshotCorruptError(f"{source} is no bundle: it does not begin with a manifest")
    content = archive.read(size_bytes)
    manifest = unseal(content)
    before = _before_database(content, manifest)
    rest = archive.read(len(before) - len(header) - len(content))
    if header + content + rest != before or manifest.kind != "bundle":
        raise SnapshotCorruptError(
            f"{source} is no bundle: it holds something else than a manifest, sums and a database"
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
    """Return the block that a file begins with: readable by its owner alone, and owned by whoever unpacks it."""
    fields = (
        name.encode("ascii").ljust(100, b"\0"),
        b"0000600\0",  # mode
        b"0000000\0" * 2,  # user, group
        _number(size_bytes),
        _number(min(max(modified_seconds, 0), _OCTAL_MAX)),
        b" " * 8,  # the checksum's place counts as spaces
        b"0" + bytes(100),  # a regular file, no link
        b"ustar\x0000",
        bytes(64),  # names of user and group
        b"0000000\0" * 2,  # device
        bytes(155 + 12),
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _number(value: int) -> bytes:
    """Return a number in octal, or as GNU tar, BSD's and Python's tell the larger ones: in binary with the first bit set."""
    return b"%011o\0" % value if value <= _OCTAL_MAX else b"\x80" + value.to_bytes(11, "big")


def _size_in(header: bytes) -> int:
    try:
        return int(header[_SIZE_FIELD].rstrip(b"\0"), 8)
    except ValueError:
        return 0


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % _BLOCK_BYTES)
