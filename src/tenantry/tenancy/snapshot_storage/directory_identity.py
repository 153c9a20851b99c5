"""The identity of a data directory, which distinguishes the directory from its copies.

A data directory has a random id in the file ``identity``. A copy of the directory has the same id, so the identity also includes
the file's inode number. The identity includes the inode's generation too, if the file system has generations
(``FS_IOC_GETVERSION``, see ioctl_iflags(2)). Renaming the directory or mounting it elsewhere keeps the identity. Copying the
directory with ``cp``, ``rsync`` or ``tar``, or restoring it from a backup, changes the identity. A clone of a whole volume has
the same identity and is not detected. These functions block.
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
        id: The random id; a copy of the directory has the same id.
        inode: The inode number of the file with the id; a copy has another inode number.
        generation: The generation of the inode, which changes when the inode number is reused; None if the file system has no
            generations.

    If the catalog is on a database server, all data directories of its registries have the identity of the database, without an inode.
    """

    id: str
    inode: int
    generation: int | None

    @property
    def is_of_database(self) -> bool:
        """Whether this is the identity of a database on a server, which several data directories share."""
        return self.inode == 0

    def is_same(self, other: "DirectoryIdentity") -> bool:
        """Return whether both identities belong to the same directory; a missing generation matches any generation."""
        if (self.id, self.inode) != (other.id, other.inode):
            return False
        return self.generation == other.generation or None in {self.generation, other.generation}


def read_identity(data_dir: Path) -> DirectoryIdentity | None:
    """Return the directory's identity; None if the directory has no identity yet."""
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
            f"{path} does not contain an id: remove the file, then run 'tenantry snapshot claim-storage'"
        )
    return found


def make_identity(data_dir: Path, *, is_replaced: bool = False) -> DirectoryIdentity:
    """Return the directory's identity, and create the identity if it is missing.

    Args:
        data_dir: The data directory.
        is_replaced: Whether to replace an existing identity. Replacing the identity ends the ownership of the snapshot storage.

    Raises:
        SnapshotError: The identity cannot be created, or another process is creating the identity (retryable).
        StorageFullError: The disk has no space for the identity.
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
        raise SnapshotError(f"{path} was removed during its creation: try again", is_retryable=True)
    return found


def _generation(fd: int) -> int | None:
    buffer = bytearray(8)  # the ioctl request is declared with a long, but the kernel writes only an int
    try:
        fcntl.ioctl(fd, _GET_GENERATION, buffer)
    except OSError:  # tmpfs, overlayfs and other file systems have no generations
        return None
    return int.from_bytes(buffer[:_GENERATION_BYTES], sys.byteorder)
