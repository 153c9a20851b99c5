"""The seam between tenancy and a database: what a `Backend`, a `Store` and a `ClosedDatabase` are.

A `Backend` keeps the databases of all tenants of a registry, and the catalog. An open tenant has a `Store`: its database
behind a few calls that take whole batches. A `ClosedDatabase` is what may be done to a tenant's database while nobody has it open.
Whatever the back end is, a copy of a tenant's database is one SQLite file (`tenantry.storage.artifacts`).
"""

from collections.abc import Awaitable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from tenantry.config import Durability
from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.ids import TenantId
from tenantry.limits import TenantLimits
from tenantry.schemas.migration import Migration
from tenantry.schemas.schema import Schema
from tenantry.sql.statements import Result, Statement

Request: TypeAlias = tuple[Statement, ...]
"""One caller's unit: all of its statements take effect, or none."""

WriteOutcome: TypeAlias = list[Result] | TenantryError
"""One result for each statement of the request, or why nothing of it was kept."""

ReadOutcome: TypeAlias = Result | TenantryError
"""What the statement's `Fetch` says, or why it failed."""


ChangeToken: TypeAlias = tuple[int, ...]
"""Stands for what a database held at one moment; see `Store.change_token`."""


class KeyedRequest(tuple[Statement, ...]):  # noqa: SLOT001  # a tuple's subclass can have no slots of its own
    """A unit that takes effect once for its key, however often it is sent.

    Its results are kept with the key, in the transaction that the unit runs in. The same unit with the same key again gives
    those results and writes nothing; another unit with that key fails with `IdempotencyConflictError`. A unit that fails had no
    effect, so nothing is kept and it runs again when it is sent again.

    Attributes:
        key: What names it among all units of the database.
        payload_hash: What tells it from another unit.
        now: When it was sent.
        kept_since: A key of this instant or before has expired, and is as if it had never been.
    """

    key: str
    payload_hash: bytes
    now: datetime
    kept_since: datetime

    def __new__(
        cls,
        statements: Iterable[Statement],
        *,
        key: str,
        payload_hash: bytes,
        now: datetime,
        kept_since: datetime,
    ) -> Self:
        """Make it of the unit's statements."""
        request = super().__new__(cls, statements)
        request.key = key
        request.payload_hash = payload_hash
        request.now = now
        request.kept_since = kept_since
        return request


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What `Store.migrate` did.

    Attributes:
        applied: The migrations that were applied now, in order.
        versions: The version that each schema is at.
    """

    applied: tuple[Migration, ...]
    versions: dict[str, int]


class StoreTransaction(Protocol):
    """An open transaction over several calls; it holds the store's writer."""

    async def write(self, request: Request) -> WriteOutcome:
        """Run one unit inside the transaction; a failed unit is undone alone.

        Raises:
            TransactionClosedError: The transaction has ended; it never turns into autocommit.
        """

    async def read(self, statement: Statement) -> ReadOutcome:
        """Run one reading statement inside the transaction.

        Raises:
            TransactionClosedError: The transaction has ended.
        """

    async def commit(self) -> None:
        """Commit, durably.

        Raises:
            PersistenceError: It was not committed; the transaction is rolled back.
            TransactionClosedError: It had ended before.
        """

    async def rollback(self) -> None:
        """Undo everything; does nothing if the transaction has ended."""


