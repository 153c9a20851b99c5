"""Checks the files of the tenants and of the catalog in a data directory, before any file is opened."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tenantry.files.durable_files import (
    check_directory,
    check_file,
    lstat,
    make_directories,
    make_root,
    unusable_error,
)

LOST_AND_FOUND: Final = "lost+found"


def prepare_data_files(data_dir: Path, *, has_catalog: bool = True) -> None:
    """Create the data directory with its subdirectories for locks and tenants, and check that existing files can be used.

    Args:
        data_dir: The data directory.
        has_catalog: Whether the catalog is in this directory, and not in a database on a server.
    """
    try:
        make_root(data_dir)
        if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError("not readable and writable")
        for name in ("scratch", "snapshots"):  # missing directories are created later
            if (found := lstat(data_dir / name)) is not None:
                check_directory(data_dir / name, found)
        make_directories(data_dir, data_dir / "operations")
        make_directories(data_dir, data_dir / "tenants")
        for spread in (data_dir / "tenants").iterdir():  # at most 256 directories
            check_directory(spread, spread.lstat())
        catalog = data_dir / "catalog.db"
        if (found := lstat(catalog)) is not None:
            check_file(catalog, found)
        if has_catalog:
            _check_catalog_is_not_lost(data_dir)
    except (OSError, ValueError) as error:  # a NUL in the path raises ValueError
        raise unusable_error(data_dir, error) from error


def find_tenant_directories(data_dir: Path) -> Iterator[Path]:
    """Yield the paths of the tenants' directories, but not ``lost+found``, which a file system creates."""
    for path in (data_dir / "tenants").glob("*/*"):
        if path.parent.name != LOST_AND_FOUND:
            yield path


def _check_catalog_is_not_lost(path: Path) -> None:
    """Raise if the directory has tenants but no catalog, because a new catalog would not list the tenants."""
    if not (path / "catalog.db").exists() and any(find_tenant_directories(path)):
        raise FileNotFoundError(
            "the directory has tenants but no catalog.db: set TENANTRY_DATABASE if the catalog is in a PostgreSQL database; otherwise "
            f"put the newest copy of catalog.db there, or move {path / 'tenants'} away"
        )
