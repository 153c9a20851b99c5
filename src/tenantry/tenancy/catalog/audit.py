"""Who did what to which tenant: an append-only, hash-chained table in the catalog.

Each row's hash is SHA-256 of the previous row's hash and of the row itself, as a JSON array in the form of SQLite's
``json_array``. To alter, remove or insert a row unnoticed, a person has to rewrite every later row, and the head, which
`AdminAudit.verify` compares too. So `verify` finds changes by hand and damage. It does not find a chain that was forged as a whole
by a person who may write the catalog, unless the last hash is kept elsewhere too.

A row is written in the transaction of the change that it reports, if the call changes the catalog: a call that took effect has
its row. One statement reads the head, computes the hash and appends the row, so no other row can come in between.
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

# The column `actor` holds the principal. Its name is older than the word, and renaming it would rewrite every audit.
_HASHED: Final = ("seq", "at", "actor", "action", "tenant_id", "tenant_uid", "outcome", "detail")
_COLUMNS: Final = ", ".join(_HASHED)
# Digest and JSON are functions of a dialect. Another dialect's text must build the same JSON, so that a chain can be moved.
_APPEND: Final = Sql(
    {
        "sqlite": f"""
            INSERT INTO admin_audit ({_COLUMNS}, previous_hash, hash)
            SELECT {_COLUMNS}, previous_hash, sha256(previous_hash || json_array({_COLUMNS})) FROM (
                SELECT seq + 1 AS seq, ? AS at, ? AS actor, ? AS action, ? AS tenant_id, ? AS tenant_uid, ? AS outcome,
                       ? AS detail, hash AS previous_hash
                FROM admin_audit_head
            ) AS new_row
        """  # noqa: S608  # our names
    }
)
_LIST: Final = f"SELECT {_COLUMNS} FROM admin_audit"  # noqa: S608  # our names
# Texts are read as bytes: damaged ones may not be UTF-8.
_VERIFY: Final = Sql(
    {
        "sqlite": f"""
            SELECT seq, CAST(previous_hash AS BLOB), CAST(hash AS BLOB),
                   hash = sha256(CAST(previous_hash || json_array({_COLUMNS}) AS BLOB))
            FROM admin_audit WHERE seq > ? ORDER BY seq LIMIT {_VERIFIED_ROWS:d}
        """  # noqa: S608  # our names
    }
)
_HEAD: Final = Sql({"sqlite": "SELECT seq, CAST(hash AS BLOB) FROM admin_audit_head"})


def shown_path(path: Path, data_dir: Path) -> str | None:
    """Return a file's path for the audit; None for a file in the data directory, which is temporary."""
    return None if data_dir in path.parents else str(path)


def principal_of(by: str | None) -> str:
    """Return the principal of a call: the one that the call names, or else the user that the process runs as.

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
        principal: Who made the call: its ``by=``, or the user that the process ran as.
        action: The call's name.
        tenant_id: The tenant as the caller named it; None if the call concerns no single tenant.
        tenant_uid: The tenant's stable key; None if the tenant was not found.
        outcome: ``ok``; the error's `outcome`; or ``taken_back`` if the call's process died and the call was undone.
        detail: The call's arguments and decisions; never a secret.
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
    """What `AdminAudit.verify` found.

    Attributes:
        rows: How many rows are intact, up to the first that is not.
        hash: The hash of the last intact row. Keep it elsewhere to detect a chain that was forged as a whole.
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
    """Return the statement that appends a row.

    Args:
        clock: Gives its time.
        action: See `AdminAuditEntry`, like those that follow.
        tenant_id: As the caller named it.
        tenant_uid: Its stable key.
        outcome: See `AdminAuditEntry`.
        detail: Without secrets; what is None is left out.
        by: Who did it, see `principal_of`.

    Raises:
        QueryError: The principal's name is not valid.
    """
    text = json.dumps({name: value for name, value in detail.items() if value is not None}, sort_keys=True)
    at = as_text(clock.now())
    row = (at, principal_of(by), action, tenant_id, tenant_uid, outcome, text)
    return Statement("catalog.audit", _APPEND, row)


def append_if(condition: str, parameters: Sequence[object], record: Statement) -> Statement:
    """Return the statement that appends a row only if a condition holds when the statement runs.

    Put it into one unit with the change that the row reports, in front of it: a compare-and-set changes a row if and only if its
    condition held just before.
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
            tenant_id: Only calls that named the tenant by this id.
            tenant_uid: Only calls on the tenant with this stable key, whatever its id was then.
            limit: How many at most; 100 if left out.
            cursor: The `next_cursor` of the page before.

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
        """Compute every row's hash anew and compare; find the first row that is altered, missing or out of place."""
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
        # Rows that were appended since the last page was read are not a problem: the chain continues with them.
        if head is None or head[0] < seq or (head[0] == seq and head[1] != last_hash):
            problem = "the head was altered"
        elif head[0] > seq and not await self._has_row(seq + 1):
            problem = f"the rows after {seq} are missing"
        return AuditVerification(seq, last_hash.decode("ascii"), problem)

    async def _has_row(self, seq: int) -> bool:
        statement = Statement("audit.has_row", "SELECT 1 FROM admin_audit WHERE seq = ?", (seq,), Fetch.ONE)
        return await self._store.read(statement) is not None


def _from_row(row: TupleRow) -> AdminAuditEntry:
    # The model's fields are in the order of the columns.
    columns = tuple(AdminAuditEntry.model_fields)
    return decode_row(AdminAuditEntry, columns, row, entity="audit_row", json_columns=("detail",))


@cache
def _process_user() -> str:
    try:
        return f"os:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "os:unknown"
