"""The protocols between tenancy and a database: `Backend`, `Store` and `ClosedDatabase`.

A `Backend` keeps the databases of all tenants of a registry, and the catalog. A `Store` is the database of an open tenant;
its methods take batches. A `ClosedDatabase` has the operations on a tenant's database that no process has open. With
every back end, a copy of a tenant's database is one SQLite file (`tenantry.storage.artifacts`).
"""

from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from tenantry.config import Durability
from tenantry.errors import TenantOwnedElsewhereError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.files.lock_file import Holder
from tenantry.ids import TenantId
from tenantry.limits import TenantLimits
from tenantry.schemas.migration import Migration
from tenantry.schemas.schema import Schema
from tenantry.sql.statements import Fetch, Result, Statement
from tenantry.storage.moves import Original, Replica

Request: TypeAlias = tuple[Statement, ...]
"""The statements of one caller's unit: all of them take effect, or none."""

WriteOutcome: TypeAlias = list[Result] | TenantryError
"""One result for each statement of a request, or the error for which the request was rolled back."""

ReadOutcome: TypeAlias = Result | TenantryError
"""The statement's result as its `Fetch` defines it, or the statement's error."""


ChangeToken: TypeAlias = tuple[int, ...]
"""Represents the contents of a database at one moment; see `Store.change_token`."""


class KeyedRequest(tuple[Statement, ...]):  # noqa: SLOT001  # a tuple's subclass can have no slots of its own
    """A unit with an idempotency key. The unit takes effect once, even if it is sent several times.

    The unit's transaction also stores the unit's results with the key. If the same unit is sent again with the key, the stored
    results are returned and nothing is written. A different unit with the same key fails with `IdempotencyConflictError`. A unit
    that fails is rolled back and stores nothing, so a retry runs the unit again.

    Attributes:
        key: The unit's idempotency key, unique in the database.
        payload_hash: The hash that distinguishes the unit from other units.
        now: The time at which the unit was sent.
        kept_since: Keys that were stored at this time or earlier have expired, and are ignored.
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
        """Create the request from the unit's statements."""
        request = super().__new__(cls, statements)
        request.key = key
        request.payload_hash = payload_hash
        request.now = now
        request.kept_since = kept_since
        return request


class MarkedRequest(tuple[Statement, ...]):  # noqa: SLOT001  # a tuple's subclass can have no slots of its own
    """A unit that another process forwarded to this one. Its transaction also stores a mark: the unit's number and results.

    If the forwarding process loses the connection to the owner before it has the results, it sends the unit again with `is_repeated`, to
    this owner or to the next one. If the database has the unit's mark, the stored results are returned and nothing is written.

    Attributes:
        sender: The token of the process that forwarded the unit, 16 bytes.
        number: The number that the sender gave to the unit, unique for the sender.
        answered_to: The sender has the results of all its units of this tenant up to this number, so their marks can be removed.
        is_repeated: Whether the unit may have run before.
        is_look_up: Whether to look for the mark only. Without a mark, the outcome is `TransactionClosedError`.
    """

    sender: bytes
    number: int
    answered_to: int
    is_repeated: bool
    is_look_up: bool

    def __new__(
        cls,
        statements: Iterable[Statement],
        *,
        sender: bytes,
        number: int,
        answered_to: int,
        is_repeated: bool = False,
        is_look_up: bool = False,
    ) -> Self:
        """Create the request from the unit's statements."""
        request = super().__new__(cls, statements)
        request.sender = sender
        request.number = number
        request.answered_to = answered_to
        request.is_repeated = is_repeated
        request.is_look_up = is_look_up
        return request


LOOK_UP: Final = Statement("transaction", "SELECT 1", (), Fetch.ONE)
"""The statement of a request for the mark of a transaction."""


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """The report of `Store.migrate`.

    Attributes:
        applied: The migrations that this call applied, in order.
        versions: The version of each schema after the call.
    """

    applied: tuple[Migration, ...]
    versions: dict[str, int]


class StoreTransaction(Protocol):
    """An open transaction over several calls. Other writes to the store wait until the transaction ends."""

    async def write(self, request: Request) -> WriteOutcome:
        """Run one unit inside the transaction. If the unit fails, only the unit is rolled back.

        Raises:
            TransactionClosedError: The transaction has ended; the unit did not run.
        """

    async def read(self, statement: Statement) -> ReadOutcome:
        """Run one read-only statement inside the transaction.

        Raises:
            TransactionClosedError: The transaction has ended.
        """

    async def commit(self) -> None:
        """Commit the transaction durably.

        Raises:
            PersistenceError: The commit failed, and the transaction is rolled back.
            CallTimeoutError: The connection was lost during the commit, and it is not known whether the transaction was committed.
            TransactionClosedError: The transaction had ended before the call.
        """

    async def rollback(self) -> None:
        """Roll the transaction back; a no-op if the transaction has ended."""


