"""A file that appears under its name whole and durable, or not at all; and what its errors mean.

For what leaves the databases: snapshots, bundles, manifests. These functions block.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from tenantry.errors import DataDirectoryError, SnapshotError, StorageFullError
from tenantry.files.disk_space import is_full
from tenantry.files.durable_files import FILE_MODE, move
from tenantry.files.lock_file import is_at

DRAFT_SUFFIX: Final = ".DRAFT"
"""In capitals, so that no draft has the name of an object."""


class DraftFile:
    """A file that is written beside its place and moved there when it is whole and durable; what was there is replaced.

    The draft is locked while it is written (flock(2)). A draft that a crash left has no lock: the next one takes it over.
    As a context manager it is published at the end of the block, or discarded if that raises.

    Args:
        path: Where the file is to appear; its directory must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._draft = path.with_name(path.name + DRAFT_SUFFIX)
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Begin an empty draft; a no-op when it is begun.

        Raises:
            SnapshotError: Somebody else writes it at this moment (retryable), or something else is in its place.
            OSError: It cannot be made.
        """
        while self._file is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.fdopen(os.open(self._draft, flags, FILE_MODE), "wb")
            try:
                self._lock(file)
                # Whoever held the lock may have published the draft: then this is its file.
                if is_at(file.fileno(), self._draft):
                    file.truncate(0)
                    self._file = file
            finally:
                if self._file is None:
                    file.close()

    def write(self, content: bytes) -> int:
        """Add to the draft.

        Raises:
            OSError: The disk refused.
        """
        assert self._file is not None
        return self._file.write(content)

    def publish(self) -> None:
        """Make the draft durable and give it its name, durably.

        Raises:
            OSError: The disk refused; whether the file has its name is not known.
        """
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        move(self._draft, self.path)
        self._close()

    def discard(self) -> None:
        """Remove the draft; a no-op when there is none, or when it was published."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._draft.unlink()
            self._close()

    def remove_leftover(self) -> None:
        """Remove a draft that a crash left; one that is being written is left alone."""
        if os.path.lexists(self._draft):
            with contextlib.suppress(SnapshotError):
                self.open()
            self.discard()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.publish()
        finally:
            self.discard()

    def _lock(self, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SnapshotError(
                f"{self.path} is being written at this moment: try again when that is done", is_retryable=True
            ) from error
        # In a directory that others may write to, somebody may have put a file of his own there to read what we write.
        found = os.fstat(file.fileno())
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink <= 1
        if not is_ours or found.st_mode & 0o077:
            raise SnapshotError(f"{self._draft} is not a private file of this process's user: remove it")

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            # What a full disk did not take is tried again here, and is nobody's any more.
            with contextlib.suppress(OSError):
                file.close()


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Raise what the operating system refuses as tenantry's errors.

    Args:
        doing: What was being done, to follow "cannot".

    Raises:
        StorageFullError: The disk, the quota or the limit on a file's size.
        SnapshotError: Anything else.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise StorageFullError(f"cannot {doing} ({error}): make room, then try again") from error
        raise SnapshotError(
            f"cannot {doing} ({error}): see that the path is right and that this process may read and write there"
        ) from error
    except DataDirectoryError as error:
        raise SnapshotError(f"cannot {doing}: {error}") from error
