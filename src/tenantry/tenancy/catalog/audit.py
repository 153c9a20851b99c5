"""The audit of operators' calls: an append-only, hash-chained table in the catalog.

Each row's hash is the SHA-256 of the previous row's hash and of the row, as a JSON array in the form of SQLite's ``json_array``. A
person who alters, removes or inserts a row must also rewrite all later rows and the head, or `AdminAudit.verify` finds the change.
To detect a chain that was forged as a whole, keep the last hash outside the catalog.

If a call changes the catalog, one transaction makes the change and appends the call's row, so each change has a row. One statement
reads the head, computes the hash and appends the row, so no other row can be appended in between.
"""

import getpass
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from tenantry.clock import Clock, as_text
from tenantry.pages import Page, decode_cursor, encode_cursor, page_rows
from tenantry.sql.statements import Fetch, Sql, Statement, TupleRow
from tenantry.tenancy.catalog.rows import decode_row
from tenantry.tenancy.catalog.session import CatalogReader
from tenantry.texts import check_principal

AUDIT_ROWS_DEFAULT: Final = 100
_VERIFIED_ROWS: Final = 1000

# The column `actor` contains the principal. Renaming the column would change the audit of every existing data directory.
_HASHED: Final = ("seq", "at", "actor", "action", "tenant_id", "tenant_uid", "outcome", "detail")
_COLUMNS: Final = ", ".join(_HASHED)


def _bytes_of(text: str | Sql) -> Sql:
    """Return SQL for the UTF-8 bytes of a text."""
    return (
        Sql({"sqlite": "CAST(", "postgres": "convert_to("})
        + text
        + Sql({"sqlite": " AS BLOB)", "postgres": ", 'UTF8')"})
    )


_JSON_VALUES: Final = ", ".join(f"coalesce(to_json({name}), 'null')" for name in _HASHED)
# All dialects hash the same bytes, the form of SQLite's `json_array`, so that an audit can be moved.
_ROW_JSON: Final = Sql(
    {
        "sqlite": f"json_array({_COLUMNS})",
        "postgres": f"'[' || concat_ws(',', {_JSON_VALUES}) || ']'",
    }
)
_ROW_HASH: Final = (
    Sql({"sqlite": "sha256(", "postgres": "encode(sha256("})
    + _bytes_of("previous_hash || " + _ROW_JSON)
    + Sql({"sqlite": ")", "postgres": "), 'hex')"})
)
_APPEND: Final = (
    f"INSERT INTO admin_audit ({_COLUMNS}, previous_hash, hash) SELECT {_COLUMNS}, previous_hash, "  # noqa: S608  # our names
    + _ROW_HASH
    + """
    FROM (
        SELECT seq + 1 AS seq, ? AS at, ? AS actor, ? AS action, ? AS tenant_id, ? AS tenant_uid, ? AS outcome,
               ? AS detail, hash AS previous_hash
        FROM admin_audit_head
    ) AS new_row
    """
)
_LIST: Final = f"SELECT {_COLUMNS} FROM admin_audit"  # noqa: S608  # our names
# Strings are read as bytes, because a damaged string may not be UTF-8.
_VERIFY: Final = (
    "SELECT seq, "  # noqa: S608  # our names
    + _bytes_of("previous_hash")
    + ", "
    + _bytes_of("hash")
    + ", hash = "
    + _ROW_HASH
    + f" FROM admin_audit WHERE seq > ? ORDER BY seq LIMIT {_VERIFIED_ROWS:d}"
)
_HEAD: Final = "SELECT seq, " + _bytes_of("hash") + " FROM admin_audit_head"  # noqa: S608  # our names


def shown_path(path: Path, data_dir: Path) -> str | None:
    """Return a file's path as the audit shows it; None for a temporary file in the data directory."""
    return None if data_dir in path.parents else str(path)


def principal_of(by: str | None) -> str:
    """Return the principal of a call: `by` if it is given, otherwise the user that the process runs as.

    Raises:
        QueryError: The name is empty, blank, too long, or cannot be stored as text.
    """
    if by is None:
        return _process_user()
    check_principal(by)
    return by


class AdminAuditEntry(BaseModel):
    """One row of the audit.

    Attributes:
        seq: The row's number; the first is 1, and there are no gaps.
        at: An instant in UTC.
        principal: The person or program that made the call: the call's ``by=``, or the user that the process ran as.
        action: The call's name.
        tenant_id: The tenant's id in the call; None if the call concerns no single tenant.
        tenant_uid: The tenant's permanent key; None if the tenant was not found.
        outcome: ``ok``; the error's `outcome`; or ``taken_back`` if the process died and the call was rolled back.
        detail: The call's arguments and decisions, without secrets.
    """

    model_config = ConfigDict(frozen=True)

    seq: int
    at: datetime
    principal: str
    action: str
    tenant_id: str | None
    tenant_uid: str | None
    outcome: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AuditVerification:
    """The result of `AdminAudit.verify`.

    Attributes:
        rows: The number of intact rows before the first problem.
        hash: The hash of the last intact row. Keep this hash outside the catalog, to detect a chain that was forged as a whole.
        problem: The first problem, or None.
    """

    rows: int
    hash: str
    problem: str | None = None

    @property
    def is_intact(self) -> bool:
        """Whether no row was altered, removed or inserted."""
        return self.problem is None


