"""The data directory: checked at start, so that what is wrong with it is said before anything is opened."""

import os
import resource
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from tenantry.config import RegistryConfig
from tenantry.errors import DataDirectoryError, PersistenceConnectionError
from tenantry.files.durable_files import check_directory, make_directories, make_root

LOST_AND_FOUND: Final = "lost+found"

# Lock, database and write-ahead log of the writer with its shared memory; database and log of each reader.
_WRITER_FILES: Final = 4
_READER_FILES: Final = 2
_OTHER_FILES: Final = 64


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
        make_root(path)
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError("not readable and writable")
        make_directories(path, path / "operations")
        make_directories(path, path / "tenants")
        for name in ("scratch", "snapshots"):  # made when they are needed
            with suppress(FileNotFoundError):
                check_directory(path / name, (path / name).lstat())
        for spread in (path / "tenants").iterdir():  # at most 256
            check_directory(spread, spread.lstat())
        _check_is_own_file(path / "catalog.db")
        _check_catalog_is_not_lost(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataDirectoryError(
            f"the data directory {path} cannot be used ({error}): give a directory that this process may write",
            path=str(path),
        ) from error


def find_tenant_directories(data_dir: Path) -> Iterator[Path]:
    """Yield what lies where tenants' directories are; not what a file system keeps for itself at its top."""
    for path in (data_dir / "tenants").glob("*/*"):
        if path.parent.name != LOST_AND_FOUND:
            yield path


def is_shared_by_group(found: os.stat_result) -> bool:
    """Return whether a directory is its group's on purpose: writable to it, and with new files the group's too (setgid).

    Kubernetes makes a volume so for a pod with ``fsGroup``, and its service may then not be the directory's owner.
    """
    return bool(found.st_mode & stat.S_ISGID and found.st_mode & stat.S_IWGRP)


def check_open_files(config: RegistryConfig) -> None:
    """Check that the process may open as many files as the pool can hold.

    Raises:
        PersistenceConnectionError: It may not; the message says what to change.
    """
    files = (
        config.open_tenants_max * (_WRITER_FILES + _READER_FILES * config.readers_per_tenant) + _OTHER_FILES
    )
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed not in {-1, resource.RLIM_INFINITY} and files > allowed:
        raise PersistenceConnectionError(
            f"open_tenants_max ({config.open_tenants_max}) with readers_per_tenant ({config.readers_per_tenant}) needs "
            f"{files} open files and this process may open {allowed}: lower them, or raise the limit (ulimit -n)",
            is_retryable=False,
        )


def _check_catalog_is_not_lost(path: Path) -> None:
    """Raise where there are tenants and no catalog: an empty one would know none of them."""
    if not (path / "catalog.db").exists() and any(find_tenant_directories(path)):
        raise FileNotFoundError(
            f"there are tenants in it and no catalog.db: put its newest copy back, or move {path / 'tenants'} away"
        )


def _check_is_own_file(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise DataDirectoryError(
            f"{path} is a link or no regular file: put the catalog itself there", path=str(path)
        )
