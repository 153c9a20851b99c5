"""Measures the free space of a disk, and reserves a part of it for tenants' writes."""

import errno
import os
import shutil
from pathlib import Path
from typing import Final

from tenantry.errors import StorageFullError

DISK_BYTES_MIN: Final = 64 * 2**20
"""Below this, writes would soon be refused: copies leave at least this much."""

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: OSError) -> bool:
    """Return whether the error says that the disk, the quota or the limit on a file's size is reached."""
    return error.errno in _FULL


def is_exhausted(directory: Path) -> bool:
    """Return whether no file can be created there for lack of space or inodes; False if the system does not say."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    return not found.f_bavail or bool(found.f_files and not found.f_favail)


def room_bytes(directory: Path) -> int:
    """Return how large a new file may become there without using the space reserved for tenants' writes."""
    return max(0, shutil.disk_usage(directory).free - DISK_BYTES_MIN)


def check_copy_fits(directory: Path, left_bytes: int, size_bytes: int) -> None:
    """Raise if a copy would use the space reserved for tenants' writes.

    A copy leaves as much space as it uses, or `DISK_BYTES_MIN` if that is less, so that small tenants still get snapshots on a
    nearly full disk.

    Args:
        directory: The directory of the copy.
        left_bytes: How much of the copy is not written yet.
        size_bytes: The final size of the copy.

    Raises:
        StorageFullError: It does not fit.
        OSError: The file system cannot be read.
    """
    free = shutil.disk_usage(directory).free
    reserved = min(size_bytes, DISK_BYTES_MIN)
    if left_bytes + reserved > free:
        raise StorageFullError(
            f"not enough disk space: a copy needs {left_bytes} more bytes and leaves {reserved} for writes, and {free} are "
            "free: free space on the disk"
        )
