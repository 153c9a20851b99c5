"""Makes one process the owner of a tenant's file, with a lock that the kernel releases and an epoch that fences off a past owner.

The lock is a `LockFile` beside the database. A store holds the lock while the store is open. The lock file names the holder, so that
the errors in other processes can name the holder too. A clean close replaces the holder's name with ``released``.

A holder can lose its lock without noticing, if the lock file was removed or a network file system lost the lock. So the database
contains an epoch and the owner's token. Every write transaction compares the epoch and the token, so a replaced owner cannot write.
A new owner raises the epoch immediately if the last owner did not close cleanly and may still be alive. Otherwise the new owner
raises the epoch in the transaction of its first write, and a tenant that is only read needs no commit.
"""

import itertools
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from tenantry.errors import DatabaseCorruptError, TenantOwnedElsewhereError
from tenantry.files.lock_file import Holder, LockFile, LockHeldError, lock_error, read_holder
from tenantry.storage.sqlite.database_files import log_note

T = TypeVar("T")

_RELEASED = b"released"
_OWNER_NUMBERS = itertools.count()
_process_name = os.urandom(16).hex()
"""The beginning of the tokens of this process's owners, which no other process has."""

CREATE_SQL = """
CREATE TABLE IF NOT EXISTS tenantry_owner (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    tenant_uid TEXT    NOT NULL,  -- the tenant's key in the catalog, which detects a file in the wrong place
    epoch      INTEGER NOT NULL,  -- raised by every owner that writes
    owner      TEXT    NOT NULL   -- that owner's token
) STRICT
"""
_INSERT = "INSERT OR IGNORE INTO tenantry_owner (id, tenant_uid, epoch, owner) VALUES (1, ?, 0, '')"
OWNER_SQL: Final = "SELECT tenant_uid, epoch, owner FROM tenantry_owner WHERE id = 1"
_SELECT_OWNER = "SELECT epoch, owner FROM tenantry_owner WHERE id = 1"
_RAISE = "UPDATE tenantry_owner SET epoch = epoch + 1, owner = ? WHERE id = 1"


