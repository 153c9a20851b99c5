"""Locks on files and directories, made with flock(2). The kernel releases a process's locks when the process ends.

A forked child immediately closes its copies of the descriptors: otherwise a lock would last as long as the child. A lock file
contains one line: the name of the lock's holder, which other processes' errors show, or a text that the last holder left.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from tenantry.errors import PersistenceConnectionError, PersistenceError, StorageFullError
from tenantry.files.disk_space import is_full

T = TypeVar("T")

NAMELESS_SECONDS_MAX: Final = 0.05
"""The longest wait for the name of a lock's holder. After the wait, the lock is reported as held without a name."""

_NAMELESS_LOOKS: Final = 50
_FILE_MODE: Final = 0o600
CONTENT_BYTES: Final = 128  # a lock file has a fixed size, because new content then needs no truncation
HOST: Final = socket.gethostname()
"""The name of this host, or of this container, in lock files."""


class LockHeldError(Exception):
    """Another process, or another registry of this process, holds the lock.

    Attributes:
        pid: The process id of the holder; None if the holder has not written its name yet.
        host: The host of the holder; None if the holder has not written its name yet.
        socket_name: The name under which the holder listens to other processes; None if the holder does not listen.
    """

    def __init__(self, content: bytes) -> None:
        self.pid, self.host, self.socket_name = read_holder(content)
        super().__init__(f"held by process {self.pid or 'unknown'} on {self.host or 'this host'}")


class _Locked:
    """Keeps a lock's descriptor while the lock is held. A forked child closes its copy of the descriptor."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def _open(self, path: Path, flags: int) -> int:
        with _fork_lock:
            self._fd = fd = os.open(path, flags | os.O_CLOEXEC, _FILE_MODE)
            _held.add(self)
        return fd

    def _close(self) -> None:
        with _fork_lock:
            fd, self._fd = self._fd, None
            _held.discard(self)
            if fd is not None:
                os.close(fd)  # LOCK_UN in a forked child would also release the parent's lock


class DirectoryLock(_Locked):
    """A shared or exclusive lock on a directory itself. The constructor does not acquire the lock.

    The lock needs no file, so the lock works on a full disk and leaves nothing behind. The methods never wait for the lock.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def acquire(self, *, is_shared: bool) -> None:
        """Acquire the lock.

        Args:
            is_shared: Whether the lock is shared rather than exclusive.

        Raises:
            BlockingIOError: Another holder has a conflicting lock.
            OSError: The directory cannot be opened or locked.
        """
        fd = self._open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BaseException:
            self._close()
            raise

    def release(self) -> None:
        """Release the lock; a no-op if the lock is not held."""
        self._close()


