"""Copies the rows of a catalog into another catalog, inside a transaction of each, and compares the two.

Rows are inserted through the triggers of the target. So the target counts its tenants itself, and its audit accepts only a row that
follows the row before. The audit of a target that was the catalog before, or that an interrupted move has filled, keeps its rows: they
must be the first rows of the source's audit, and the move appends the rest.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

from tenantry.errors import DatabaseCorruptError, QueryError, SnapshotError, TenantryError
from tenantry.sql.statements import Fetch, Statement, TupleRow
from tenantry.storage.protocol import StoreTransaction
from tenantry.tenancy.catalog.audit import AdminAudit
from tenantry.tenancy.catalog_move.tables import AUDIT, REPLACED, TABLES, Table

T = TypeVar("T")

PAGE_ROWS: Final = 200
UNIT_BYTES_MAX: Final = 2**20
"""The size of a statement's values above which the statement gets no more rows."""

ReportRows: TypeAlias = Callable[[int, int], None]
"""Takes the number of copied rows, and the number of all rows to copy."""

_HEAD: Final = Statement("catalog_move.head", "SELECT seq, hash FROM admin_audit_head", (), Fetch.ONE)
_HASH: Final = "SELECT hash FROM admin_audit WHERE seq = ?"
_STATES: Final = Statement(
    "catalog_move.states", "SELECT state, count FROM tenant_states WHERE count > 0", (), Fetch.ALL
)


class Rows:
    """Reads and writes rows in a transaction.

    Args:
        transaction: The transaction, which this object neither commits nor rolls back.
    """

    def __init__(self, transaction: StoreTransaction) -> None:
        self._transaction = transaction

    async def read(self, statement: Statement[T]) -> T:
        """Run one statement that only reads."""
        outcome: T | TenantryError = await self._transaction.read(statement)
        if isinstance(outcome, TenantryError):
            raise outcome
        return outcome

    async def write(self, *statements: Statement) -> None:
        """Run statements as one unit."""
        outcome = await self._transaction.write(statements)
        if isinstance(outcome, TenantryError):
            raise outcome

    async def count(self, table: Table) -> int:
        """Return the number of a table's rows."""
        row = await self.read(table.count_rows())
        return 0 if row is None else int(row[0])

    async def head(self) -> "Head":
        """Return the audit's head."""
        row = await self.read(_HEAD)
        if row is None:
            raise DatabaseCorruptError("the audit's head is missing")
        return Head(*row)

    async def has_audit_row(self, head: "Head") -> bool:
        """Return whether the audit has the row that is another audit's last row, so that the other audit is the begin of this one."""
        row = await self.read(Statement("catalog_move.hash", _HASH, (head.seq,), Fetch.ONE))
        return not head.seq or (row is not None and row[0] == head.hash)

    async def pages(self, table: Table, after: TupleRow | None = None) -> AsyncIterator[Sequence[TupleRow]]:
        """Yield a table's rows in the order of the primary key."""
        while rows := await self.read(table.page(after, PAGE_ROWS)):
            yield rows
            after = table.key_of(rows[-1])


class _WithOther:
    """Reads rows, and before each read asks the other transaction, which the server would end if it were idle for too long."""

    def __init__(self, rows: Rows, other: Rows) -> None:
        self._rows = rows
        self._other = other

    async def read(self, statement: Statement[T]) -> T:
        """Run one statement that only reads."""
        await self._other.read(_HEAD)
        return await self._rows.read(statement)


class Head(NamedTuple):
    """The last row of an audit; the number is 0 if the audit is empty."""

    seq: int
    hash: str


async def copy_rows(source: Rows, target: Rows, report: ReportRows) -> dict[str, int]:
    """Replace the target's rows by the source's, compare the two catalogs, and return the number of rows of each table.

    Raises:
        SnapshotError: A row cannot be written, the audit's chain is broken, or the copy differs from the source.
        PersistenceError: A database failed.
    """
    counts = {table.name: await source.count(table) for table in TABLES}
    first = await target.head()
    total, done = sum(counts.values()) - first.seq, 0
    for table in reversed(REPLACED):
        await target.write(table.clear())
    digests: dict[str, str] = {}
    for table in TABLES:
        digest = hashlib.sha256()
        after = (first.seq,) if table is AUDIT else None
        async for rows in source.pages(table, after):
            for unit in _units(rows):
                try:
                    await target.write(table.insert(unit))
                except QueryError as error:
                    raise await _not_copied(source, table, error) from error
            _add(digest, rows)
            done += len(rows)
            report(done, total)
        digests[table.name] = digest.hexdigest()
    await _compare(source, target, counts, digests, first)
    return counts


async def _compare(
    source: Rows, target: Rows, counts: dict[str, int], digests: dict[str, str], first: Head
) -> None:
    for table in TABLES:
        digest = hashlib.sha256()
        async for rows in target.pages(table, (first.seq,) if table is AUDIT else None):
            await source.head()  # the server would end an idle transaction
            _add(digest, rows)
        if await target.count(table) != counts[table.name] or digest.hexdigest() != digests[table.name]:
            raise _differs(table.name)
    if sorted(await source.read(_STATES)) != sorted(await target.read(_STATES)):
        raise _differs("tenant_states")
    if await source.head() != await target.head():
        raise _differs("admin_audit_head")
    verification = await AdminAudit(_WithOther(target, source)).verify()
    if verification.problem is not None:
        raise _broken_chain(verification.problem)


async def _not_copied(source: Rows, table: Table, error: QueryError) -> SnapshotError:
    """Return the error for rows that the target refused: it takes no audit row that does not follow the row before."""
    if table is AUDIT and (problem := (await AdminAudit(source).verify()).problem) is not None:
        return _broken_chain(problem)
    return SnapshotError(
        f"rows of the catalog's table {table.name} cannot be copied, so nothing was moved: {error}"
    )


def _broken_chain(problem: str) -> SnapshotError:
    return SnapshotError(
        f"the audit's hash chain is broken ({problem}), so nothing was moved: find out who can write to the catalog, and restore it "
        "from a copy"
    )


def _units(rows: Sequence[TupleRow]) -> list[list[TupleRow]]:
    """Split rows into lists of a limited size."""
    units: list[list[TupleRow]] = [[]]
    size = 0
    for row in rows:
        if size > UNIT_BYTES_MAX:
            units.append([])
            size = 0
        units[-1].append(row)
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
    return units


def _add(digest: "hashlib._Hash", rows: Sequence[TupleRow]) -> None:
    for row in rows:
        digest.update(repr(tuple(row)).encode("utf-8", "surrogatepass"))


def _differs(table: str) -> SnapshotError:
    return SnapshotError(
        f"the copy of the catalog's table {table} differs from the original, and nothing was moved: try again, and if the error "
        "comes back, report it"
    )