class FileOwnership:
    """Ownership of one tenant's database file. All methods run on the writer's thread."""

    def __init__(
        self, lock_path: Path, tenant_uid: str, tenant_id: str, *, socket_name: str | None = None
    ) -> None:
        self._lock = LockFile(lock_path, socket_name=socket_name)
        self._tenant_uid = tenant_uid
        self._tenant_id = tenant_id
        self._token = f"{_process_name}-{next(_OWNER_NUMBERS)}"
        self._seen: tuple[int, str] = (0, "")
        self._is_fenced = False

    @property
    def token(self) -> str:
        """The owner's token, which is in the database after this owner's first write."""
        return self._token

    @property
    def is_fenced(self) -> bool:
        """True if no past owner can write: the last owner closed cleanly, or the epoch was raised."""
        return self._is_fenced

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            TenantOwnedElsewhereError: Another process, or another registry of this process, holds the lock.
            PersistenceConnectionError: The lock file cannot be opened.
        """
        try:
            self._is_fenced = self._lock.acquire() == _RELEASED
        except LockHeldError as error:
            raise self._owned_elsewhere(Holder(error.pid, error.host, error.socket_name)) from error
        except OSError as error:
            raise lock_error(self._lock.path, error) from error

    @property
    def tenant_uid(self) -> str:
        """The tenant's key in the catalog, which the file must name."""
        return self._tenant_uid

    @property
    def seen(self) -> tuple[int, str]:
        """The epoch and the token of the last owner, as they were when the file was opened."""
        return self._seen

    def lock_fileno(self) -> int:
        """Return the descriptor of the lock file; the lock must be held."""
        return self._lock.fileno()

    @property
    def lock_path(self) -> Path:
        """The path of the lock file."""
        return self._lock.path

    @property
    def holder_name(self) -> bytes:
        """This process's name for the lock file."""
        return self._lock.holder_name

    def take_lock(self, pass_on: Callable[[], int]) -> None:
        """Take over a lock that was acquired after the last owner closed cleanly; see `LockFile.take`."""
        self._lock.take(pass_on)
        self._is_fenced = True

    def pass_lock_on(self, take: Callable[[int], T]) -> T | None:
        """Pass the lock on to who releases it cleanly; None if this owner must release the lock. See `LockFile.pass_on`."""
        return self._lock.pass_on(take) if self._lock.is_held and self._is_fenced else None

    def release(self, *, is_clean: bool = True) -> None:
        """Release the lock; a no-op if the lock is not held."""
        # A release is not clean until this owner has fenced off past owners that may still be alive. If a full disk prevents
        # writing "released", the next owner assumes that this owner did not close cleanly, and raises the epoch.
        self._lock.release(_RELEASED if is_clean and self._is_fenced else None)

    def claim(self, connection: sqlite3.Connection, noted: Path | None = None) -> None:
        """Fence off an owner that did not close cleanly; raise `DatabaseCorruptError` if the database belongs to another tenant.

        `noted` is the database file if the database has no log yet; this method then writes the file's note.
        """
        try:
            uid, epoch, owner = connection.execute(OWNER_SQL).fetchone() or (None, 0, "")
        except sqlite3.OperationalError:
            if _has_owner_table(connection):
                raise
            if noted is not None:
                self.note(noted)
            self._raise_epoch(connection, is_new=True)
            return
        self.recognize(uid, epoch, owner)
        if noted is not None:
            self.note(noted)
        if not self._is_fenced:
            self._raise_epoch(connection, is_new=False)

    def check_log(self, database: Path) -> None:
        """Raise `DatabaseCorruptError` if the log of a killed owner belongs to another database; the caller holds the lock."""
        log_note.check_fits(self._lock.path, database)

    def note(self, database: Path) -> None:
        """Write the database's note before the database gets a new log; see `tenantry.storage.sqlite.database_files.log_note`."""
        log_note.note_database(self._lock.fileno(), database, self._seen[0])

    def recognize(self, uid: str | None, epoch: int, owner: str) -> None:
        """Store the last owner from a row of `OWNER_SQL`; raise `DatabaseCorruptError` if the row names another tenant."""
        if uid != self._tenant_uid:
            raise DatabaseCorruptError(
                f"{self._lock.path.parent} contains the database of another tenant (with the key {uid!r} instead of "
                f"{self._tenant_uid!r}): put the right file there"
            )
        self._seen = (epoch, owner)

    def guard(self, connection: sqlite3.Connection) -> None:
        """Check the owner at the beginning of a write transaction; raise `TenantOwnedElsewhereError` if the owner is another process."""
        row = connection.execute(_SELECT_OWNER).fetchone()
        if row is not None and row[1] == self._token:
            return
        if row != self._seen:
            raise self._owned_elsewhere(read_holder(self._lock.read()))
        # If this transaction fails, the row is unchanged, and the next transaction raises the epoch.
        connection.execute(_RAISE, (self._token,))

    def _raise_epoch(self, connection: sqlite3.Connection, *, is_new: bool) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if is_new:
                connection.execute(CREATE_SQL)
                connection.execute(_INSERT, (self._tenant_uid,))
            connection.execute(_RAISE, (self._token,))
            connection.execute("COMMIT")
            self._is_fenced = True
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _owned_elsewhere(self, owner: Holder) -> TenantOwnedElsewhereError:
        pid, host, socket_name = owner
        if pid == os.getpid():
            where = (
                "in another registry of this process: use that registry, or close the tenant there; a registry that was lost "
                "without aclose() releases the tenant at its garbage collection"
            )
        elif socket_name is None:
            where = (
                f"in process {pid or 'unknown'} on {host or 'this host'}, which takes no calls of other processes: switch forwarding on "
                "there, or close the tenant there"
            )
        else:
            where = f"in process {pid or 'unknown'} on {host or 'this host'}: close the tenant there"
        return TenantOwnedElsewhereError(
            f"tenant {self._tenant_id!r} is open {where}",
            tenant_id=self._tenant_id,
            pid=pid,
            host=host,
            socket_name=socket_name,
        )


def _rename_child() -> None:
    """Give a forked child a name of its own, because it goes on with its parent's numbers."""
    global _process_name  # noqa: PLW0603  # of the process, like its number
    _process_name = os.urandom(16).hex()


os.register_at_fork(after_in_child=_rename_child)


def hand_over(connection: sqlite3.Connection, tenant_uid: str) -> None:
    """Assign a copied database, which no process uses, to another tenant."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(CREATE_SQL)
    connection.execute("DELETE FROM tenantry_owner")
    connection.execute(_INSERT, (tenant_uid,))
    connection.execute("COMMIT")


def _has_owner_table(connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'tenantry_owner'"
    return connection.execute(query).fetchone() is not None