class LockFile(_Locked):
    """An exclusive lock on a lock file. The methods block for I/O, but never wait for the lock.

    Args:
        path: The path of the lock file; `acquire` creates a missing file.
        socket_name: The name under which this process listens to other processes, which the lock file tells them.
    """

    def __init__(self, path: Path, *, socket_name: str | None = None) -> None:
        super().__init__()
        self.path = path
        self._socket_name = socket_name

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def fileno(self) -> int:
        """Return the descriptor of the lock file; the lock must be held."""
        assert self._fd is not None
        return self._fd

    def acquire(self, *, may_make: bool = True, is_named: bool = True) -> bytes:
        """Acquire the lock, write this process's name into the file, and return the file's previous content.

        Args:
            may_make: Whether to create a missing file.
            is_named: Whether to write this process's name. A lock without a name may only be held briefly, because other callers
                wait up to `NAMELESS_SECONDS_MAX` for the name.

        Raises:
            LockHeldError: Another process, or another registry of this process, holds the lock.
            OSError: The file cannot be opened or written.
        """
        try:
            fd = self._locked(may_make=may_make)
            content = _read_content(fd)
            if is_named:
                self._write_name(fd, is_new=not content)
        except BaseException:
            self.release()
            raise
        return content

    @property
    def holder_name(self) -> bytes:
        """This process's name as the holder, for the lock file."""
        return _named(os.getpid(), self._socket_name)

    def take(self, pass_on: Callable[[], int]) -> None:
        """Take over a lock that was acquired with this process's name.

        Args:
            pass_on: The function that returns the descriptor. Until then its holder has closed the descriptor in a forked child.
        """
        with _fork_lock:
            self._fd = pass_on()
            _held.add(self)

    def pass_on(self, take: Callable[[int], T]) -> T:
        """Pass the lock on, which must be held; return the result of the function that takes the descriptor.

        Args:
            take: The function. From then on the new holder closes the descriptor, also in a forked child.
        """
        with _fork_lock:
            taken = take(self.fileno())
            self._fd = None
            _held.discard(self)
        return taken

    def release(self, content: bytes | None = None) -> None:
        """Release the lock; a no-op if the lock is not held.

        Args:
            content: The text to leave in the file. On a full disk the holder's name stays in the file instead.
        """
        fd = self._fd
        if fd is None:
            return
        try:
            if content is not None:
                with contextlib.suppress(OSError):
                    _replace_content(fd, content)
        finally:
            self._close()

    def read(self) -> bytes:
        """Return the content of the lock file; empty if the file cannot be read."""
        try:
            return _first_line(self.path.read_bytes())
        except OSError:
            return b""

    def holder(self) -> "Holder | None":
        """Return the named holder of the lock, without acquiring the lock; None if nobody holds it."""
        if read_holder(self.read()) == NAMELESS:
            return None
        try:
            fd = self._open(self.path, os.O_RDONLY | os.O_NOFOLLOW)
            with contextlib.suppress(BlockingIOError):
                # A shared lock shows whether the file is locked. It is held only for this moment.
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            found = read_holder(_read_content(fd))
        except OSError:
            return None
        finally:
            self._close()
        return None if found == NAMELESS else found

    def remove(self) -> None:
        """Remove the lock file if this object holds the lock, and release the lock; ignore a failed removal."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self.release()

    def _write_name(self, fd: int, *, is_new: bool) -> None:
        try:
            _replace_content(fd, self.holder_name)
        except OSError:
            if is_new:  # the disk may be full: a new lock file without a name must not stay
                self.remove()
            raise

    def _locked(self, *, may_make: bool) -> int:
        """Return a locked descriptor of the file that is now at the path, because a lock on a removed file has no effect."""
        looks_left = _NAMELESS_LOOKS
        while True:
            fd = self._opened(may_make=may_make)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if is_at(fd, self.path):
                    content = _read_content(fd)
                    if read_holder(content) != NAMELESS or not looks_left:
                        raise LockHeldError(content) from error
                    # The holder is about to write its name, or checks whether the lock is abandoned.
                    looks_left -= 1
                    time.sleep(NAMELESS_SECONDS_MAX / _NAMELESS_LOOKS)
            else:
                if is_at(fd, self.path):
                    return fd
            self.release()

    def _opened(self, *, may_make: bool) -> int:
        return self._open(self.path, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if may_make else 0))


def remove_abandoned(directory: Path) -> None:
    """Remove a directory's lock files, except files that a process has locked."""
    for path in list(directory.iterdir()):
        lock = LockFile(path)
        with contextlib.suppress(LockHeldError, OSError):
            # Do not create the file, because another process may have removed the file in the meantime.
            lock.acquire(may_make=False, is_named=False)
            lock.remove()


def lock_error(path: Path, error: OSError) -> PersistenceError:
    """Return the error for a lock file that cannot be opened or written."""
    if is_full(error):
        return StorageFullError(f"cannot lock {path} ({error}): free space on the disk")
    return PersistenceConnectionError(f"cannot lock {path}: {error}")


class Holder(NamedTuple):
    """The holder of a lock, as its lock file names it; see `LockHeldError`."""

    pid: int | None
    host: str | None
    socket_name: str | None


NAMELESS: Final = Holder(None, None, None)
"""The holder of a lock file that names none."""


def read_holder(content: bytes) -> Holder:
    """Return the holder from a lock file's content; `NAMELESS` if the content has no holder."""
    try:
        holder = json.loads(content)
        name = holder.get("socket")
        return Holder(int(holder["pid"]), str(holder["host"]), name if isinstance(name, str) else None)
    except (ValueError, TypeError, KeyError, AttributeError):
        return NAMELESS  # the holder has not written its name yet


@lru_cache(maxsize=16)  # a process has one name in all of its locks, or two if it has two registries
def _named(pid: int, socket_name: str | None) -> bytes:
    """Return the content of a lock file that names this process as the holder; see `read_holder`."""
    holder: dict[str, object] = {"pid": pid, "host": HOST}
    if socket_name is not None:
        holder["socket"] = socket_name
    return json.dumps(holder).encode("utf-8")


def is_at(fd: int, path: Path) -> bool:
    """Return whether an open file is still the file at a path."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _read_content(fd: int) -> bytes:
    return _first_line(os.pread(fd, CONTENT_BYTES, 0))


def _first_line(content: bytes) -> bytes:
    return content[:CONTENT_BYTES].split(b"\n", 1)[0].rstrip()


def _replace_content(fd: int, content: bytes) -> None:
    # The length never changes, because ftruncate waits for the disk on some file systems.
    os.pwrite(fd, content[: CONTENT_BYTES - 1].ljust(CONTENT_BYTES - 1) + b"\n", 0)


_held: set[_Locked] = set()
"""The locks of this process whose descriptors are open."""

_fork_lock = threading.RLock()
"""Prevents a fork while a descriptor is opened or closed and `_held` is not yet changed."""


def _let_go_in_child() -> None:
    """Close the copies of the parent's descriptors in a forked child; the parent keeps the locks."""
    for lock in tuple(_held):
        lock._close()  # noqa: SLF001  # not release, which may write
    _fork_lock.release()


os.register_at_fork(
    before=_fork_lock.acquire, after_in_parent=_fork_lock.release, after_in_child=_let_go_in_child
)