@runtime_checkable
class Store(Protocol):
    """One tenant's database. It knows no tenant state and no pool.

    `write` may be called by one caller at a time or by many: units never mix. A read that starts after a write was
    answered sees that write.
    """

    @property
    def backend(self) -> str:
        """``sqlite`` or ``postgres``: the `backend` label of metrics and the directory of migrations."""

    @property
    def is_connected(self) -> bool:
        """Whether `connect` succeeded and `disconnect` has not."""

    async def connect(self) -> None:
        """Open the database; a no-op when it is open. A failure half way leaves nothing open.

        Raises:
            PersistenceConnectionError: It cannot be opened.
            DatabaseCorruptError: The file is no database, or another tenant's; it was not changed.
            TenantOwnedElsewhereError: Another owner has it open.
        """

    async def disconnect(self) -> None:
        """Close the database, the writer last; a no-op when it is closed.

        Raises:
            PersistenceConnectionError: It would not close; it is still held and can be closed again.
        """

    async def health_check(self) -> bool:
        """Return whether the database answers a query."""

    async def migrate(self) -> MigrationReport:
        """Apply the pending migrations, each in a transaction with its version number.

        Raises:
            MigrationError: A step failed and left the file as it was, or file and code disagree.
            PersistenceConnectionError: Not connected.
        """

    def write(self, requests: Sequence[Request]) -> Awaitable[list[WriteOutcome]]:
        """Run the requests in one transaction, commit it durably, and give one outcome for each.

        One request's failure is that request's alone. A store that can begin at once gives a future. Cancelling what is
        given interrupts the batch: all of it is kept, or nothing.

        Raises:
            PersistenceConnectionError: Not connected.
        """

    def read(self, statements: Sequence[Statement]) -> Awaitable[list[ReadOutcome]]:
        """Run reading statements together and give one outcome for each; like `write`, cancelled and begun.

        Raises:
            PersistenceConnectionError: Not connected.
        """

    async def apply_limits(self, *, database_bytes_max: int | None, durability: Durability) -> None:
        """Apply limits to every write that begins afterwards; waits for an open transaction.

        Args:
            database_bytes_max: How large the database may grow; a write that needs more fails with `StorageFullError`. A database
                that is already larger can be read, and written if that needs no more space.
            durability: When a commit counts as done.

        Raises:
            PersistenceError: They could not be applied; call again.
        """

    async def check_integrity(self, *, is_thorough: bool = False) -> None:
        """Look for damage in the whole database, beside its reads and writes, which do not wait for it.

        Args:
            is_thorough: Whether indexes are compared with their tables too.

        Cancellation interrupts it.

        Raises:
            DatabaseCorruptError: It is damaged; the message says where.
            PersistenceConnectionError: Not connected, or disconnected meanwhile.
        """

    def change_token(self) -> ChangeToken | None:
        """Return a token that changes with every commit, also with those of other processes.

        So what was read after a token was returned holds for as long as the same token is returned. It costs no statement.

        Returns:
            None if a commit might not change the token now, because the last one was a moment ago, or the back end cannot tell.
        """

    async def changes_by_others(self) -> int:
        """Return a number that changes when somebody else has committed: another process, or another store on the database.

        What this store commits does not change the number. A store that was connected again may begin with another number.

        Raises:
            PersistenceConnectionError: Not connected.
            PersistenceError: The database cannot be read.
        """

    async def begin(self) -> StoreTransaction:
        """Open a transaction over several calls; writes wait until it ends.

        Raises:
            PersistenceError: It could not be begun.
        """

    async def copy_to(self, path: Path) -> None:
        """Write a consistent copy of the database, the state of one moment, into a new file, durably.

        Writes and reads go on meanwhile. Cancellation waits for the end of it. A disconnect ends it.

        Raises:
            SnapshotError: The database was disconnected meanwhile; no file is left.
            PersistenceError: It cannot be read, or the file cannot be written; no file is left.
        """


class Capability(StrEnum):
    """What a back end can do beyond the contract."""

    BYTE_LIMIT = "byte_limit"
    """A tenant's database has a size limit, see `TenantLimits.database_bytes_max`."""
    COMPACT = "compact"
    """An archived tenant's unused space is given back."""
    REPAIR = "repair"
    """Damaged indexes are built anew."""
    ATOMIC_MIGRATIONS = "atomic_migrations"
    """A migration that fails leaves nothing behind."""
    SHARED = "shared"
    """Several processes may have a tenant open."""


