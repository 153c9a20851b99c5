"""Records in a data directory where its snapshots are stored.

A registry with another storage would find no snapshots, and its purges would leave the snapshots of purged tenants for ever. So a
registry that was given another storage is not opened. These functions block.
"""

import os
from pathlib import Path
from typing import Final

from tenantry.errors import DataDirectoryError
from tenantry.files.atomic_file import DraftFile, storage_errors

_FILE_NAME: Final = "snapshot-storage"
_CHARACTERS_MAX: Final = 4096


def default_location(data_dir: Path) -> Path:
    """Return where snapshots are stored if no storage is given."""
    return data_dir / "snapshots"


def recorded_location(data_dir: Path) -> str | None:
    """Return the recorded location of the snapshots, None if none is recorded."""
    path = data_dir / _FILE_NAME
    with storage_errors(f"read {path}"):
        try:
            with path.open("rb") as file:
                return file.read(_CHARACTERS_MAX).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return None


def record_location(data_dir: Path, location: str) -> None:
    """Record where the snapshots are stored, unless that is the default or is recorded already.

    Raises:
        DataDirectoryError: They are stored elsewhere. The message says where, and how to change it.
        SnapshotError: It cannot be read or written.
    """
    path, default = data_dir / _FILE_NAME, Path(os.path.abspath(default_location(data_dir)))  # noqa: PTH100  # as `LocalStorage.location`
    recorded = recorded_location(data_dir)
    if location == (recorded or str(default)):
        return
    if recorded is not None:
        change = f"move what is there first, then remove {path}, or start without them: 'tenantry snapshot switch-storage'"
        raise _stored_elsewhere(data_dir, recorded, location, change)
    if default.is_dir() and any(default.iterdir()):
        raise _stored_elsewhere(data_dir, str(default), location, f"move what is in {default} there first")
    change_location(data_dir, location)


def change_location(data_dir: Path, location: str) -> None:
    """Record a new location. Snapshots that are elsewhere stay there, and are neither listed nor deleted any more."""
    path = data_dir / _FILE_NAME
    with storage_errors(f"write {path}"), DraftFile(path) as draft:
        draft.write(f"{location}\n".encode())


def _stored_elsewhere(data_dir: Path, stored_at: str, given: str, change: str) -> DataDirectoryError:
    return DataDirectoryError(
        f"the snapshots of {data_dir} are stored at {stored_at}, not at {given}: give that snapshot storage. To store them "
        f"elsewhere from now on: {change}",
        path=str(data_dir),
    )
