"""Detects commits by any process from the files of a database, without a statement."""

import os
import time
from pathlib import Path
from typing import Final

from tenantry.storage.protocol import ChangeToken

TICK_NANOSECONDS: Final = 2_000_000_000
"""The coarsest clock of a file system in use: that of FAT."""


def read_change_token(path: Path, *, is_wal: bool) -> ChangeToken | None:
    """Return the modification times of the files that a commit writes: the database, and its write-ahead log if it has one.

    Returns:
        None if a file was modified within the last tick of the file system's clock: another commit in the same tick would not
        change the times (Git calls such an index entry racily clean, https://git-scm.com/docs/racy-git). Also None if
        the database cannot be found: the next statement reports why.
    """
    modified_at = _modified_at(path)
    if modified_at is None:
        return None
    log_modified_at = 0
    if is_wal:
        # The last connection removes the log when it closes.
        log_modified_at = _modified_at(f"{path}-wal") or 0
    is_racy = time.time_ns() - max(modified_at, log_modified_at) < TICK_NANOSECONDS
    return None if is_racy else (modified_at, log_modified_at)


def _modified_at(path: Path | str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116  # faster, and each lookup in the catalog calls it
    except OSError:
        return None
