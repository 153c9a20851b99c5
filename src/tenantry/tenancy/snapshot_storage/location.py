"""Records the location of a data directory's snapshot storage in the directory.

A registry with another snapshot storage is not opened. With another storage a registry would find no snapshots, and its purges
would never delete the tenants' snapshots. These functions block.
"""

import os
from pathlib import Path
from typing import Final

from tenantry.errors import DataDirectoryError
from tenantry.files.recorded_text import read_text, write_text

_FILE_NAME: Final = "snapshot-storage"


def default_location(data_dir: Path) -> Path:
    """Return the default location of the snapshots."""
    return data_dir / "snapshots"


def recorded_location(data_dir: Path) -> str | None:
    """Return the recorded location of the snapshots; None if no location is recorded."""
    return read_text(data_dir / _FILE_NAME)


def record_location(data_dir: Path, location: str) -> None:
    """Record the location of the snapshots, unless the location is the default or is recorded already.

    Raises:
        DataDirectoryError: The snapshots are stored at another location, which the error message names.
        SnapshotError: The recorded location cannot be read or written.
    """
    path, default = data_dir / _FILE_NAME, Path(os.path.abspath(default_location(data_dir)))  # noqa: PTH100  # as `LocalStorage.location`
    recorded = recorded_location(data_dir)
    if location == (recorded or str(default)):
        return
    if recorded is not None:
        change = f"first move the snapshots and remove {path}, or leave them behind with 'tenantry snapshot switch-storage'"
        raise _stored_elsewhere(data_dir, recorded, location, change)
    if default.is_dir() and any(default.iterdir()):
        raise _stored_elsewhere(data_dir, str(default), location, f"first move the contents of {default}")
    change_location(data_dir, location)


def change_location(data_dir: Path, location: str) -> None:
    """Record a new location. Snapshots at the old location stay, but are no longer listed or deleted."""
    write_text(data_dir / _FILE_NAME, location)


def _stored_elsewhere(data_dir: Path, stored_at: str, given: str, change: str) -> DataDirectoryError:
    return DataDirectoryError(
        f"the snapshots of {data_dir} are stored at {stored_at}, not at {given}: use {stored_at} as the snapshot storage. "
        f"To store new snapshots at {given}, {change}",
        path=str(data_dir),
    )
