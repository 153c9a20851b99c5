"""A bundle: a tenant in one file that other programs can read, ``manifest.json``, ``SHA256SUMS`` and ``tenant.db`` in a ``.tar.gz``.

    tar xzf acme.tar.gz && sha256sum -c SHA256SUMS && sqlite3 tenant.db

`tarfile` makes and parses the headers (POSIX.1-1988, "ustar"). Owners, rights and times are fixed, so the same tenant gives the same
file. Reading compares each header and each byte with what the manifest says: no name in a bundle is used as a path, and no size in it is
trusted. `tarfile.open` would follow what the headers say.
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
    """Writes only while the disk has space for it."""

    def __init__(self, target: Writer, directory: Path, room: Callable[[Path], int]) -> None:
        self._target = target
        self._directory = directory
        self._room = room

    def write(self, content: bytes) -> None:
        """Write, or raise `StorageFullError` if that would take space that tenants need for their writes."""
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


def _read_manifest(archive: CompressedReader, source: Path) -> Manifest:
    """Read the archive up to the database, and compare all of it with what the manifest says."""
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
            f"{source} is not a bundle: it contains something else than a manifest, sums and a database, or was packed again with "
            "tar; import the .tar.gz as the export wrote it"
        )
    return manifest


def _members(content: bytes, manifest: Manifest) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return the headers of a bundle's three files, and the contents of all but the database."""
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
    """Return the header of a file that only its owner can read; the user who unpacks it becomes the owner."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size_bytes, modified_seconds, 0o600
    return member


def _header(member: tarfile.TarInfo) -> bytes:
    """Return a header as a block. ustar has no sizes from 8 GiB; GNU's form has, and GNU tar, BSD tar and Python read it."""
    is_ustar = member.size <= _OCTAL_MAX
    return member.tobuf(tarfile.USTAR_FORMAT if is_ustar else tarfile.GNU_FORMAT, "ascii", "strict")


def _parsed(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, ValueError):
        return None


def _is_same(found: tarfile.TarInfo | None, expected: tarfile.TarInfo) -> bool:
    """Return whether two headers say the same; earlier versions wrote unused fields in another form, and so another checksum."""
    return found is not None and {**found.get_info(), "chksum": 0} == {**expected.get_info(), "chksum": 0}


def _reads(archive: CompressedReader, expected: bytes) -> bool:
    """Return whether the next bytes are those that are expected."""
    return archive.read(len(expected)) == expected


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)