def append(
    clock: Clock,
    action: str,
    *,
    tenant_id: str | None,
    tenant_uid: str | None,
    outcome: str,
    detail: Mapping[str, Any],
    by: str | None = None,
) -> Statement:
    """Return the statement that appends a row, see `AdminAuditEntry`.

    Args:
        clock: The clock for the row's time.
        action: The call's name.
        tenant_id: The tenant's id in the call.
        tenant_uid: The tenant's permanent key.
        outcome: The call's outcome.
        detail: The call's arguments and decisions, without secrets; values that are None are left out.
        by: The principal, see `principal_of`.

    Raises:
        QueryError: The principal's name is not valid.
    """
    text = json.dumps({name: value for name, value in detail.items() if value is not None}, sort_keys=True)
    at = as_text(clock.now())
    row = (at, principal_of(by), action, tenant_id, tenant_uid, outcome, text)
    return Statement("catalog.audit", _APPEND, row)


def append_if(condition: str, parameters: Sequence[object], record: Statement) -> Statement:
    """Return the statement that appends a row only if a condition is true when the statement runs.

    The row records a change. Run both statements in one unit, this statement first, and give both the same condition.
    """
    return Statement(
        record.name, record.sql + f" WHERE {condition}", (*record.parameters, *parameters), record.fetch
    )


class AdminAudit:
    """Reads and verifies the audit."""

    def __init__(self, store: CatalogReader) -> None:
        self._store = store

    async def list(
        self,
        *,
        tenant_id: str | None = None,
        tenant_uid: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[AdminAuditEntry]:
        """Return a page of the audit, newest first.

        Args:
            tenant_id: Return only calls that used this tenant id.
            tenant_uid: Return only calls that concerned the tenant with this permanent key, even under another id.
            limit: The largest number of rows in the page; by default 100.
            cursor: The `next_cursor` of the previous page.

        Raises:
            QueryError: `limit` or `cursor` is not valid.
        """
        rows_max = page_rows(AUDIT_ROWS_DEFAULT if limit is None else limit)
        before = 2**63 - 1 if cursor is None else decode_cursor("audit", cursor, int)[0]
        wanted = {"tenant_id": tenant_id, "tenant_uid": tenant_uid}
        given = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join([*(f"{name} = ?" for name in given), "seq < ?"])
        sql = f"{_LIST} WHERE {where} ORDER BY seq DESC LIMIT ?"
        parameters = (*given.values(), before, rows_max + 1)
        rows = await self._store.read(Statement("audit.list", sql, parameters, Fetch.ALL))
        entries = [_from_row(row) for row in rows[:rows_max]]
        has_more = len(rows) > rows_max
        return Page(entries, encode_cursor("audit", entries[-1].seq) if has_more else None)

    async def verify(self) -> AuditVerification:
        """Verify the hash of every row, and find the first row that is altered, missing or misplaced."""
        seq, last_hash = 0, b""
        while rows := await self._store.read(Statement("audit.verify", _VERIFY, (seq,), Fetch.ALL)):
            for found_seq, previous_hash, found_hash, is_as_written in rows:
                problem = None
                if found_seq != seq + 1:
                    problem = f"row {seq + 1} is missing"
                elif not is_as_written:
                    problem = f"row {found_seq} was altered"
                elif previous_hash != last_hash:
                    problem = f"row {found_seq} does not follow row {seq}: one of them was replaced"
                if problem is not None:
                    return AuditVerification(seq, last_hash.decode("ascii"), problem)
                seq, last_hash = found_seq, found_hash
        head = await self._store.read(Statement("audit.head", _HEAD, (), Fetch.ONE))
        problem = None
        # The head may be later than the last row that was read, because rows may have been appended in the meantime.
        if head is None or head[0] < seq or (head[0] == seq and head[1] != last_hash):
            problem = "the head was altered"
        elif head[0] > seq and not await self._has_row(seq + 1):
            problem = f"the rows after {seq} are missing"
        return AuditVerification(seq, last_hash.decode("ascii"), problem)

    async def _has_row(self, seq: int) -> bool:
        statement = Statement("audit.has_row", "SELECT 1 FROM admin_audit WHERE seq = ?", (seq,), Fetch.ONE)
        return await self._store.read(statement) is not None


def _from_row(row: TupleRow) -> AdminAuditEntry:
    # The fields of the model are in the order of the columns.
    columns = tuple(AdminAuditEntry.model_fields)
    return decode_row(AdminAuditEntry, columns, row, entity="audit_row", json_columns=("detail",))


@cache
def _process_user() -> str:
    try:
        return f"os:{getpass.getuser()}"
    except (KeyError, OSError):  # in a container the user may have no name
        return "os:unknown"
