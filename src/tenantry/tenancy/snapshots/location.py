"""Where a data directory's snapshots are kept, written down in it.

Whoever opens the directory without knowing it would find no snapshot, and a purge would leave those of its tenant for ever:
so a registry that was given another storage is not opened. These functions block.
"""

import os
from pathlib import Path
from typing import Final

from tenantry.errors import DataDirectoryError
from tenantry.files.atomic_file import DraftFile, storage_errors

_FILE_NAME: Final = "snapshot-storage"
_CHARACTERS_MAX: Final = 4096


def default_location(data_dir: Path) -> Path:
    """Return where the snapshots are kept if nothing else was said."""
    return data_dir / "snapshots"


def recorded_location(data_dir: Path) -> str | None:
    """Return where they are kept, as it was written down; None if nothing was.

    Raises:
        SnapshotError: It cannot be read.
    """
    path = data_dir / _FILE_NAME
    with storage_errors(f"read {path}"):
        try:
            with path.open("rb") as file:
                return file.read(_CHARACTERS_MAX).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return None


def record_location(data_dir: Path, location: str) -> None:
    """Write down where they are kept, unless that is the default or was done before.

    Args:
        data_dir: The data directory.
        location: The storage's, see `ObjectStorage`.

    Raises:
        DataDirectoryError: They are kept elsewhere; the message says where, and what to do if that is to change.
        SnapshotError: It cannot be read or written.
    """
    path, default = data_dir / _FILE_NAME, Path(os.path.abspath(default_location(data_dir)))  # noqa: PTH100  # as `LocalStorage.location`
    recorded = recorded_location(data_dir)
    if location == (recorded or str(default)):
        return
    if recorded is not None:
        change = f"move what is there first, then remove {path}, or start without them: 'tenantry snapshot switch-storage'"
        raise _kept_elsewhere(data_dir, recorded, location, change)
    if default.is_dir() and any(default.iterdir()):
        raise _kept_elsewhere(data_dir, str(default), location, f"move what is in {default} there first")
    change_location(data_dir, location)


def change_location(data_dir: Path, location: str) -> None:
    """Write down where they are kept from now on; snapshots that are elsewhere stay there and are not found any more.

    Raises:
        SnapshotError, StorageFullError: It cannot be written.
    """
    path = data_dir / _FILE_NAME
    with storage_errors(f"write {path}"), DraftFile(path) as draft:
        draft.write(f"{location}\n".encode())


def _kept_elsewhere(data_dir: Path, kept_at: str, given: str, change: str) -> DataDirectoryError:
    return DataDirectoryError(
        f"the snapshots of {data_dir} are kept at {kept_at}, not at {given}: give that snapshot storage; if they are to be "
        f"kept elsewhere from now on, {change}",
        path=str(data_dir),
    )