@runtime_checkable
class Store(Protocol):
    """The database of one open tenant, or of the catalog. A store has no access to tenants' lifecycle states or to the pool.

    Several callers may call `write` at the same time: no unit runs in the middle of another unit. A read that starts after a
    write has returned sees that write.
    """

    @property
    def backend(self) -> str:
        """The back end's name, ``sqlite`` or ``postgres``, used as a metrics label and as the name of a migrations directory."""

    @property
    def is_connected(self) -> bool:
        """Whether the store is connected, from a successful `connect` until a successful `disconnect`."""

    async def connect(self, *, is_for_write: bool = False) -> None:
        """Open the database; a no-op if the database is open. After an error, nothing is left open.

        Args:
            is_for_write: Whether the first call is a write, for which a back end may open the database differently. Every call is
                possible either way.

        Raises:
            PersistenceConnectionError: The database cannot be opened.
            DatabaseCorruptError: The file is not a database, or belongs to another tenant; the file was not changed.
            TenantOwnedElsewhereError: Another owner has the database open.
            DatabaseMissingError: Several processes share the back end's databases, and this database is missing: another process may
                have moved or removed the database.
        """

    async def disconnect(self) -> None:
        """Close the database, the writer last; a no-op if the database is closed.

        Raises:
            PersistenceConnectionError: The database could not be closed. The database is still open; call `disconnect` again.
        """

    async def health_check(self) -> bool:
        """Return whether the database responds to a query."""

    async def migrate(self) -> MigrationReport:
        """Apply the pending migrations, each in a transaction with its version number.

        Raises:
            MigrationError: A migration failed and was rolled back, or the database does not match the code's migrations.
            PersistenceConnectionError: The store is not connected.
        """

    @property
    def write_batches_max(self) -> int:
        """The number of batches that may be given to `write` before the first has ended. They run one after the other, in order."""

    @property
    def shared_batch_requests_max(self) -> int:
        """The largest batch while other tenants are active, because they wait for the same disk and processors."""

    def claim_connection(self) -> bool:
        """Claim the connection that ran the store's last batch for the next batch, which follows soon; return whether it is free.

        Stores that share connections run a batch on this one much faster. A store that has run no batch, or shares no connections,
        returns true.
        """

    def write(self, requests: Sequence[Request]) -> Awaitable[list[WriteOutcome]]:
        """Run the requests in one transaction, commit the transaction durably, and return one outcome for each request.

        A failed request does not affect the other requests. A store that can start immediately returns a future. Cancelling the
        awaitable interrupts the batch: either the whole batch is committed, or nothing.

        Raises:
            PersistenceConnectionError: The store is not connected.
            TenantOwnedElsewhereError: Another owner has the database, and no unit had an effect. A unit's own outcome may be this
                error too; such a unit had no effect. The caller runs the units again on a store that is connected anew.
        """

    def read(self, statements: Sequence[Statement]) -> Awaitable[list[ReadOutcome]]:
        """Run read-only statements together, and return one outcome for each statement; see `write` for cancellation.

        Raises:
            PersistenceConnectionError: The store is not connected.
        """

    async def apply_limits(self, *, database_bytes_max: int | None, durability: Durability) -> None:
        """Apply limits to all later writes, after an open transaction has ended.

        Args:
            database_bytes_max: The size limit of the database. A write that needs more space fails with `StorageFullError`. If the
                database is already larger, reads and writes that need no more space still succeed.
            durability: The durability of a commit.

        Raises:
            PersistenceError: The limits could not be applied; call `apply_limits` again.
        """

    async def check_integrity(self, *, is_thorough: bool = False) -> None:
        """Check the whole database for damage, without delaying reads and writes. Cancelling the call interrupts the check.

        Args:
            is_thorough: Whether to compare indexes with their tables too.

        Raises:
            DatabaseCorruptError: The database is damaged; the message names the damaged parts.
            PersistenceConnectionError: The store is not connected, or was disconnected during the check.
        """

    def change_token(self) -> ChangeToken | None:
        """Return a token that changes with every commit by any process, without running a statement.

        The result of a query that ran after a call stays valid as long as later calls return the same token.

        Returns:
            The token. None if the next commit might not change the token, because the last commit was very recent or the back end
            cannot detect commits.
        """

    async def changes_by_others(self) -> int:
        """Return a number that changes when another process, or another store on the same database, has committed.

        This store's own commits do not change the number. Connecting the store again may change the number.

        Raises:
            PersistenceConnectionError: The store is not connected.
            PersistenceError: The database cannot be read.
        """

    async def begin(self) -> StoreTransaction:
        """Open a transaction over several calls; other writes wait until the transaction ends.

        Raises:
            PersistenceError: The transaction could not be started.
        """

    async def copy_to(self, path: Path) -> None:
        """Write a consistent copy of the database, the state of one moment, into a new file, durably.

        Reads and writes continue during the copy. A cancelled caller waits until the copy ends. `disconnect` stops the copy.

        Raises:
            SnapshotError: The database was disconnected during the copy; no file is left.
            PersistenceError: The database cannot be read, or the file cannot be written; no file is left.
        """


