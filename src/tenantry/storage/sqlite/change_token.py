"""Tells from the files of a database, without a statement, whether anybody has committed since an earlier look."""

import time
from pathlib import Path
from typing import Final

from tenantry.storage.protocol import ChangeToken

TICK_NANOSECONDS: Final = 2_000_000_000
"""The coarsest clock of a file system in use: that of FAT."""


def read_change_token(path: Path, *, is_wal: bool) -> ChangeToken | None:
    """Return the modification times of the files that a commit writes: the database, and its write-ahead log if it has one.

    Args:
        path: The database.
        is_wal: Whether it has a write-ahead log.

    Returns:
        None if a file was modified within the last tick of the file system's clock: another commit in the same tick would not
        change the times (Git calls such an index entry racily clean, https://git-scm.com/docs/racy-git). None too if the
        database cannot be found: a statement will say what is wrong with it.
    """
    try:
        times = [path.stat().st_mtime_ns]
    except OSError:
        return None
    if is_wal:
        times.append(_modified_at(path.with_name(f"{path.name}-wal")))
    return None if time.time_ns() - max(times) < TICK_NANOSECONDS else tuple(times)


def _modified_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # it is removed when the last connection closes
        return 0
