"""The seam between a move of a tenant and the back ends: the journal of the original, and the replica at the new place.

While a tenant is copied to another back end, its callers keep writing. Triggers in the original database therefore record the
primary key of every row that is inserted, changed or deleted: the journal. After the copy, `follow` brings the replica up to date in
passes. A pass reads the journal and the present rows in one snapshot of the original. It deletes all rows with these keys from the
replica, and inserts the present rows, in one transaction of the replica. After a pass, the replica therefore equals that snapshot,
whatever was written, and in whatever order.

The replica has no triggers and no foreign keys while it follows, because the original has already enforced both, and because the rows
of a pass do not arrive in the order in which they were written.

`Original` and `Replica` have methods of two kinds. Coroutines run their work on a thread. `changes` and `writer` return blocking
objects, which `follow` uses on one thread, because a pass moves up to millions of rows.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from tenantry.errors import SnapshotError
from tenantry.threads import check_cancelled

JOURNAL: Final = "tenantry_journal"
"""The prefix of the names of all tables, triggers and functions of a journal."""

CONTROL_TABLES: Final = frozenset(
    ["schema_migrations", "tenantry_batches", "tenantry_forwarded", "tenantry_owner"]
)
"""The tables that are not moved, because they describe the database at its place and not the tenant's data."""

ROWS_PER_CHUNK: Final = 1_000
"""The number of rows that a pass holds in memory."""

MovedRow: TypeAlias = tuple[object, ...]
"""A row or a key, with values of the five types that every back end reads and writes: int, float, str, bytes, None."""

Position: TypeAlias = Mapping[str, int]
"""The number of the last journal entry of each table that the replica contains. A missing table means 0."""


@dataclass(frozen=True, slots=True)
class MovedTable:
    """A table that moves.

    Attributes:
        columns: The names of the columns that have stored values; generated columns are left out.
        types: The type of each column, as the table's own back end names it.
        key: The names of the columns of the primary key; empty if the table has no primary key.
        refusal: The reason why the table cannot be moved; None if the table can be moved.
    """

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    key: tuple[str, ...]
    refusal: str | None = None

    @property
    def type_of(self) -> Mapping[str, str]:
        """The type of each column, by the column's name."""
        return dict(zip(self.columns, self.types, strict=True))


class Changes(Protocol):
    """The rows that were changed after a position, in one snapshot of the original. All methods block."""

    @property
    def position(self) -> Position:
        """The position of the snapshot."""

    def keys(self, table: MovedTable, copy: MovedTable) -> Iterator[Sequence[MovedRow]]:
        """Yield the keys of the rows that were inserted, changed or deleted, in chunks.

        Args:
            table: The table of the original. The order of the values is that of its key.
            copy: The table of the replica, whose types say which form the values need.
        """

    def rows(self, table: MovedTable, copy: MovedTable) -> Iterator[Sequence[MovedRow]]:
        """Yield the present rows with these keys, in chunks; the order of the values is that of the table's columns. See `keys`."""

    def count(self, table: MovedTable) -> int:
        """Return the number of all rows of the table."""


class ReplicaWriter(Protocol):
    """One transaction of the replica; committed at the end of the block, rolled back if the block raises. All methods block.

    The tables are those of the original: the order of values in keys and rows is that of the original's columns.
    """

    def delete(self, table: MovedTable, keys: Sequence[MovedRow]) -> None:
        """Delete the rows with these keys."""

    def insert(self, table: MovedTable, rows: Sequence[MovedRow]) -> None:
        """Insert rows."""

    def has(self, table: MovedTable, rows: Sequence[MovedRow]) -> bool:
        """Return whether the replica contains all of these rows with equal values."""

    def count(self, table: MovedTable) -> int:
        """Return the number of all rows of the table."""


