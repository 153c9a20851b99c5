"""One process owns a tenant's file: a lock that the kernel releases, and an epoch that fences off a past owner.

The lock is ``flock`` on a file beside the database, held while the store is open. It ends with the process, however that
ends; a forked child closes its copy at once, or the lock would last as long as the child (flock(2)). Its content names
the holder for the error that others get, and is replaced by ``released`` on a clean close.

A lock can be lost without its holder noticing (someone removed the file, a file system forgot it). So the database
carries an epoch and its owner's token, compared in every write transaction: an owner that was replaced cannot write.
The epoch is raised at once when the last owner did not close cleanly and may still be alive; otherwise with the first
write, in that write's own transaction, so that a tenant that is only read costs no commit.
"""

import fcntl
import itertools
import json
import os
import socket
import sqlite3
import threading
import uuid
from pathlib import Path
from typing import Final

from tenantry.errors import DatabaseCorruptError, PersistenceConnectionError, TenantOwnedElsewhereError

_LOCK_FILE_MODE = 0o600
_CONTENT_BYTES = 128  # one width, so that replacing it needs no truncation
_RELEASED = b"released"
_OWNER_TOKENS = (f"{uuid.uuid4().hex}-{number}" for number in itertools.count())
_HOST = socket.gethostname()

_CREATE = """
CREATE TABLE IF NOT EXISTS tenantry_owner (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    tenant_uid TEXT    NOT NULL,  -- the catalog's key of the tenant: a file in the wrong place is found out
    epoch      INTEGER NOT NULL,  -- raised by every owner that writes
    owner      TEXT    NOT NULL   -- that owner's token
) STRICT
"""
_INSERT = "INSERT OR IGNORE INTO tenantry_owner (id, tenant_uid, epoch, owner) VALUES (1, ?, 0, '')"
OWNER_SQL: Final = "SELECT tenant_uid, epoch, owner FROM tenantry_owner WHERE id = 1"
_SELECT_OWNER = "SELECT epoch, owner FROM tenantry_owner WHERE id = 1"
_RAISE = "UPDATE tenantry_owner SET epoch = epoch + 1, owner = ? WHERE id = 1"


