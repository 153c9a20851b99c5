"""A registry's scratch directory, for temporary files.

If the scratch directory is on the same file system as the tenants (the default), finished files are renamed into place. Otherwise
they are copied. If the process dies, the next registry that opens empties the scratch directory.
"""

import contextlib
import shutil
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from tenantry.errors import DataDirectoryError, RegistryClosedError, StorageFullError, TenantryError
from tenantry.files.disk_space import is_full
from tenantry.files.durable_files import DIRECTORY_MODE, make_directories
from tenantry.files.lock_file import LockFile, LockHeldError
from tenantry.threads import run_in_thread

_LOCK_SUFFIX: Final = ".lock"


class Scratch:
    """Makes temporary directories that are removed at the end of a block.

    Each registry has its own directory inside ``scratch`` in the data directory, with a lock file beside it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._root = data_dir / "scratch"
        self._own: Path | None = None
        self._lock: LockFile | None = None
        self._making = threading.Lock()  # several threads may ask for the first directory at the same time
        self._is_closed = False

    async def sweep(self) -> None:
        """Remove the scratch directories of processes that died, to free disk space."""
        await run_in_thread(self._sweep)

    async def aclose(self) -> None:
        """Remove this registry's directory; idempotent."""
        await run_in_thread(self._close)

    @asynccontextmanager
    async def directory(self) -> AsyncIterator[Path]:
        """Yield a new, private directory that is removed at the end of the block.

        Raises:
            StorageFullError: The disk has no space for the directory.
            DataDirectoryError: The directory cannot be made, although the disk is not full.
            RegistryClosedError: The registry is closed.
        """
        made: list[Path] = []  # a caller that is cancelled gets no result of the thread
        try:
            await run_in_thread(self._make, made)
            yield made[0]
        finally:
            for directory in made:
                await run_in_thread(shutil.rmtree, directory, ignore_errors=True)

    def abandon(self) -> None:
        """Release the lock but keep all files: the next registry that opens empties the directory."""
        if self._lock is not None:
            self._lock.release()

    def _make(self, made: list[Path]) -> None:
        """Make a directory, and add it to the list."""
        try:
            with self._making:
                if self._is_closed:
                    raise RegistryClosedError("the registry is closed")
                if self._own is None:
                    self._own = self._begin()
                made.append(Path(tempfile.mkdtemp(dir=self._own)))
        except (OSError, LockHeldError) as error:
            if isinstance(error, OSError) and is_full(error):
                raise StorageFullError(
                    f"cannot make a directory in {self._root} ({error}): free space on the disk"
                ) from error
            raise DataDirectoryError(
                f"cannot make a directory in {self._root}: {error}", path=str(self._root)
            ) from error

    def _begin(self) -> Path:
        """Lock and then make this registry's directory; without the lock another registry could remove the directory."""
        make_directories(self._data_dir, self._root)
        own = self._root / uuid.uuid4().hex
        lock = _lock_of(own)
        lock.acquire()
        try:
            own.mkdir(mode=DIRECTORY_MODE)
        except OSError:
            lock.remove()
            raise
        self._lock = lock
        return own

    def _sweep(self) -> None:
        try:
            found = list(self._root.iterdir()) if self._root.exists() else []
            for name in sorted({path.name.removesuffix(_LOCK_SUFFIX) for path in found}):
                _remove_if_left(self._root / name)
        except OSError as error:
            raise DataDirectoryError(
                f"cannot list the directory {self._root}: {error}", path=str(self._root)
            ) from error

    def _close(self) -> None:
        with self._making:
            self._is_closed = True
            if self._own is not None:
                shutil.rmtree(self._own, ignore_errors=True)
            if self._lock is not None:
                self._lock.remove()


def _remove_if_left(directory: Path) -> None:
    """Remove the directory of a registry that died, and the directory's lock file.

    A directory without a lock file is removed too: its registry failed to do so, or the lock file was lost in a power failure.
    """
    lock = _lock_of(directory)
    with contextlib.suppress(LockHeldError, OSError):
        lock.acquire(is_named=False)  # write no name into the lock file: the disk may be full
        shutil.rmtree(directory, ignore_errors=True)
        lock.remove()


def _lock_of(directory: Path) -> LockFile:
    return LockFile(directory.with_name(directory.name + _LOCK_SUFFIX))


@contextmanager
def named(path: Path, name: str) -> Iterator[None]:
    """Replace the path of a scratch file in error messages with `name`, because the caller does not know the path."""
    try:
        yield
    except TenantryError as error:
        words = str(error).replace(str(path), name).replace(str(path.parent), "a scratch directory")
        error.args = (words, *error.args[1:])
        raise
