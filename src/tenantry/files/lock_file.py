"""A file that one process, or one registry of a process, holds locked at a time; the kernel releases it with the process.

The lock is ``flock`` (flock(2)). A forked child closes its copies at once, or a lock would last as long as the child. The
file carries one line of content: who holds it, for whoever is refused, or what its last holder left behind.
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
"""How long a held lock may have no name before it counts as held."""

_NAMELESS_LOOKS: Final = 50
_FILE_MODE: Final = 0o600
CONTENT_BYTES: Final = 128  # one width, so that replacing it needs no truncation
_HOST: Final = socket.gethostname()


class LockHeldError(Exception):
    """Somebody else holds it.

    Attributes:
        pid: The holder's process id; None while it has not written its name yet.
        host: Its host, None likewise.
    """

    def __init__(self, content: bytes) -> None:
        self.pid, self.host = read_holder(content)
        super().__init__(f"held by process {self.pid or 'unknown'} on {self.host or 'this host'}")


class LockFile:
    """A lock, not yet taken. Its methods block for moments, but never for the lock.

    Args:
        path: The file; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds it."""
        return self._fd is not None

    def fileno(self) -> int:
        """Return the descriptor of the file; the lock is held."""
        assert self._fd is not None
        return self._fd

    def acquire(self, *, may_make: bool = True, is_named: bool = True) -> bytes:
        """Take the lock, write this process's name into it, and return the content that was there.

        Args:
            may_make: Whether a missing file is made.
            is_named: Whether the name is written. Without it, for a moment: a caller that finds a held lock without a name looks
                again for `NAMELESS_SECONDS_MAX`.

        Raises:
            LockHeldError: Somebody else holds it.
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
        """Give the lock back; a no-op when it is not held.

        Args:
            content: What to leave behind; on a full disk nothing is, and the holder's name stays.
        """
        fd = self._fd
        if fd is None:
            return
        try:
            if content is not None:
                with contextlib.suppress(OSError):
                    _replace_content(fd, content)
        finally:
            with _fork_lock:
                self._fd = None
                _held.discard(self)
                os.close(fd)  # and no LOCK_UN: in a forked child that would unlock the parent's

    def read(self) -> bytes:
        """Return the content, of whoever holds it; nothing if there is no file."""
        try:
            return _first_line(self.path.read_bytes())
        except OSError:
            return b""

    def remove(self) -> None:
        """Remove the file while the lock is held, and give the lock back; a file that cannot be removed stays."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self.release()

    def _write_name(self, fd: int, *, is_new: bool) -> None:
        try:
            _replace_content(fd, json.dumps({"pid": os.getpid(), "host": _HOST}).encode("utf-8"))
        except OSError:
            if is_new:  # on a full disk, say: nobody would ever know whose it was
                self.remove()
            raise

    def _locked(self, *, may_make: bool) -> int:
        """Return a locked descriptor of the file that is at the path now: a lock on a removed file locks nobody out."""
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
                    # Its holder is about to write its name, or looks whether it is abandoned.
                    looks_left -= 1
                    time.sleep(NAMELESS_SECONDS_MAX / _NAMELESS_LOOKS)
            else:
                if is_at(fd, self.path):
                    return fd
            self.release()

    def _opened(self, *, may_make: bool) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if may_make else 0)
        with _fork_lock:
            self._fd = fd = os.open(self.path, flags, _FILE_MODE)
            _held.add(self)
        return fd


def remove_abandoned(directory: Path) -> None:
    """Remove the lock files in a directory whose holders have died, also those that died before they wrote their name.

    Raises:
        OSError: The directory cannot be listed.
    """
    for path in list(directory.iterdir()):
        lock = LockFile(path)
        with contextlib.suppress(LockHeldError, OSError):
            # Its holder may have ended meanwhile: made anew, it would be in the way of the next one.
            lock.acquire(may_make=False, is_named=False)
            lock.remove()


def lock_error(path: Path, error: OSError) -> PersistenceError:
    """Return what a caller is told of a lock file that cannot be opened or written."""
    if is_full(error):
        return StorageFullError(f"cannot lock {path} ({error}): free space on the disk")
    return PersistenceConnectionError(f"cannot lock {path}: {error}")


def read_holder(content: bytes) -> tuple[int | None, str | None]:
    """Return the process id and the host that a lock's content names; None where it names nobody."""
    try:
        holder = json.loads(content)
        return int(holder["pid"]), str(holder["host"])
    except (ValueError, TypeError, KeyError):
        return None, None  # The holder took the lock a moment ago and has not written its name yet.


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
    # Not a byte longer or shorter than before: ftruncate waits for the disk on some file systems.
    os.pwrite(fd, content[: CONTENT_BYTES - 1].ljust(CONTENT_BYTES - 1) + b"\n", 0)


_held: set[LockFile] = set()
"""Those of this process that have their file open."""

_fork_lock = threading.RLock()
"""Keeps a fork from falling between a descriptor's opening or closing and its note in `_held`."""


def _let_go_in_child() -> None:
    """Close the copies that a forked child has of its parent's locks, which stay locked."""
    for lock in tuple(_held):
        lock.release()
    _fork_lock.release()


os.register_at_fork(
    before=_fork_lock.acquire, after_in_parent=_fork_lock.release, after_in_child=_let_go_in_child
)