class Original(Protocol):
    """The database that a tenant moves away from."""

    async def tables(self) -> Sequence[MovedTable]:
        """Return the tenant's tables, in the order of their names. The tenant may be open.

        Raises:
            PersistenceError: The database cannot be read.
        """

    async def counts(self, tables: Sequence[MovedTable]) -> dict[str, int]:
        """Return the number of rows of each table. The tenant may be open."""

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Keep a connection for `changes` during the block."""

    async def install(self) -> Sequence[MovedTable]:
        """Install an empty journal, and return the tables. The caller has exclusive access. After an error, no journal is left.

        Raises:
            PersistenceError: The journal cannot be installed.
        """

    async def remove(self) -> None:
        """Remove the journal. A missing journal or a missing database is not an error. The caller has exclusive access to the database."""

    def changes(self, after: Position, *, is_open: bool) -> AbstractContextManager[Changes]:
        """Return the changes after a position; blocks.

        Args:
            after: The position up to which the replica has followed.
            is_open: Whether the tenant is open in this process; otherwise the caller has exclusive access to the database.
        """

    async def sequences(self, tables: Sequence[MovedTable]) -> dict[str, int]:
        """Return the last number that each table's counter has given to a row. The caller has exclusive access to the database."""


class Replica(Protocol):
    """The copy of a database at the place to which a tenant moves. Nobody else opens it until the catalog names the place."""

    async def suspend_rules(self) -> Sequence[MovedTable]:
        """Remove triggers and foreign keys, until `restore_rules`, and return the tables, in the order of their names."""

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Keep a connection for `writer` during the block."""

    def writer(self) -> AbstractContextManager[ReplicaWriter]:
        """Return a transaction; blocks."""

    async def restore_rules(self, sequences: Mapping[str, int]) -> None:
        """Create the triggers and foreign keys again, and set the counters of tables to at least these numbers, durably.

        The time that this takes does not depend on the number of rows, because the tenant's callers wait.
        """

    async def validate_rules(self) -> None:
        """Finish the work of `restore_rules` that depends on the number of rows, while the tenant is open."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of `follow`.

    Attributes:
        position: The position after the pass.
        keys: The number of different keys that the pass has copied.
    """

    position: Position
    keys: int
    seconds: float


def follow(
    original: Original,
    replica: Replica,
    tables: Sequence[tuple[MovedTable, MovedTable]],
    after: Position,
    *,
    is_open: bool,
    is_counted: bool = False,
) -> Pass:
    """Bring the replica up to date with the original, check every row that was copied, and return where the pass ended. Blocks.

    Args:
        original: The original, whose journal was installed before the copy was made.
        replica: The replica.
        tables: The tables of the original, each with its copy.
        after: The position of the previous pass.
        is_open: Whether the tenant is open in this process; see `Original.changes`.
        is_counted: Whether to compare the number of rows of each table, too.

    Raises:
        SnapshotError: The replica differs from the original.
        PersistenceError: One of the databases failed; the replica is as after the previous pass.
    """
    started = time.monotonic()
    keys_copied = 0
    with original.changes(after, is_open=is_open) as changes, replica.writer() as writer:
        changed = [
            (table, copy)
            for table, copy in tables
            if changes.position.get(table.name, 0) > after.get(table.name, 0)
        ]
        # All deletions come before all insertions: a new row may have a unique value of a row that is deleted in the same pass.
        for table, copy in changed:
            for keys in changes.keys(table, copy):
                check_cancelled()
                keys_copied += len(keys)
                writer.delete(table, keys)
        for table, copy in changed:
            for rows in changes.rows(table, copy):
                check_cancelled()
                writer.insert(table, rows)
                if not writer.has(table, rows):
                    raise _difference(table, "has changed rows that differ from the original's")
        if is_counted:
            for table, _ in tables:
                check_cancelled()
                expected, found = changes.count(table), writer.count(table)
                if found != expected:
                    raise _difference(table, f"has {found} rows, but the original has {expected}")
    return Pass(changes.position, keys_copied, time.monotonic() - started)


def _difference(table: MovedTable, what: str) -> SnapshotError:
    return SnapshotError(
        f"the copy of table {table.name!r} {what}: the tenant was not moved; report this as an error of tenantry"
    )
