"""Writes snapshots, bundles and manifests atomically: a file appears complete and durable, or not at all.

These functions block.
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
"""The suffix of a temporary file. Its capitals keep it apart from the names of objects."""


class DraftFile:
    """Writes a temporary file beside the final path, and renames the complete, durable file to the final path.

    A writer locks its temporary file (flock(2)). A file left behind by a crash is not locked, and the next writer overwrites it.
    As a context manager, this class publishes the file at the end of the block, or discards the file if the block raises.

    Args:
        path: The final path, in an existing directory. An existing file at this path is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._draft = path.with_name(path.name + DRAFT_SUFFIX)
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Create an empty temporary file; a no-op if the temporary file is open.

        Raises:
            SnapshotError: Another process is writing the temporary file (retryable), or the existing file is not private.
            OSError: The temporary file cannot be created.
        """
        while self._file is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.fdopen(os.open(self._draft, flags, FILE_MODE), "wb")
            try:
                self._lock(file)
                # The lock's previous holder may have published the temporary file: then `file` is the published file.
                if is_at(file.fileno(), self._draft):
                    file.truncate(0)
                    self._file = file
            finally:
                if self._file is None:
                    file.close()

    def write(self, content: bytes) -> int:
        """Append to the temporary file."""
        assert self._file is not None
        return self._file.write(content)

    def publish(self) -> None:
        """Sync the temporary file, and rename the file durably to the final path.

        Raises:
            OSError: The disk failed; the temporary file may or may not have its final name.
        """
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        move(self._draft, self.path)
        self._close()

    def discard(self) -> None:
        """Remove the temporary file; a no-op if the temporary file is missing or was published."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._draft.unlink()
            self._close()

    def remove_leftover(self) -> None:
        """Remove a temporary file left behind by a crash; keep a temporary file that is being written."""
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
                f"another process is writing {self.path}: try again later",
                is_retryable=True,
            ) from error
        # In a directory that others may write to, another user may have created the file to read our data.
        found = os.fstat(file.fileno())
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink <= 1
        if not is_ours or found.st_mode & 0o077:
            raise SnapshotError(f"{self._draft} is not a private file of this process's user: remove it")

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            # Closing the file retries a write that failed on a full disk; the write's error was already raised.
            with contextlib.suppress(OSError):
                file.close()


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Map the operating system's errors to tenantry's errors.

    Args:
        doing: The failed step, which follows "cannot" in the message.

    Raises:
        StorageFullError: The disk or the quota is full, or the limit on a file's size is reached.
        SnapshotError: The operating system raised another error.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise StorageFullError(f"cannot {doing} ({error}): free space, then try again") from error
        raise SnapshotError(
            f"cannot {doing} ({error}): check the path, and that this process may read and write there"
        ) from error
    except DataDirectoryError as error:
        raise SnapshotError(f"cannot {doing}: {error}") from error
