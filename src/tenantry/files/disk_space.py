"""How much space there is on a disk, and how much of it is left to what tenants write."""

import errno
import os
import shutil
from pathlib import Path
from typing import Final

from tenantry.errors import StorageFullError

DISK_BYTES_MIN: Final = 64 * 2**20
"""With less space than this, soon every write would be refused: what is brought in leaves so much."""

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: OSError) -> bool:
    """Return whether it is the disk, the quota or the limit on a file's size that is reached."""
    return error.errno in _FULL


def is_exhausted(directory: Path) -> bool:
    """Return whether no file can be made there, because space or inodes are used up; False if the system does not tell."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    return not found.f_bavail or bool(found.f_files and not found.f_favail)


def room_bytes(directory: Path) -> int:
    """Return how large a file may become there and leave enough for what tenants write.

    Raises:
        OSError: It cannot be found out.
    """
    return max(0, shutil.disk_usage(directory).free - DISK_BYTES_MIN)


def check_copy_fits(directory: Path, left_bytes: int, size_bytes: int) -> None:
    """Refuse to go on with a copy that would take the space that tenants need.

    A copy leaves as much as it takes, or `DISK_BYTES_MIN` where that is less: on a disk that is nearly full small tenants still
    have their snapshots.

    Args:
        directory: Where the copy is.
        left_bytes: How much of it is still to be written.
        size_bytes: How large it will be.

    Raises:
        StorageFullError: It does not fit.
        OSError: It cannot be found out.
    """
    free = shutil.disk_usage(directory).free
    if left_bytes + min(size_bytes, DISK_BYTES_MIN) > free:
        raise StorageFullError(
            f"a copy needs {left_bytes} more bytes, and tenants that write need what would be left of the {free} that are "
            "free: free space on the disk"
        )
