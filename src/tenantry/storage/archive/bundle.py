"""Bundles. A bundle is a ``.tar.gz`` file of one tenant with ``manifest.json``, ``SHA256SUMS`` and ``tenant.db``.

    tar xzf acme.tar.gz && sha256sum -c SHA256SUMS && sqlite3 tenant.db

`tarfile` writes and parses the headers (POSIX.1-1988, "ustar"). The owner and the permissions of the files are fixed, so the same
manifest and database always make the same bundle. The reader compares each header and each byte with the manifest. The reader uses no
name in a bundle as a path and trusts no size. `tarfile.open` is not used, because it would trust the headers.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tenantry.errors import SnapshotCorruptError, SnapshotError, StorageFullError
from tenantry.files.atomic_file import DraftFile, storage_errors
from tenantry.files.disk_space import room_bytes
from tenantry.storage.archive.compression import (
    CompressedReader,
    Writer,
    compressed,
    copy_digested,
    decompressed,
)
from tenantry.storage.archive.manifest import MANIFEST_BYTES_MAX, Manifest, seal, unseal
from tenantry.storage.archive.recognition import recognize

MANIFEST_NAME: Final = "manifest.json"
SUMS_NAME: Final = "SHA256SUMS"
DATABASE_NAME: Final = "tenant.db"

_END: Final = bytes(2 * tarfile.BLOCKSIZE)
_OCTAL_MAX: Final = 8**11 - 1


def write_bundle(target: Path, database: Path, manifest: Manifest) -> None:
    """Write a bundle durably and atomically. The bundle replaces an existing file; after an error the existing file is unchanged.

    Args:
        target: The path of the bundle.
        database: The database, which is a single file and does not change during the call.
        manifest: The manifest of the database, with the kind ``bundle``.

    Raises:
        SnapshotCorruptError: The database does not match the manifest.
        StorageFullError: The disk has too little space.
        SnapshotError: A file cannot be read or written, or the manifest has another kind.
    """
    if manifest.kind != "bundle":
        raise SnapshotError(f"a bundle needs a manifest with the kind 'bundle', not {manifest.kind!r}")
    doing = f"bundle {database} into {target}"
    with storage_errors(doing), database.open("rb") as source, compressed(target) as archive:
        archive.write(_before_database(seal(manifest), manifest))
        found = copy_digested(source, archive, manifest.database_bytes)
        if found != (manifest.database_bytes, manifest.database_sha256) or source.read(1):
            raise SnapshotCorruptError(f"{database} does not match its manifest")
        archive.write(_after_database(manifest))


def read_bundle(
    source: Path, directory: Path, *, bytes_max: int, room: Callable[[Path], int] = room_bytes
) -> tuple[Manifest, Path]:
    """Check every byte of a bundle, and write its database as ``tenant.db`` into a directory, durably.

    This function checks neither whether the database is damaged nor whether it is a tenant's. After an error no new file exists.

    Args:
        source: The path of the bundle.
        directory: The directory, which must exist and be private.
        bytes_max: The largest size of the database. The free space is checked again before each part is written, because other
            writers use the same disk.
        room: A function that returns the number of bytes that may be written into the directory now.

    Returns:
        The manifest, and the path of the database.

    Raises:
        SnapshotCorruptError: The file is damaged or not a bundle.
        SnapshotNotFoundError: The file does not exist.
        StorageFullError: The disk has too little space.
        SnapshotError: A newer tenantry wrote the bundle, or a file cannot be read or written.
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
                f"{source} contains a database of {manifest.database_bytes} bytes, but only {bytes_max} bytes may be written: free "
                "disk space, then try again"
            )
        found = copy_digested(archive, _LeavingRoom(draft, directory, room), manifest.database_bytes)
        is_whole = found == (manifest.database_bytes, manifest.database_sha256)
        after = _after_database(manifest)
        if not is_whole or archive.read(len(after) + 1) != after:
            raise SnapshotCorruptError(f"{source} is damaged: its database does not match its manifest")
    return manifest, target


