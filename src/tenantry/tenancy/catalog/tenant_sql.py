"""The SQL statements for the table of tenants: one function for each statement."""

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from tenantry.clock import as_text
from tenantry.ids import TenantId
from tenantry.lifecycle import Permission, TenantEvent, TenantState, states_that_allow
from tenantry.sql.repository import placeholders
from tenantry.sql.statements import Fetch, Sql, Statement
from tenantry.tenancy.catalog.audit import append_if
from tenantry.tenancy.catalog.rows import COLUMNS, ID_IN_JSON, INSERT, SELECT, after_prefix, to_row
from tenantry.tenancy.tenant_record import TenantRecord

T = TypeVar("T")

LISTED_VALUES_MAX: Final = 500
"""The largest number of values in a statement's list, so that a lookup does not delay other statements for long."""

COUNT_STATES: Final = Statement("catalog.states", "SELECT state, count FROM tenant_states", (), Fetch.ALL)
CHECK_WRITABLE: Final = Statement(
    "catalog.check_writable", "UPDATE tenant_states SET count = count WHERE 1 = 0"
)


def _state_in(states: Collection[TenantState]) -> str:
    names = ", ".join(f"'{state}'" for state in states)
    return f"state IN ({names})"


SERVED: Final = _state_in(states_that_allow(Permission.READ))
BEGINNING: Final = _state_in(states_that_allow(TenantEvent.PROVISION))
PURGEABLE: Final = _state_in(states_that_allow(TenantEvent.PURGE))
_GONE: Final = _state_in(set(TenantState) - set(states_that_allow(Permission.EXIST)))

COUNT_SERVED: Final = Statement(
    "catalog.sample",
    f"SELECT count(*) FROM tenants WHERE {SERVED}",  # noqa: S608  # our names
    (),
    Fetch.ALL,
)


def in_chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the values in lists of at most `LISTED_VALUES_MAX`."""
    for start in range(0, len(values), LISTED_VALUES_MAX):
        yield values[start : start + LISTED_VALUES_MAX]


def insert(tenant: TenantRecord) -> list[Statement]:
    """Return the statements that add a tenant."""
    return [_free_id("catalog.insert", tenant.id), Statement("catalog.insert", INSERT, to_row(tenant))]


def list_page(
    after: str, prefix: str, state: TenantState | None, tenant_ids: Sequence[TenantId] | None, count: int
) -> Statement:
    """Return the statement that reads tenants in the order of their ids."""
    # Give SQLite only one lower bound: with two bounds, SQLite would use only one, and might scan all ids before the prefix.
    conditions, parameters = (["id >= ?"], [prefix]) if prefix > after else (["id > ?"], [after])
    conditions.append(f"NOT {_GONE}" if state is None else "state = ?")
    if state is not None:
        parameters.append(state)
    if prefix:
        conditions.append("id < ?")
        parameters.append(after_prefix(prefix))
    where: str | Sql = " AND ".join(conditions)
    if tenant_ids is not None:
        where = where + " AND " + ID_IN_JSON
        parameters.append(json.dumps(tenant_ids))
    sql = f"{SELECT} WHERE " + where + " ORDER BY id LIMIT ?"
    return Statement("catalog.list", sql, (*parameters, count), Fetch.ALL)


def locations(name: str) -> Statement:
    """Return the statement that reads the locations that are `name` with or without a counter."""
    sql = "SELECT location FROM tenants WHERE location = ? OR (location > ? AND location < ?)"
    # "/" follows "." in the order of characters.
    return Statement("catalog.locations", sql, (name, f"{name}.", f"{name}/"), Fetch.ALL)


def move_snapshot_due(tenant: TenantRecord, due_at: datetime) -> Statement:
    """Return the statement that sets the due time of a tenant's next snapshot if the stored due time is still the one in `tenant`."""
    before = () if tenant.snapshot_due_at is None else (as_text(tenant.snapshot_due_at),)
    is_as_read = "snapshot_due_at = ?" if before else "snapshot_due_at IS NULL"
    sql = f"UPDATE tenants SET snapshot_due_at = ? WHERE uid = ? AND {is_as_read}"  # noqa: S608  # our names
    parameters = (as_text(due_at), tenant.uid, *before)
    return Statement("catalog.move_snapshot_due", sql, parameters, Fetch.ROWCOUNT)


def has_number(numbers: Sequence[int]) -> str:
    """Return the condition that selects active tenants by number; the numbers count from 1 in the order of the tenants' ids."""
    numbered = f"SELECT uid, row_number() OVER (ORDER BY id) AS number FROM tenants WHERE {SERVED}"  # noqa: S608  # our names
    drawn = f"SELECT uid FROM ({numbered}) AS numbered WHERE number IN ({placeholders(numbers)})"  # noqa: S608  # our names
    return f"uid IN ({drawn}) ORDER BY id"


def change(
    before: TenantRecord, after: TenantRecord, fields: Collection[str], audit: Statement | None
) -> list[Statement]:
    """Return the statements that change a tenant if its revision is still ``before.revision``; the last one counts the changed rows.

    Args:
        before: The tenant's record, as it was read.
        after: The changed record.
        fields: The names of the changed fields.
        audit: The statement that appends a row to the audit, only if the tenant is changed.
    """
    row = dict(zip(COLUMNS, to_row(after), strict=True))
    where, key = "uid = ? AND revision = ?", (before.uid, before.revision)
    unit = []
    if "id" in fields:
        unit.append(_free_id("catalog.change", after.id))
    if audit is not None:
        unit.append(append_if(f"EXISTS (SELECT 1 FROM tenants WHERE {where})", key, audit))  # noqa: S608  # our names
    sql = f"UPDATE tenants SET {' = ?, '.join(fields)} = ? WHERE {where}"  # noqa: S608  # our names
    parameters: tuple[Any, ...] = (*(row[name] for name in fields), *key)
    return [*unit, Statement("catalog.change", sql, parameters, Fetch.ROWCOUNT)]


def record_opened(uid: str, versions: dict[str, int], error: str | None) -> Statement:
    """Return the statement that records the result of a tenant's last opening."""
    sql = "UPDATE tenants SET schema_versions = ?, last_error = ? WHERE uid = ?"
    parameters = (json.dumps(versions, sort_keys=True), error, uid)
    return Statement("catalog.record_opened", sql, parameters)


def remove(tenant: TenantRecord) -> Statement:
    """Return the statement that removes a tenant if the stored state is still the state in `tenant`."""
    sql = "DELETE FROM tenants WHERE uid = ? AND state = ?"
    return Statement("catalog.remove", sql, (tenant.uid, tenant.state))


def _free_id(operation: str, tenant_id: TenantId) -> Statement:
    """Return the statement that frees a tenant's id by removing a purged tenant, unless the purge is unfinished."""
    sql = f"DELETE FROM tenants WHERE id = ? AND {_GONE} AND intent IS NULL"  # noqa: S608  # our names
    return Statement(operation, sql, (tenant_id,))
