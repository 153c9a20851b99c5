"""Measures the free space of a disk, and reserves some of the space for tenants' writes."""

import errno
import os
import shutil
from pathlib import Path
from typing import Final

from tenantry.errors import StorageFullError

DISK_BYTES_MIN: Final = 64 * 2**20
"""The most free space that a copy has to leave for tenants' writes, in bytes."""

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: OSError) -> bool:
    """Return whether the error means that the disk or the quota is full, or a file's size limit is reached."""
    return error.errno in _FULL


def is_exhausted(directory: Path) -> bool:
    """Return whether a directory's disk has no free space or no free inodes; False if the system cannot tell."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    return not found.f_bavail or bool(found.f_files and not found.f_favail)


def room_bytes(directory: Path) -> int:
    """Return the unreserved free space of a directory's disk in bytes: the free space minus `DISK_BYTES_MIN`."""
    return max(0, shutil.disk_usage(directory).free - DISK_BYTES_MIN)


def check_copy_fits(directory: Path, left_bytes: int, size_bytes: int) -> None:
    """Raise if a copy would use the space reserved for tenants' writes.

    The reserved space is the size of the copy, but at most `DISK_BYTES_MIN`. A small tenant therefore still gets snapshots on a
    nearly full disk.

    Args:
        directory: The directory of the copy.
        left_bytes: The number of bytes of the copy that are still to be written.
        size_bytes: The final size of the copy.

    Raises:
        StorageFullError: The copy does not fit on the disk.
        OSError: The file system cannot be read.
    """
    free = shutil.disk_usage(directory).free
    reserved = min(size_bytes, DISK_BYTES_MIN)
    if left_bytes + reserved > free:
        raise StorageFullError(
            f"not enough disk space: a copy needs {left_bytes} more bytes, {reserved} bytes are reserved for writes, and {free} "
            "bytes are free: free space on the disk"
        )
