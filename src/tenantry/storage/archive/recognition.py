"""Recognizes, by its first bytes, the kind of a file that is not a bundle, and gives advice for the error message."""

import zlib
from pathlib import Path
from typing import Final

_HEAD_BYTES: Final = 4096
_TAR_MAGIC: Final = slice(257, 262)
_TAR_NAME: Final = slice(0, 100)
_SQLITE: Final = b"SQLite format 3\0"
_GZIP: Final = b"\x1f\x8b"
_ARCHIVES: Final = {
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xfd7zXZ\0": "compressed with xz",
    b"BZh": "compressed with bzip2",
}
_ORIGINAL: Final = "import the original .tar.gz of the export"


def recognize(path: Path) -> str | None:
    """Return a file's kind, with advice, to complete the sentence "The file is …"; None for a bundle, damaged or not."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_GZIP):
        return _recognize_gzip(head)
    if not head:
        return "an empty file: export the tenant again"
    if head.lstrip().startswith((b"<", b"{")):
        return "a text file, such as an error page of a server: read the text, and export the tenant again"
    if head.startswith(_SQLITE):
        return (
            f"a plain SQLite database and not a bundle (only a bundle names its tenant): {_ORIGINAL}, or create a tenant and put the "
            "file in its place with 'tenantry tenant replace-file'"
        )
    return f"{_kind(head)}: {_ORIGINAL}"


def _kind(head: bytes) -> str:
    if _is_tar(head):
        return (
            "a bundle that was unpacked to a .tar" if _is_bundle(head) else "a tar archive and not a bundle"
        )
    kinds = (f"{kind} and not a .tar.gz" for magic, kind in _ARCHIVES.items() if head.startswith(magic))
    return next(kinds, "not a bundle")


def _recognize_gzip(head: bytes) -> str | None:
    content = _inflated(head)
    if content.startswith(_SQLITE):
        return (
            "a compressed SQLite database and not a bundle, such as the object of a snapshot: restore or clone the snapshot, or "
            f"{_ORIGINAL}"
        )
    return None if _is_bundle(content) or not content else f"a gzip file and not a bundle: {_ORIGINAL}"


def _inflated(head: bytes) -> bytes:
    """Return the beginning of the decompressed content of a gzip file."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _HEAD_BYTES)
    except zlib.error:
        return b""


def _is_tar(head: bytes) -> bool:
    return head[_TAR_MAGIC] == b"ustar"


def _is_bundle(head: bytes) -> bool:
    """Return whether an archive begins with a bundle's first file."""
    # A bundle that was packed again may begin with the entry of the directory, whose name is "./".
    name = head[_TAR_NAME].rstrip(b"\0").removeprefix(b"./")
    return _is_tar(head) and name in {b"manifest.json", b""}