class Capability(StrEnum):
    """An optional feature of a back end."""

    BYTE_LIMIT = "byte_limit"
    """The back end limits the size of a tenant's database, see `TenantLimits.database_bytes_max`."""
    COMPACT = "compact"
    """The back end can free the unused space of an archived tenant's database."""
    REPAIR = "repair"
    """The back end can rebuild damaged indexes."""
    ATOMIC_MIGRATIONS = "atomic_migrations"
    """A failed migration is rolled back completely."""
    SHARED = "shared"
    """Several processes may have the same tenant open."""


class Place(NamedTuple):
    """The place of a tenant's database.

    Attributes:
        tenant_id: The tenant's current id, for messages.
        uid: The tenant's stable key, which is also stored in the database.
        location: The back end's name of the database's place, such as a directory or a schema. The name never changes.
    """

    tenant_id: TenantId
    uid: str
    location: str


class ConnectionCounts(NamedTuple):
    """The connections of one back end to its database server.

    Attributes:
        connections_max: The largest number of connections for calls.
        in_use: The number of connections that calls use. A call may be opening its connection.
        idle: The number of open connections that no call uses.
        waiting: The number of calls that wait for a connection.
        opened_total: The number of connections that were opened.
        failed_total: The number of attempts to open a connection that failed.
        broken_total: The number of connections that broke.
        recycled_total: The number of connections that ended because of their age or their tenants.
    """

    connections_max: int
    in_use: int
    idle: int
    waiting: int
    opened_total: int
    failed_total: int
    broken_total: int
    recycled_total: int


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine that runs the statements of SQLite databases in this process.

    Attributes:
        name: ``native`` for the engine in C, ``python`` for Python's sqlite3.
        reason: Why the engine is not ``native``, and what to do about it; None if it is.
        sqlite_version: The version of the SQLite library. Both engines use the same library.
        sqlite_library: The library's file; None if Python has no separate file for SQLite, and without ``/proc``.
    """

    name: Literal["native", "python"]
    reason: str | None
    sqlite_version: str
    sqlite_library: str | None


class DatabaseMissingError(TenantOwnedElsewhereError):
    """A server has no database at the tenant's place: it was moved or removed, or is lost. The catalog tells which."""


class LockTakenError(Exception):
    """Another process or registry holds the lock."""


@dataclass(frozen=True, slots=True)
class BackendReport:
    """A back end's database engine, for operators: the version route and the doctor show it.

    Attributes:
        backend: The engine's name, which is the back end's dialect.
        version: The engine's version.
        details: Further facts by name, such as ``host``, ``database``, ``user``, ``sharding`` and ``connections``. The details never
            contain a password.
    """

    backend: str
    version: str
    details: Mapping[str, str] = field(default_factory=dict)


