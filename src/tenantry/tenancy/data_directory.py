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
    """The file system under the data directory at one moment."""

    size_bytes: int
    free_bytes: int


def measure_disk(config: RegistryConfig) -> DiskSpace:
    """Return how much space there is."""
    usage = shutil.disk_usage(config.data_dir)
    return DiskSpace(usage.total, usage.free)


def lock_for_registry(lock: DirectoryLock) -> None:
    """Lock a data directory for an open registry, beside other registries: nobody else can have the directory alone.

    Raises:
        DataDirectoryError: Another process has the directory alone, or it cannot be locked.
    """
    try:
        lock.acquire(is_shared=True)
    except BlockingIOError as error:
        raise DataDirectoryError(
            f"another process has locked the data directory {lock.path}, as 'tenantry snapshot switch-storage' does: try again "
            "when that process has ended",
            path=str(lock.path),
        ) from error
    except OSError as error:
        raise unusable_error(lock.path, error) from error


@contextmanager
def locked_alone(data_dir: Path) -> Iterator[None]:
    """Lock a data directory while the block runs: no registry has it open, and none can be opened.

    Raises:
        DataDirectoryError: A registry has the directory open, or it cannot be locked.
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
    """Return whether a directory is its group's on purpose: writable to it, and with new files the group's too (setgid).

    Kubernetes makes a volume so for a pod with ``fsGroup``, and its service may then not be the directory's owner.
    """
    return bool(found.st_mode & stat.S_ISGID and found.st_mode & stat.S_IWGRP)
