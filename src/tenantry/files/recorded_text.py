"""One line of text that the data directory keeps in a file of its own. These functions block."""

from pathlib import Path
from typing import Final

from tenantry.files.atomic_file import DraftFile, storage_errors

_CHARACTERS_MAX: Final = 4096


def read_text(path: Path) -> str | None:
    """Return the recorded text; None if the file does not exist.

    Raises:
        SnapshotError: The file cannot be read.
    """
    with storage_errors(f"read {path}"):
        try:
            with path.open("rb") as file:
                return file.read(_CHARACTERS_MAX).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return None


def write_text(path: Path, text: str) -> None:
    """Record a text durably in place of the recorded one.

    Raises:
        SnapshotError: The file cannot be written.
    """
    with storage_errors(f"write {path}"), DraftFile(path) as draft:
        draft.write(f"{text}\n".encode())