class ClosedDatabase(Protocol):
    """A tenant's database that no process has open. Every method can be repeated after a crash."""

    async def exists(self) -> bool:
        """Return whether the database exists. The result stays true after a power failure."""

    async def check(self, *, is_thorough: bool) -> None:
        """Check the database for damage, and change nothing.

        Args:
            is_thorough: Whether to compare indexes with their tables too.

        Raises:
            DatabaseCorruptError: The database is damaged or missing.
        """

    async def is_damaged(self) -> bool:
        """Check again, without caches, whether the database is damaged: a temporary disk failure looks like damage too.

        Raises:
            PersistenceError: The disk cannot read the database, or the check took too long.
        """

    async def compact(self) -> None:
        """Free the space of deleted rows, if the back end can. After an error the database is unchanged.

        Raises:
            StorageFullError: The disk has too little space for the compaction and for tenants' writes.
            PersistenceError: The back end failed.
        """

    async def repair(self) -> None:
        """Check the database thoroughly, and rebuild its indexes if only the indexes are damaged.

        Raises:
            DatabaseCorruptError: Other parts than the indexes are damaged.
            PersistenceError: The repair failed for another reason.
        """

    async def check_repairable(self) -> None:
        """Raise an error if the database's files seem to come from two databases, because a repair would mix the two.

        Raises:
            DatabaseCorruptError: The files seem to come from two databases; no file was changed.
        """

    async def keep(self, point: str, *, is_as_found: bool) -> None:
        """Save the database as the restore point, before `exchange`; do nothing after `exchange`.

        Args:
            point: The restore point's name.
            is_as_found: Whether to keep the database's files unchanged, because they may be damaged.

        Raises:
            SnapshotError, PersistenceError: The database cannot be saved as a restore point, and was not exchanged.
        """

    async def exchange(self, point: str) -> None:
        """Replace the database atomically with the restore point's staged database; a no-op if the exchange was done."""

    async def remove(self) -> None:
        """Remove the database and its restore points, durably; a missing database is not an error.

        Raises:
            DataDirectoryError: The database cannot be removed.
        """


class RestorePoints(Protocol):
    """The restore points of one tenant: the databases that restores have replaced, and the staged database of the next restore.

    A restore stages a database, writes its intent, and then exchanges the databases (`ClosedDatabase.keep`, `.exchange`).
    """

    async def names(self) -> Sequence[str]:
        """Return the names of the restore points, oldest first."""

    async def exists(self, point: str) -> bool:
        """Return whether the restore point exists."""

    async def copy_to(self, point: str, path: Path) -> None:
        """Copy the restore point's database into a new file, and check the copy.

        Raises:
            DatabaseCorruptError: The restore point is damaged; its files are unchanged.
            SnapshotError: The restore point cannot be copied.
        """

    async def remove(self, point: str) -> None:
        """Remove a restore point; a missing restore point is not an error.

        Raises:
            SnapshotError: The restore point cannot be removed.
        """

    async def remove_old(self, newest: str, *, latest: str, kept_max: int) -> None:
        """Remove the oldest restore points.

        Args:
            newest: The new restore point, which is kept.
            latest: Restore points with names after `latest` have dates in the future: they are not counted, and not removed.
            kept_max: The number of restore points to keep.
        """

    async def stage(self, point: str, path: Path) -> None:
        """Move a file from `Backend.prepare` beside the tenant's database; the file replaces any other staged file.

        Raises:
            SnapshotError, StorageFullError: The file cannot be moved beside the tenant's database.
        """

    async def unstage(self, point: str) -> bool:
        """Undo a restore that has not exchanged the databases; return False if the databases were exchanged."""

    async def has_begun(self, point: str) -> bool:
        """Return whether a database was staged or kept for a restore."""