class FileOwnership:
    """Ownership of one tenant's database file. Its methods run on the writer's thread.

    Args:
        lock_path: The lock file.
        tenant_uid: What the database must say it belongs to.
        tenant_id: The tenant's id, for errors.
    """

    def __init__(self, lock_path: Path, tenant_uid: str, tenant_id: str) -> None:
        self._lock_path = lock_path
        self._tenant_uid = tenant_uid
        self._tenant_id = tenant_id
        self._lock_fd: int | None = None
        self._token = next(_OWNER_TOKENS)
        self._seen: tuple[int, str] = (0, "")
        self._is_fenced = False

    @property
    def is_fenced(self) -> bool:
        """Whether no past owner can write: it closed cleanly, or the epoch was raised since."""
        return self._is_fenced

    def acquire(self) -> None:
        """Take the lock, or say who holds it.

        Raises:
            TenantOwnedElsewhereError: Another process, or another registry of this one, holds it.
            PersistenceConnectionError: The lock file cannot be opened.
        """
        try:
            fd = self._locked()
            self._is_fenced = _read_content(fd) == _RELEASED
            _replace_content(fd, json.dumps({"pid": os.getpid(), "host": _HOST}).encode("utf-8"))
        except OSError as error:
            self.release(is_clean=False)
            raise PersistenceConnectionError(f"cannot lock {self._lock_path}: {error}") from error
        except BaseException:
            self.release(is_clean=False)
            raise

    def release(self, *, is_clean: bool = True) -> None:
        """Give the lock back; a no-op when it is not held."""
        fd = self._lock_fd
        if fd is None:
            return
        try:
            # Never for an owner that closes before it could fence off one that may still be alive.
            if is_clean and self._is_fenced:
                _replace_content(fd, _RELEASED)
        except OSError:
            pass  # On a full disk, say. The next owner takes this one for one that did not close, and raises the epoch.
        finally:
            with _fork_lock:
                self._lock_fd = None
                _holders.discard(self)
                os.close(fd)  # and no LOCK_UN: in a forked child that would unlock the parent's

    def claim(self, connection: sqlite3.Connection) -> None:
        """Check that the open database is this tenant's, and fence off an owner that did not close cleanly.

        Raises:
            DatabaseCorruptError: It belongs to another tenant; it was not changed.
        """
        try:
            uid, epoch, owner = connection.execute(OWNER_SQL).fetchone() or (None, 0, "")
        except sqlite3.OperationalError:
            if _has_owner_table(connection):
                raise
            self._raise_epoch(connection, is_new=True)
            return
        self.recognize(uid, epoch, owner)
        if not self._is_fenced:
            self._raise_epoch(connection, is_new=False)

    def recognize(self, uid: str | None, epoch: int, owner: str) -> None:
        """Check that what `OWNER_SQL` gave is this tenant's, and remember who wrote last.

        Raises:
            DatabaseCorruptError: It belongs to another tenant.
        """
        if uid != self._tenant_uid:
            raise DatabaseCorruptError(
                f"{self._lock_path.parent} holds the database of another tenant (its mark is {uid!r}, not "
                f"{self._tenant_uid!r}): put the right file in its place"
            )
        self._seen = (epoch, owner)

    def guard(self, connection: sqlite3.Connection) -> None:
        """Check, first thing in a write transaction, that nobody else became the owner.

        Raises:
            TenantOwnedElsewhereError: Someone did; this process must not write any more.
        """
        row = connection.execute(_SELECT_OWNER).fetchone()
        if row is not None and row[1] == self._token:
            return
        if row != self._seen:
            raise self._owned_elsewhere(self._read_holder())
        # If this transaction fails the row is as it was, and the next one raises the epoch again.
        connection.execute(_RAISE, (self._token,))

    def _raise_epoch(self, connection: sqlite3.Connection, *, is_new: bool) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if is_new:
                connection.execute(_CREATE)
                connection.execute(_INSERT, (self._tenant_uid,))
            connection.execute(_RAISE, (self._token,))
            connection.execute("COMMIT")
            self._is_fenced = True
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _locked(self) -> int:
        """Return a locked descriptor of the file that is at the path now: a lock on a removed file locks nobody out."""
        while True:
            fd = self._opened()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._owned_elsewhere(_read_content(fd)) from error
            if _is_at(fd, self._lock_path):
                return fd
            self.release(is_clean=False)

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with _fork_lock:
            self._lock_fd = fd = os.open(self._lock_path, flags, _LOCK_FILE_MODE)
            _holders.add(self)
        return fd

    def _read_holder(self) -> bytes:
        try:
            return _first_line(self._lock_path.read_bytes())
        except OSError:
            return b""

    def _owned_elsewhere(self, content: bytes) -> TenantOwnedElsewhereError:
        try:
            holder = json.loads(content)
            pid, host = int(holder["pid"]), str(holder["host"])
        except (ValueError, TypeError, KeyError):
            pid, host = None, None  # The holder took the lock a moment ago and has not written its name yet.
        return TenantOwnedElsewhereError(
            f"tenant {self._tenant_id!r} is open in process {pid or 'unknown'} on {host or 'this host'}: close it there",
            tenant_id=self._tenant_id,
            pid=pid,
            host=host,
        )


def _has_owner_table(connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'tenantry_owner'"
    return connection.execute(query).fetchone() is not None


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _read_content(fd: int) -> bytes:
    return _first_line(os.pread(fd, _CONTENT_BYTES, 0))


def _first_line(content: bytes) -> bytes:
    return content[:_CONTENT_BYTES].split(b"\n", 1)[0].rstrip()


def _replace_content(fd: int, content: bytes) -> None:
    # Not a byte longer or shorter than before: ftruncate waits for the disk on some file systems.
    os.pwrite(fd, content[: _CONTENT_BYTES - 1].ljust(_CONTENT_BYTES - 1) + b"\n", 0)


_holders: set[FileOwnership] = set()
"""Those of this process that have a lock file open."""

_fork_lock = threading.RLock()
"""Keeps a fork from falling between a descriptor's opening or closing and its note in `_holders`."""


def _let_go_in_child() -> None:
    """Close the copies that a forked child has of its parent's locks, which stay locked."""
    for ownership in tuple(_holders):
        ownership.release(is_clean=False)
    _fork_lock.release()


os.register_at_fork(
    before=_fork_lock.acquire, after_in_parent=_fork_lock.release, after_in_child=_let_go_in_child
)
