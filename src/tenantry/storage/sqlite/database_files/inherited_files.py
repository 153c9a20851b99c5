"""The files that were open when this process was forked. SQLite cannot open these files in this process again.

SQLite keeps the locks of each open file in the memory of the process. A forked child has a copy of this memory, but not the locks
themselves, because the kernel gives POSIX locks to the parent alone. A new connection of the child to the same file would find the lock
in the memory and would acquire none. Any other program that opens and closes the database would then remove the write-ahead log which
the child writes, with the commits in it. (https://www.sqlite.org/howtocorrupt.html forbids to carry a connection across a fork.)
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from tenantry.errors import PersistenceConnectionError

_DESCRIPTORS: Final = Path("/proc/self/fd")

_inherited: set[tuple[int, int]] = set()
"""The devices and inodes of the files."""


def note_inherited_files() -> None:
    """Note all files that are open now, in a child that was just forked. Without ``/proc`` nothing is noted."""
    with suppress(OSError):
        for descriptor in list(_DESCRIPTORS.iterdir()):
            with suppress(OSError):  # the descriptor of the listing itself is closed
                found = os.fstat(int(descriptor.name))
                _inherited.add((found.st_dev, found.st_ino))


def has_inherited_files() -> bool:
    """Return whether `check_not_inherited` reads the disk, because files were open when this process was forked."""
    return bool(_inherited)


def check_not_inherited(path: Path) -> None:
    """Raise an error if the file was open when this process was forked.

    Raises:
        PersistenceConnectionError: The file was open.
    """
    if not _inherited:
        return
    try:
        found = path.stat()
    except OSError:  # SQLite reports the same error, or creates the file
        return
    if (found.st_dev, found.st_ino) in _inherited:
        raise PersistenceConnectionError(
            f"{path} was open when this process was forked, and SQLite cannot open it safely in this process: fork before a registry "
            "opens, or start the process without a fork (multiprocessing: 'spawn' or 'forkserver')",
            is_retryable=False,
        )
