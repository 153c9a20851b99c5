"""A lock file, held by one process, or one registry in a process, at a time; the kernel releases it when the process ends.

The lock is ``flock`` (flock(2)). A forked child closes its copies at once, otherwise a lock would last as long as the child. The
file contains one line: the name of its holder, for the error of other processes, or a text that its last holder wrote.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Final

from tenantry.errors import PersistenceConnectionError, PersistenceError, StorageFullError
from tenantry.files.disk_space import is_full

NAMELESS_SECONDS_MAX: Final = 0.05
"""How long to wait for the holder's name before a held lock without a name is reported."""

_NAMELESS_LOOKS: Final = 50
_FILE_MODE: Final = 0o600
CONTENT_BYTES: Final = 128  # fixed, so that replacing the content needs no truncation
_HOST: Final = socket.gethostname()


class LockHeldError(Exception):
    """Another process, or another registry of this one, holds the lock.

    Attributes:
        pid: The holder's process id; None if it has not written its name yet.
        host: The holder's host, or None.
    """

    def __init__(self, content: bytes) -> None:
        self.pid, self.host = read_holder(content)
        super().__init__(f"held by process {self.pid or 'unknown'} on {self.host or 'this host'}")


class _Locked:
    """A descriptor that a lock is on, if it is open. A forked child closes its copy."""

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
                os.close(fd)  # no LOCK_UN: in a forked child it would release the parent's lock


class DirectoryLock(_Locked):
    """A lock on a directory itself, not held at first: many holders share it, or one has it alone.

    It makes no file, so it works on a full disk and leaves nothing behind. Its methods never wait for the lock.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def acquire(self, *, is_shared: bool) -> None:
        """Take the lock.

        Args:
            is_shared: Whether others may share it; otherwise there is no other holder.

        Raises:
            BlockingIOError: Another holder is in the way.
            OSError: The directory cannot be opened or locked.
        """
        fd = self._open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BaseException:
            self._close()
            raise

    def release(self) -> None:
        """Release the lock; a no-op if it is not held."""
        self._close()


class LockFile(_Locked):
    """A lock, not held at first. Its methods block for I/O, but never wait for the lock.

    Args:
        path: The file; created if it is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def fileno(self) -> int:
        """Return the descriptor of the file; the lock must be held."""
        assert self._fd is not None
        return self._fd

    def acquire(self, *, may_make: bool = True, is_named: bool = True) -> bytes:
        """Take the lock, write this process's name into it, and return the content that was there.

        Args:
            may_make: Whether a missing file is created.
            is_named: Whether the name is written. Without it the lock may only be held briefly: a caller that finds a held lock
                without a name tries again for `NAMELESS_SECONDS_MAX`.

        Raises:
            LockHeldError: It is held elsewhere.
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

    def release(self, content: bytes | None = None) -> None:
        """Release the lock; a no-op if it is not held.

        Args:
            content: The text to leave in the file; on a full disk it is not written, and the holder's name stays.
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
        """Return the content of the file; empty if there is no file."""
        try:
            return _first_line(self.path.read_bytes())
        except OSError:
            return b""

    def remove(self) -> None:
        """Remove the file while the lock is held, and release the lock; a file that cannot be removed stays."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self.release()

    def _write_name(self, fd: int, *, is_new: bool) -> None:
        try:
            _replace_content(fd, json.dumps({"pid": os.getpid(), "host": _HOST}).encode("utf-8"))
        except OSError:
            if is_new:  # for example on a full disk: the lock would be held without a name
                self.remove()
            raise

    def _locked(self, *, may_make: bool) -> int:
        """Return a locked descriptor of the file that is at the path now: a lock on a removed file has no effect."""
        looks_left = _NAMELESS_LOOKS
        while True:
            fd = self._opened(may_make=may_make)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if is_at(fd, self.path):
                    content = _read_content(fd)
                    if read_holder(content) != (None, None) or not looks_left:
                        raise LockHeldError(content) from error
                    # Its holder is about to write its name, or checks whether it is abandoned.
                    looks_left -= 1
                    time.sleep(NAMELESS_SECONDS_MAX / _NAMELESS_LOOKS)
            else:
                if is_at(fd, self.path):
                    return fd
            self.release()

    def _opened(self, *, may_make: bool) -> int:
        return self._open(self.path, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if may_make else 0))


def remove_abandoned(directory: Path) -> None:
    """Remove the lock files in a directory whose holders have died, also those that died before they wrote their name."""
    for path in list(directory.iterdir()):
        lock = LockFile(path)
        with contextlib.suppress(LockHeldError, OSError):
            # A file that was removed meanwhile must not be created again: it would be a leftover.
            lock.acquire(may_make=False, is_named=False)
            lock.remove()


def lock_error(path: Path, error: OSError) -> PersistenceError:
    """Return the error of a lock file that cannot be opened or written."""
    if is_full(error):
        return StorageFullError(f"cannot lock {path} ({error}): free space on the disk")
    return PersistenceConnectionError(f"cannot lock {path}: {error}")


def read_holder(content: bytes) -> tuple[int | None, str | None]:
    """Return the process id and the host in a lock's content; None for each that is missing."""
    try:
        holder = json.loads(content)
        return int(holder["pid"]), str(holder["host"])
    except (ValueError, TypeError, KeyError):
        return None, None  # The holder has not written its name yet.


def is_at(fd: int, path: Path) -> bool:
    """Return whether the open file is the one that is at the path now."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _read_content(fd: int) -> bytes:
    return _first_line(os.pread(fd, CONTENT_BYTES, 0))


def _first_line(content: bytes) -> bytes:
    return content[:CONTENT_BYTES].split(b"\n", 1)[0].rstrip()


def _replace_content(fd: int, content: bytes) -> None:
    # Always of the same length: ftruncate waits for the disk on some file systems.
    os.pwrite(fd, content[: CONTENT_BYTES - 1].ljust(CONTENT_BYTES - 1) + b"\n", 0)


_held: set[_Locked] = set()
"""The locks of this process whose descriptors are open."""

_fork_lock = threading.RLock()
"""Prevents a fork between the opening or closing of a descriptor and the change of `_held`."""


def _let_go_in_child() -> None:
    """Close the copies that a forked child has of its parent's locks, which stay locked."""
    for lock in tuple(_held):
        lock._close()  # noqa: SLF001  # not release, which may write
    _fork_lock.release()


os.register_at_fork(
    before=_fork_lock.acquire, after_in_parent=_fork_lock.release, after_in_child=_let_go_in_child
)
