"""Digests of files."""

import hashlib
from pathlib import Path
from typing import Final

from tenantry.threads import check_cancelled

_CHUNK_BYTES: Final = 1024 * 1024


def file_sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            check_cancelled()
            digest.update(chunk)
    return digest.hexdigest()
