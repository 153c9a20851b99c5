"""What a store is: one tenant's database behind a few calls that take whole batches."""

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, Self, TypeAlias, runtime_checkable

from tenantry.config import Durability
from tenantry.errors import TenantryError
from tenantry.schema import Migration
from tenantry.statements import Result, Statement

Request: TypeAlias = tuple[Statement, ...]
"""One caller's unit: all of its statements take effect, or none."""

WriteOutcome: TypeAlias = list[Result] | TenantryError
"""One result for each statement of the request, or why nothing of it was kept."""

ReadOutcome: TypeAlias = Result | TenantryError
"""What the statement's `Fetch` says, or why it failed."""


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
        ...

    async def read(self, statement: Statement) -> ReadOutcome:
        """Run one reading statement inside the transaction.

        Raises:
            TransactionClosedError: The transaction has ended.
        """
        ...

    async def commit(self) -> None:
        """Commit, durably.

        Raises:
            PersistenceError: It was not committed; the transaction is rolled back.
            TransactionClosedError: It had ended before.
        """
        ...

    async def rollback(self) -> None:
        """Undo everything; does nothing if the transaction has ended."""
        ...


@runtime_checkable
class Store(Protocol):
    """One tenant's database. It knows no tenant state and no pool.

    `write` may be called by one caller at a time or by many: units never mix. A read that starts after a write was
    answered sees that write.
    """

    @property
    def backend(self) -> str:
        """``sqlite`` or ``postgres``: the `backend` label of metrics and the directory of migrations."""
        ...

    @property
    def is_connected(self) -> bool:
        """Whether `connect` succeeded and `disconnect` has not."""
        ...

    async def connect(self) -> None:
        """Open the database; a no-op when it is open. A failure half way leaves nothing open.

        Raises:
            PersistenceConnectionError: It cannot be opened.
            DatabaseCorruptError: The file is no database, or another tenant's; it was not changed.
            TenantOwnedElsewhereError: Another owner has it open.
        """
        ...

    async def disconnect(self) -> None:
        """Close the database, the writer last; a no-op when it is closed.

        Raises:
            PersistenceConnectionError: It would not close; it is still held and can be closed again.
        """
        ...

    async def health_check(self) -> bool:
        """Return whether the database answers a query."""
        ...

    async def migrate(self) -> MigrationReport:
        """Apply the pending migrations, each in a transaction with its version number.

        Raises:
            MigrationError: A step failed and left the file as it was, or file and code disagree.
            PersistenceConnectionError: Not connected.
        """
        ...

    def write(self, requests: Sequence[Request]) -> Awaitable[list[WriteOutcome]]:
        """Run the requests in one transaction, commit it durably, and give one outcome for each.

        One request's failure is that request's alone. A store that can begin at once gives a future. Cancelling what is
        given interrupts the batch: all of it is kept, or nothing.

        Raises:
            PersistenceConnectionError: Not connected.
        """
        ...

    def read(self, statements: Sequence[Statement]) -> Awaitable[list[ReadOutcome]]:
        """Run reading statements together and give one outcome for each; like `write`, cancelled and begun.

        Raises:
            PersistenceConnectionError: Not connected.
        """
        ...

    async def apply_limits(self, *, database_bytes_max: int | None, durability: Durability) -> None:
        """Apply limits to every write that begins afterwards; waits for an open transaction.

        Args:
            database_bytes_max: How large the database may grow; a write that needs more fails with `StorageFullError`. A database
                that is already larger can be read, and written if that needs no more space.
            durability: When a commit counts as done.

        Raises:
            PersistenceError: They could not be applied; call again.
        """
        ...

    async def check_integrity(self, *, is_thorough: bool = False) -> None:
        """Look for damage in the whole database, beside its reads and writes, which do not wait for it.

        Args:
            is_thorough: Whether indexes are compared with their tables too.

        Cancellation interrupts it.

        Raises:
            DatabaseCorruptError: It is damaged; the message says where.
            PersistenceConnectionError: Not connected, or disconnected meanwhile.
        """
        ...

    async def begin(self) -> StoreTransaction:
        """Open a transaction over several calls; writes wait until it ends.

        Raises:
            PersistenceError: It could not be begun.
        """
        ...

    async def copy_to(self, path: Path) -> None:
        """Write a consistent copy of the database, the state of one moment, into a new file, durably.

        Writes and reads go on meanwhile. Cancellation waits for the end of it. A disconnect ends it.

        Raises:
            SnapshotError: The database was disconnected meanwhile; no file is left.
            PersistenceError: It cannot be read, or the file cannot be written; no file is left.
        """
        ...