class _LeavingRoom:
    """A writer that stops before the disk is too full for the writes of tenants."""

    def __init__(self, target: Writer, directory: Path, room: Callable[[Path], int]) -> None:
        self._target = target
        self._directory = directory
        self._room = room

    def write(self, content: bytes) -> None:
        """Write the bytes; raise `StorageFullError` if tenants' writes need the free space."""
        if self._room(self._directory) < len(content):
            raise StorageFullError(
                f"the disk of {self._directory} has only the space that tenants need for their writes: free disk space, then try again"
            )
        self._target.write(content)


@contextmanager
def _recognized(source: Path) -> Iterator[None]:
    """If the file is not a bundle and its kind is recognized, replace the block's error with an error that names the kind."""
    try:
        yield
    except SnapshotCorruptError as error:
        found = recognize(source)
        if found is None:
            raise
        raise SnapshotCorruptError(f"{source} is {found}") from error


def _read_manifest(archive: CompressedReader, source: Path) -> Manifest:
    """Read the archive up to the database, and compare every byte with the manifest."""
    first = _parsed(archive.read(tarfile.BLOCKSIZE))
    if first is None or not 0 < first.size <= MANIFEST_BYTES_MAX:
        raise SnapshotCorruptError(f"{source} is not a bundle: it does not begin with a manifest")
    content = archive.read(first.size)
    try:
        manifest = unseal(content)
    except SnapshotCorruptError as error:
        raise SnapshotCorruptError(f"{source} is damaged: {error}") from error
    (expected, _), *others = _members(content, manifest)
    is_expected = (
        manifest.kind == "bundle"
        and _is_same(first, expected)
        and _reads(archive, _padding(first.size))
        and all(
            _is_same(_parsed(archive.read(tarfile.BLOCKSIZE)), member)
            and _reads(archive, body + _padding(len(body)))
            for member, body in others
        )
    )
    if not is_expected:
        raise SnapshotCorruptError(
            f"{source} is not a bundle: it has other contents than a manifest, checksums and a database, or it was packed again "
            "with tar; import the original .tar.gz of the export"
        )
    return manifest


def _members(content: bytes, manifest: Manifest) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return the header and the contents of each file in a bundle, with empty contents for the database."""
    sums = "".join(
        f"{sha256}  {name}\n"
        for sha256, name in (
            (hashlib.sha256(content).hexdigest(), MANIFEST_NAME),
            (manifest.database_sha256, DATABASE_NAME),
        )
    ).encode("ascii")
    modified_seconds = min(max(int(manifest.created_at.timestamp()), 0), _OCTAL_MAX)
    return [
        (_member(MANIFEST_NAME, len(content), modified_seconds), content),
        (_member(SUMS_NAME, len(sums), modified_seconds), sums),
        (_member(DATABASE_NAME, manifest.database_bytes, modified_seconds), b""),
    ]


def _before_database(content: bytes, manifest: Manifest) -> bytes:
    return b"".join(
        _header(member) + body + _padding(len(body)) for member, body in _members(content, manifest)
    )


def _after_database(manifest: Manifest) -> bytes:
    return _padding(manifest.database_bytes) + _END


def _member(name: str, size_bytes: int, modified_seconds: int) -> tarfile.TarInfo:
    """Return the header of a file that only its owner can read. The user who unpacks the bundle becomes the owner."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size_bytes, modified_seconds, 0o600
    return member


def _header(member: tarfile.TarInfo) -> bytes:
    """Return a header as a block in ustar format. Files of 8 GiB or more need the GNU format, which BSD tar can read too."""
    is_ustar = member.size <= _OCTAL_MAX
    return member.tobuf(tarfile.USTAR_FORMAT if is_ustar else tarfile.GNU_FORMAT, "ascii", "strict")


def _parsed(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, ValueError):
        return None


def _is_same(found: tarfile.TarInfo | None, expected: tarfile.TarInfo) -> bool:
    """Return whether two headers are equal except for the checksum, because old bundles have other values in unused fields."""
    return found is not None and {**found.get_info(), "chksum": 0} == {**expected.get_info(), "chksum": 0}


def _reads(archive: CompressedReader, expected: bytes) -> bool:
    """Read the next bytes, and return whether they equal the expected bytes."""
    return archive.read(len(expected)) == expected


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)