class Place(NamedTuple):
    """Where a tenant's database is.

    Attributes:
        tenant_id: The tenant's present id, for messages.
        uid: Its stable key, which the database carries too.
        location: The back end's own name for the place: a directory, or a schema. It never changes.
    """

    tenant_id: TenantId
    uid: str
    location: str


class LockTakenError(Exception):
    """Somebody else holds the lock."""


@dataclass(frozen=True, slots=True)
class BackendReport:
    """What a back end runs on, for people and for the version route."""

    backend: str
    version: str


class ClosedDatabase(Protocol):
    """A tenant's database while nobody has it open. Every method can be repeated after a crash."""

    async def exists(self) -> bool:
        """Return whether there is a database. What this says holds after a power failure too."""

    async def check(self, *, is_thorough: bool) -> None:
        """Look for damage and change nothing.

        Args:
            is_thorough: Whether indexes are compared with their tables too.

        Raises:
            DatabaseCorruptError: It is damaged or missing.
        """

    async def is_damaged(self) -> bool:
        """Look once more, past every cache, whether the database is damaged: a disk that failed for a moment looks like damage too.

        Raises:
            PersistenceError: The disk cannot read it, or the check took too long.
        """

    async def compact(self) -> None:
        """Give back the space of deleted rows, where the back end can.

        Raises:
            StorageFullError: It would leave too little space to those who write; the database is as it was.
            PersistenceError: The database is as it was.
        """

    async def repair(self) -> None:
        """Check the database thoroughly, and build its indexes anew if that is all that is wrong with it.

        Raises:
            DatabaseCorruptError: It is damaged beyond that.
            PersistenceError: It cannot be repaired for another reason.
        """

    async def check_repairable(self) -> None:
        """Raise if the database seems to be put together from parts of two, which a repair would mix for good.

        Raises:
            DatabaseCorruptError: It seems so; nothing was changed.
        """

    async def keep(self, point: str, *, is_as_found: bool) -> None:
        """Keep the database as the restore point, before `exchange`; a no-op after it.

        Args:
            point: The restore point's name.
            is_as_found: Whether it is kept exactly as it is, though it may be damaged, rather than put in order first.

        Raises:
            SnapshotError, PersistenceError: It cannot be kept; nothing was exchanged.
        """

    async def exchange(self, point: str) -> None:
        """Put the database that was staged for the restore point in this one's place, in one step; a no-op when it is there."""

    async def remove(self) -> None:
        """Remove the database and its restore points, durably; a missing one is not an error.

        Raises:
            DataDirectoryError: It cannot be removed.
        """


class RestorePoints(Protocol):
    """The databases that restores of one tenant have replaced, and the one that is about to replace it.

    A restore stages a database, writes its intent, and then exchanges the two (`ClosedDatabase.keep`, `ClosedDatabase.exchange`).
    """

    async def names(self) -> Sequence[str]:
        """Return the names of the restore points, oldest first."""

    async def exists(self, point: str) -> bool:
        """Return whether this one is there."""

    async def copy_to(self, point: str, path: Path) -> None:
        """Write what is kept into a new file, and check the copy.

        Raises:
            DatabaseCorruptError: It is damaged; it stays as it is.
            SnapshotError: It cannot be copied.
        """

    async def remove(self, point: str) -> None:
        """Remove one; a missing one is not an error.

        Raises:
            SnapshotError: It cannot be removed.
        """

    async def remove_old(self, newest: str, *, latest: str, kept_max: int) -> None:
        """Remove the oldest ones.

        Args:
            newest: The one that was just made, which stays.
            latest: Points whose names sort after this are dated in the future: they neither count nor go.
            kept_max: How many stay.
        """

    async def stage(self, point: str, path: Path) -> None:
        """Put a durable file that `Backend.prepare` made ready beside the tenant's database; it replaces what was staged before.

        Raises:
            SnapshotError, StorageFullError: It cannot be put there.
        """

    async def unstage(self, point: str) -> bool:
        """Take back what was done for a restore that has not exchanged the databases; return False if it has."""

    async def has_begun(self, point: str) -> bool:
        """Return whether anything was staged or kept for a restore."""


