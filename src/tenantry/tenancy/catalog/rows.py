"""Tenants as rows of the catalog's table."""

import json
from typing import Final

from tenantry.clock import as_text
from tenantry.errors import MalformedRowError
from tenantry.statements import Row
from tenantry.tenancy.tenant_record import TenantRecord

COLUMNS: Final = tuple(TenantRecord.model_fields)
INSERT: Final = f"INSERT INTO tenants ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608  # our names
SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM tenants"  # noqa: S608  # our names
_JSON_COLUMNS: Final = ("schema_versions", "intent", "limits")
_TIME_COLUMNS: Final = ("created_at", "state_changed_at", "purge_after", "snapshot_due_at")


def to_row(tenant: TenantRecord) -> Row:
    """Return the row of a tenant."""
    values = tenant.model_dump(mode="json")
    for column in _TIME_COLUMNS:
        if (instant := getattr(tenant, column)) is not None:
            values[column] = as_text(instant)
    for column in _JSON_COLUMNS:
        if values[column] is not None:
            values[column] = json.dumps(values[column], sort_keys=True)
    return tuple(values[column] for column in COLUMNS)


def from_row(row: Row) -> TenantRecord:
    """Return the tenant of a row of `SELECT`.

    Raises:
        MalformedRowError: It cannot be read.
    """
    values = dict(zip(COLUMNS, row, strict=True))
    try:
        for column in _JSON_COLUMNS:
            if values[column] is not None:
                values[column] = json.loads(values[column])
        return TenantRecord.model_validate(values)
    except (TypeError, ValueError) as error:
        # A state that only a newer tenantry knows, for example.
        raise MalformedRowError(
            f"the catalog's entry of tenant {values['id']!r} cannot be read: {error}",
            entity="tenant",
            record_id=str(values["id"]),
        ) from error
