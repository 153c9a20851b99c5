"""Detects commits by any process from the times of a database's files, without running a statement."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tenantry.storage.protocol import ChangeToken

TICK_NANOSECONDS: Final = 2_000_000_000
"""The coarsest resolution of file times in use, which is that of the FAT file system."""


def _modified_at(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116  # os.stat is faster, and each lookup in the catalog calls this function
    except OSError:
        return None


def read_change_token(
    path: Path, *, is_wal: bool, modified_at: Callable[[str], int | None] = _modified_at
) -> ChangeToken | None:
    """Return the modification times of the files that a commit writes: the database and its write-ahead log.

    Args:
        path: The database.
        is_wal: Whether the database has a write-ahead log.
        modified_at: The function that returns the modification time of a file in nanoseconds, or None without the file.

    Returns:
        The token. None if a file was modified within the last `TICK_NANOSECONDS`, because another commit might then not change
        the file's time (Git calls such an index entry racily clean, https://git-scm.com/docs/racy-git). The token is also None if
        the database cannot be found; the next statement reports this error.
    """
    database_modified_at = modified_at(str(path))
    if database_modified_at is None:
        return None
    log_modified_at = 0
    if is_wal:
        # The log may be missing, because the last connection removes the log when the connection closes.
        log_modified_at = modified_at(f"{path}-wal") or 0
    is_racy = time.time_ns() - max(database_modified_at, log_modified_at) < TICK_NANOSECONDS
    return None if is_racy else (database_modified_at, log_modified_at)
