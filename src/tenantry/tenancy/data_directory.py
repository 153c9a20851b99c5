"""The data directory: its locks, and the space on its disk."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tenantry.config import RegistryConfig
from tenantry.errors import DataDirectoryError
from tenantry.files.durable_files import unusable_error
from tenantry.files.lock_file import DirectoryLock


class DiskSpace(NamedTuple):
    """The size and the free space of the data directory's file system, as measured once."""

    size_bytes: int
    free_bytes: int


def measure_disk(config: RegistryConfig) -> DiskSpace:
    """Return the size and the free space of the file system under the data directory."""
    usage = shutil.disk_usage(config.data_dir)
    return DiskSpace(usage.total, usage.free)


def lock_for_registry(lock: DirectoryLock) -> None:
    """Acquire the shared lock of a data directory, which each open registry holds.

    Raises:
        DataDirectoryError: Another process has locked the directory exclusively, or the directory cannot be locked.
    """
    try:
        lock.acquire(is_shared=True)
    except BlockingIOError as error:
        raise DataDirectoryError(
            f"another process has locked the data directory {lock.path}, as 'tenantry snapshot switch-storage' does: try again "
            "after that process has ended",
            path=str(lock.path),
        ) from error
    except OSError as error:
        raise unusable_error(lock.path, error) from error


@contextmanager
def locked_alone(data_dir: Path) -> Iterator[None]:
    """Lock a data directory exclusively while the block runs, so that no registry can open the directory.

    Raises:
        DataDirectoryError: A registry has the directory open, or the directory cannot be locked.
    """
    lock = DirectoryLock(data_dir)
    try:
        lock.acquire(is_shared=False)
    except BlockingIOError as error:
        raise DataDirectoryError(
            f"a process has the data directory {data_dir} open: stop the service or the program that uses it first",
            path=str(data_dir),
        ) from error
    except OSError as error:
        raise unusable_error(data_dir, error) from error
    try:
        yield
    finally:
        lock.release()


def is_shared_by_group(found: os.stat_result) -> bool:
    """Return whether a directory is shared with its group on purpose: whether it is group-writable and has the setgid bit.

    Kubernetes sets these bits on a volume of a pod with ``fsGroup``. The directory may have another owner than the pod's processes.
    """
    return bool(found.st_mode & stat.S_ISGID and found.st_mode & stat.S_IWGRP)
