"""The files of all tenants and of the catalog in a data directory: checked before anything is opened."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tenantry.config import RegistryConfig
from tenantry.errors import PersistenceConnectionError
from tenantry.files.durable_files import (
    check_directory,
    check_file,
    lstat,
    make_directories,
    make_root,
    unusable_error,
)

LOST_AND_FOUND: Final = "lost+found"

# Lock, database and write-ahead log of the writer with its shared memory; database and log of each reader.
_WRITER_FILES: Final = 4
_READER_FILES: Final = 2
_OTHER_FILES: Final = 64


def prepare_data_files(data_dir: Path) -> None:
    """Create a data directory with the directories of locks and tenants, and check that existing files can be used."""
    try:
        make_root(data_dir)
        if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError("not readable and writable")
        for name in ("scratch", "snapshots"):  # made when they are needed
            if (found := lstat(data_dir / name)) is not None:
                check_directory(data_dir / name, found)
        make_directories(data_dir, data_dir / "operations")
        make_directories(data_dir, data_dir / "tenants")
        for spread in (data_dir / "tenants").iterdir():  # at most 256
            check_directory(spread, spread.lstat())
        catalog = data_dir / "catalog.db"
        if (found := lstat(catalog)) is not None:
            check_file(catalog, found)
        _check_catalog_is_not_lost(data_dir)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unusable_error(data_dir, error) from error


def find_tenant_directories(data_dir: Path) -> Iterator[Path]:
    """Yield the paths in the place of tenants' directories, without those that a file system creates at its top."""
    for path in (data_dir / "tenants").glob("*/*"):
        if path.parent.name != LOST_AND_FOUND:
            yield path


def check_open_files(config: RegistryConfig) -> None:
    """Raise `PersistenceConnectionError` unless the process may open as many files as the pool can hold."""
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
    """Raise if there are tenants and no catalog: a new catalog would list none of them."""
    if not (path / "catalog.db").exists() and any(find_tenant_directories(path)):
        raise FileNotFoundError(
            f"there are tenants in it and no catalog.db: put its newest copy back, or move {path / 'tenants'} away"
        )