class Backend(Protocol):
    """Keeps the databases of all tenants of a registry, and the registry's catalog."""

    @property
    def name(self) -> str:
        """The name of the back end in the settings, in tenants' records and in metrics: ``sqlite``, ``postgres``, ``east``."""

    @property
    def dialect(self) -> str:
        """The name of the SQL dialect and of the directories of migrations: ``sqlite`` or ``postgres``."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The optional features that the back end has."""

    async def open(self) -> None:
        """Check that the back end can be used, create the data directory, and start the threads or connections for all tenants.

        Raises:
            DataDirectoryError: The data directory cannot be used; the message says what to change.
            MigrationError: Two schema packs create objects with the same name.
            PersistenceConnectionError: The database server cannot be reached, or the process may not open enough files.
        """

    async def aclose(self) -> None:
        """Release everything that `open` acquired; idempotent. The caller disconnects every store first."""

    def abandon(self) -> None:
        """Release everything that `open` acquired, from any thread and without waiting, if a registry was lost without a close."""

    async def locations(self) -> set[str]:
        """Return the locations of all tenants' databases that exist, without staged databases and restore points."""

    async def has_catalog(self) -> bool:
        """Return whether the back end has a catalog, even if the settings name another back end for the catalog."""

    def catalog(self, schema: Schema, *, log: EventLog) -> Store:
        """Return the store of the catalog, which creates a missing catalog when it connects; the store is not connected yet."""

    def store(self, place: Place, *, limits: TenantLimits, log: EventLog, is_new: bool = False) -> Store:
        """Return the store of a tenant; the store is not connected yet.

        Args:
            place: The place of the tenant's database.
            limits: The tenant's limits.
            log: The event log, bound to the tenant.
            is_new: Whether to create a missing database; if false, a missing database is an error.
        """

    def location_of(self, tenant_id: TenantId) -> str:
        """Return the location of the first tenant with an id. Later tenants with the id get the location with a counter, such as ``.1``."""

    async def new_location(self, tenant_id: TenantId, taken: Collection[str]) -> str:
        """Return a location for a new tenant.

        Args:
            tenant_id: The new tenant's id.
            taken: The locations in the catalog that equal `location_of` the id, with or without a counter.

        Raises:
            DataDirectoryError: The location exists already, and no tenant in the catalog owns it.
        """

    def exclusive(
        self, place: Place, *, is_waited_for: bool = True
    ) -> AbstractAsyncContextManager[ClosedDatabase]:
        """Hold the lock of a tenant's database during the block, so that no other process or registry opens the database.

        The caller has closed the database in this process, and has changed the tenant in the catalog. Another process that has
        the tenant open closes the tenant's database when that process reads the catalog.

        Args:
            place: The place of the database.
            is_waited_for: Whether to wait for the other process, for at most ``call_timeout_seconds``.

        Raises:
            TenantOwnedElsewhereError: Another process has the database open.
            PersistenceConnectionError: The database cannot be locked.
        """

    async def owner(self, place: Place) -> Holder | None:
        """Return the process that has the tenant's database open, without opening it.

        The result is None if no process has it open, and on a back end where several processes may have it open.
        """

    def lock(self, name: str) -> AbstractAsyncContextManager[None]:
        """Hold the lock with the given name, which excludes other processes, until the block or the process ends.

        Raises:
            LockTakenError: Another process or registry holds the lock.
            PersistenceConnectionError, StorageFullError: The lock cannot be acquired.
        """

    async def may_be_locked(self, name: str) -> bool:
        """Return False if it is certain that no process holds the lock with the given name; see `lock`."""

    async def closed_versions(self, place: Place) -> dict[str, int] | None:
        """Return the version of each schema in a database that no process has open, without a lock; None if a process may have it open."""

    async def size_bytes(self, place: Place) -> int:
        """Return the size of the tenant's database."""

    def may_be_transient(self, error: BaseException) -> bool:
        """Return whether an error that reports damage may come from a temporary disk failure; see `ClosedDatabase.is_damaged`."""

    async def prepare(self, path: Path) -> dict[str, int]:
        """Apply the pending migrations to a copy of a tenant's database, and return the version of each schema.

        The caller checks the copy for damage before this call. If migrations are applied, this call checks the copy afterwards.

        Args:
            path: The copy, which is changed. The copy may come from a storage that others can write to.

        Raises:
            MigrationError: The copy is newer than the code, or a migration failed.
            DatabaseCorruptError: The copy is not a database, or a migration damaged the copy.
            SnapshotError: The migrations took too long.
        """

    async def adopt(self, place: Place, path: Path) -> None:
        """Move a prepared copy to the place of a tenant that has no database yet, durably.

        Raises:
            SnapshotError: The copy cannot be moved to the tenant's place.
        """

    def points(self, place: Place) -> RestorePoints:
        """Return the restore points of a tenant."""

    def original(self, place: Place) -> Original:
        """Return a tenant's database as the original of a move to another back end; see `tenantry.storage.moves`."""

    def replica(self, place: Place) -> Replica:
        """Return a database that `adopt` has created as the replica of a move; see `tenantry.storage.moves`."""

    def connections(self) -> ConnectionCounts | None:
        """Return the numbers of connections to the server, without I/O; None if the database has no server."""

    def engine(self) -> EngineChoice | None:
        """Return the engine that runs the statements in this process; None if a server runs them.

        Raises:
            SettingsError: The settings name an engine that cannot be used in this process; `open` raises the same error.
        """

    async def identity(self) -> str | None:
        """Return an id of the database that its copies do not have; None if files in the data directory are the database.

        The id is 32 lower-case hexadecimal digits. It stays the same on the database's replicas and after a failover.
        """

    async def report(self) -> BackendReport:
        """Return the name and the version of the database engine, with facts about the server for operators."""
