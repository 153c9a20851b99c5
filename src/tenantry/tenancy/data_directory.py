"""The data directory: checked at start, so that what is wrong with it is said before anything is opened."""

import os
import shutil
import stat
from contextlib import suppress
from typing import NamedTuple

from tenantry.config import RegistryConfig
from tenantry.files.durable_files import check_directory, make_usable_root, unusable_error


class DiskSpace(NamedTuple):
    """The file system under the data directory at one moment.

    Attributes:
        size_bytes: How large it is.
        free_bytes: What this process may still use of it.
    """

    size_bytes: int
    free_bytes: int


def measure_disk(config: RegistryConfig) -> DiskSpace:
    """Return how much space there is.

    Raises:
        OSError: It cannot be found out.
    """
    usage = shutil.disk_usage(config.data_dir)
    return DiskSpace(usage.total, usage.free)


def prepare_data_directory(config: RegistryConfig) -> None:
    """Make the data directory if it is missing, and check that it can be used.

    Raises:
        DataDirectoryError: It is no directory, not writable, or a part of it is a symbolic link.
    """
    path = config.data_dir
    try:
        make_usable_root(path)
        for name in ("scratch", "snapshots"):  # made when they are needed
            with suppress(FileNotFoundError):
                check_directory(path / name, (path / name).lstat())
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unusable_error(path, error) from error


def is_shared_by_group(found: os.stat_result) -> bool:
    """Return whether a directory is its group's on purpose: writable to it, and with new files the group's too (setgid).

    Kubernetes makes a volume so for a pod with ``fsGroup``, and its service may then not be the directory's owner.
    """
    return bool(found.st_mode & stat.S_ISGID and found.st_mode & stat.S_IWGRP)
