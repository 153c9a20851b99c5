"""Records in the data directory that its catalog is in a database, so that a process without that setting makes no second catalog.

These functions block.
"""

from pathlib import Path
from typing import Final

from tenantry.config import SQLITE, RegistryConfig
from tenantry.errors import DataDirectoryError
from tenantry.files.recorded_text import read_text, write_text

_FILE_NAME: Final = "catalog-place"


def record_catalog_place(config: RegistryConfig) -> None:
    """Record the database of the catalog, or check that a registry whose catalog is in files may create one here.

    Raises:
        DataDirectoryError: The directory has no catalog, because its catalog is in a database.
        SnapshotError: The record cannot be read or written.
    """
    path = config.data_dir / _FILE_NAME
    if config.catalog_backend == SQLITE:
        _check_catalog_is_here(config.data_dir, path)
        return
    assert config.database is not None
    address = str(config.database.address)
    if read_text(path) != address:
        write_text(path, address)


def _check_catalog_is_here(data_dir: Path, path: Path) -> None:
    address = None if (data_dir / "catalog.db").exists() else read_text(path)
    if address is not None:
        raise DataDirectoryError(
            f"the catalog of the data directory {data_dir} is in the database {address}: set TENANTRY_DATABASE, or database= in "
            f"RegistryConfig, to that database. To begin with an empty catalog in {data_dir} instead, remove {path}",
            path=str(data_dir),
        )
