"""The identity of a data directory, which tells it from a copy.

A data directory has a random id in the file ``identity``. A copy of the directory has a file with the same content, so the
identity includes the file's inode number, and the generation of that inode if the file system has one (``FS_IOC_GETVERSION``, see
ioctl_iflags(2)). Renaming the directory or mounting it elsewhere changes neither. A copy with ``cp``, ``rsync`` or ``tar``, and a
file that a backup program restored, have other ones. A clone of a whole volume has the same ones and is not detected. These
functions block.
"""

import fcntl
import os
import re
import sys
import uuid
from pathlib import Path
from typing import Final, NamedTuple

from tenantry.errors import SnapshotError
from tenantry.files.atomic_file import DraftFile, storage_errors

_FILE_NAME: Final = "identity"
_ID: Final = re.compile(r"[0-9a-f]{32}")
_BYTES_MAX: Final = 64
_GET_GENERATION: Final = 0x80087601
_GENERATION_BYTES: Final = 4


class DirectoryIdentity(NamedTuple):
    """The identity of a data directory.

    Attributes:
        id: A random id; a copy has the same one.
        inode: The inode number of the file with the id; a copy has another one.
        generation: The generation of the inode, which differs each time its number is used again; None if the file system has none.
    """

    id: str
    inode: int
    generation: int | None

    def is_same(self, other: "DirectoryIdentity") -> bool:
        """Return whether both are the same directory, as far as that is known."""
        if (self.id, self.inode) != (other.id, other.inode):
            return False
        return self.generation == other.generation or None in {self.generation, other.generation}


def read_identity(data_dir: Path) -> DirectoryIdentity | None:
    """Return the directory's identity, None if it has none yet."""
    path = data_dir / _FILE_NAME
    with storage_errors(f"read {path}"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            text = os.read(fd, _BYTES_MAX).decode("ascii", "replace").strip()
            found = DirectoryIdentity(text, os.fstat(fd).st_ino, _generation(fd))
        finally:
            os.close(fd)
    if not _ID.fullmatch(text):
        raise SnapshotError(
            f"{path} does not contain an id: remove it, then run 'tenantry snapshot claim-storage'"
        )
    return found


def make_identity(data_dir: Path, *, is_replaced: bool = False) -> DirectoryIdentity:
    """Return the directory's identity; make one if it has none yet.

    Args:
        data_dir: The data directory.
        is_replaced: Whether a new identity is made in any case. A storage that belonged to the old one does not belong to the
            directory any more.

    Raises:
        SnapshotError: It cannot be made, or another process makes it at this moment (retryable).
        StorageFullError: There is no space for it.
    """
    path = data_dir / _FILE_NAME
    with storage_errors(f"write {path}"):
        draft = DraftFile(path)
        try:
            draft.open()
            if is_replaced or not path.exists():
                draft.write(f"{uuid.uuid4().hex}\n".encode())
                draft.publish()
        finally:
            draft.discard()
    found = read_identity(data_dir)
    if found is None:
        raise SnapshotError(f"{path} was removed while it was made: try again", is_retryable=True)
    return found


def _generation(fd: int) -> int | None:
    buffer = bytearray(8)  # the request is declared with a long, of which the kernel fills an int
    try:
        fcntl.ioctl(fd, _GET_GENERATION, buffer)
    except OSError:  # tmpfs, overlayfs and others have no generations
        return None
    return int.from_bytes(buffer[:_GENERATION_BYTES], sys.byteorder)
