"""The files of a database: their paths, whether they exist, and the URI by which SQLite opens them."""

import os
from pathlib import Path
from urllib.parse import quote

from tenantry.errors import DatabaseCorruptError
from tenantry.storage.sqlite.database_files.inherited_files import check_not_inherited


def database_uri(path: Path, parameters: str) -> str:
    """Return the URI of a database with parameters such as ``mode=ro`` (https://www.sqlite.org/uri.html).

    Raises:
        PersistenceConnectionError: The file was open when this process was forked.
    """
    check_not_inherited(path)
    return f"file:{quote(str(path.absolute()))}?{parameters}"


def log_of(path: Path) -> Path:
    """Return the path of a database's write-ahead log."""
    return Path(f"{path}-wal")


def has_log(path: Path | str) -> bool:
    """Return whether the database has a write-ahead log that is not empty."""
    try:
        return os.stat(f"{path}-wal").st_size > 0  # noqa: PTH116  # os.stat is faster, and each read of an immutable file calls this twice
    except FileNotFoundError:
        return False


def is_missing(path: Path) -> bool:
    """Return whether the database file is missing or empty; SQLite would treat an empty file as a new database."""
    try:
        return not path.lstat().st_size
    except FileNotFoundError:
        return True


def missing_error(path: Path) -> DatabaseCorruptError:
    """Return the error for a missing database."""
    return DatabaseCorruptError(f"{path} is missing or empty: put the file back, or restore a snapshot")


def remove_database(path: Path) -> None:
    """Remove a closed database with its log and journal files; a missing file is not an error."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
