"""Distinguishes a damaged database from a disk that failed temporarily.

If a read fails (EIO) inside a statement, SQLite reports SQLITE_CORRUPT: its unix VFS returns SQLITE_IOERR_CORRUPTFS, which the
virtual machine turns into SQLITE_CORRUPT. So one error does not prove damage. Before a tenant is quarantined, its files are read
again, byte by byte and without SQLite, and then checked on a new connection.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tenantry.errors import ConnectHookError, DatabaseCorruptError, PersistenceConnectionError
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.database_files.database_file import is_missing, log_of
from tenantry.storage.sqlite.errors import is_damage
from tenantry.storage.sqlite.maintenance import integrity

_CHUNK_BYTES: Final = 1024 * 1024
_CAUSES_MAX: Final = 8


def is_doubtful(error: BaseException) -> bool:
    """Return whether an error that reports damage may come from a disk that failed temporarily."""
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if cause is None:
            return False
        if isinstance(cause, ConnectHookError):
            return False  # an error in a connect hook does not prove damage
        if isinstance(cause, DatabaseCorruptError) or is_damage(cause):
            return True
        cause = cause.__cause__
    return False


def is_damaged(path: Path, schemas: Sequence[Schema] = ()) -> bool:
    """Check again whether a closed database is damaged, without changing any file; raise if the disk cannot read the files."""
    if is_missing(path):
        return True
    for file in (path, log_of(path)):
        _read_through(file)
    try:
        integrity.check_closed(path, schemas=schemas)
        # Only the thorough check detects an index that does not match its table.
        integrity.check_closed(path, is_thorough=True, schemas=schemas)
    except DatabaseCorruptError:
        return True
    return False


def _read_through(path: Path) -> None:
    """Read a whole file, if possible from the disk and not from the system's cache."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if hasattr(os, "posix_fadvise"):  # not on macOS
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            while os.read(fd, _CHUNK_BYTES):
                pass
        finally:
            os.close(fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise PersistenceConnectionError(
            f"the disk failed to read {path} ({error}): check the disk, then try again"
        ) from error