class Backend(Protocol):
    """Keeps the databases of all tenants of a registry, and its catalog."""

    @property
    def dialect(self) -> str:
        """The name of its SQL and of the directories of migrations: ``sqlite``, ``postgres``."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do beyond the contract."""

    async def open(self) -> None:
        """Check that it can be used, and take what all tenants share, such as threads or connections. It makes the data directory.

        Raises:
            DataDirectoryError: Its place cannot be used; the message says what to change.
            MigrationError: Two schema packs make an object of one name.
            PersistenceConnectionError: It cannot be reached, or the process may not open as many files as it needs.
        """

    async def aclose(self) -> None:
        """Give back what `open` took; idempotent. Every store is disconnected before."""

    def abandon(self) -> None:
        """Give back what `open` took, of a registry that was lost without being closed; from any thread, without waiting."""

    def catalog(self, schema: Schema, *, log: EventLog) -> Store:
        """Return the store of the catalog, not connected."""

    def store(self, place: Place, *, limits: TenantLimits, log: EventLog, is_new: bool = False) -> Store:
        """Return the store of a tenant, not connected.

        Args:
            place: Where its database is.
            limits: What it may use.
            log: Bound to the tenant.
            is_new: Whether a missing database is made, rather than an error.
        """

    async def new_location(self, tenant_id: TenantId, taken: Collection[str]) -> str:
        """Return a location for a new tenant.

        Args:
            tenant_id: The new tenant's id.
            taken: The locations of this id, or of this id with a suffix, that the catalog knows.

        Raises:
            DataDirectoryError: Something that no tenant of the catalog owns is there.
        """

    def exclusive(
        self, place: Place, *, is_waited_for: bool = True
    ) -> AbstractAsyncContextManager[ClosedDatabase]:
        """Keep everybody else out of a tenant's database that is closed here, for the block.

        Another process that has it open closes it when it sees the change in the catalog that the operation made first.

        Args:
            place: Where the database is.
            is_waited_for: Whether that is waited for, ``call_timeout_seconds`` at most.

        Raises:
            TenantOwnedElsewhereError: The other process has it open.
            PersistenceConnectionError: It cannot be locked.
        """

    def lock(self, name: str) -> AbstractAsyncContextManager[None]:
        """Hold a lock of this name among all processes, until the block or the process ends.

        Raises:
            LockTakenError: Somebody else holds it.
            PersistenceConnectionError, StorageFullError: It cannot be taken.
        """

    async def closed_versions(self, place: Place) -> dict[str, int] | None:
        """Return the version of each schema in a database that nobody has open, in passing; None if that cannot be told so."""

    async def size_bytes(self, place: Place) -> int:
        """Return how large the tenant's database is."""

    def may_be_transient(self, error: BaseException) -> bool:
        """Return whether an error that says damage may come from a disk that failed for a moment; see `ClosedDatabase.is_damaged`."""

    async def prepare(self, path: Path) -> dict[str, int]:
        """Migrate a copy of a tenant's database to what the code knows, and return the version of each schema.

        A copy that was migrated is checked afterwards. That it was sound before is for its caller to check.

        Args:
            path: The copy, which is changed. It may come from a storage that others can write.

        Raises:
            MigrationError: It is newer than the code, or a migration fails.
            DatabaseCorruptError: It is not a database, or a migration left it damaged.
            SnapshotError: It took too long.
        """

    async def adopt(self, place: Place, path: Path) -> None:
        """Make a prepared copy the database of a tenant that has none yet, durably.

        Raises:
            SnapshotError: It cannot be put there.
        """

    def points(self, place: Place) -> RestorePoints:
        """Return the restore points of a tenant."""

    async def report(self) -> BackendReport:
        """Return what it runs on."""
