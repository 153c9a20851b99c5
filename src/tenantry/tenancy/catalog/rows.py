"""Rows of the catalog's tables as models, and tenants as rows."""

import json
from collections.abc import Sequence
from typing import Final, TypeVar

from pydantic import BaseModel

from tenantry.clock import as_text
from tenantry.errors import MalformedRowError
from tenantry.sql.statements import Sql, TupleRow
from tenantry.tenancy.tenant_record import TenantRecord

ModelT = TypeVar("ModelT", bound=BaseModel)

COLUMNS: Final = tuple(TenantRecord.model_fields)
INSERT: Final = f"INSERT INTO tenants ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608  # our names
SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM tenants"  # noqa: S608  # our names
ID_IN_JSON: Final = Sql({"sqlite": "id IN (SELECT value FROM json_each(?))"})
"""The condition that a tenant's id is in a list of any length, which is one value: a JSON array."""
_JSON_COLUMNS: Final = ("schema_versions", "intent", "limits")
_TIME_COLUMNS: Final = ("created_at", "state_changed_at", "purge_after", "snapshot_due_at")


def after_prefix(id_prefix: str) -> str:
    """Return the first text after all ids that begin with a prefix."""
    return f"{id_prefix}{{"  # the character after "z", which is the last one of an id


def to_row(tenant: TenantRecord) -> TupleRow:
    """Return the row of a tenant."""
    values = tenant.model_dump(mode="json")
    for column in _TIME_COLUMNS:
        if (instant := getattr(tenant, column)) is not None:
            values[column] = as_text(instant)
    for column in _JSON_COLUMNS:
        if values[column] is not None:
            values[column] = json.dumps(values[column], sort_keys=True)
    return tuple(values[column] for column in COLUMNS)


def from_row(row: TupleRow) -> TenantRecord:
    """Return the tenant of a row of `SELECT`."""
    return decode_row(TenantRecord, COLUMNS, row, entity="tenant", json_columns=_JSON_COLUMNS)


def decode_row(
    model: type[ModelT],
    columns: Sequence[str],
    row: TupleRow,
    *,
    entity: str,
    json_columns: Sequence[str] = (),
) -> ModelT:
    """Return the model of a row.

    Args:
        model: The model. Its fields have the names of the columns.
        columns: The columns of the row, in order. The first one names the record in an error.
        row: The row.
        entity: What an error calls the record: ``fleet_job``.
        json_columns: The columns that hold JSON, or NULL.

    Raises:
        MalformedRowError: The row cannot be read. A newer tenantry may have written it, with a state that this one does not know.
    """
    values = dict(zip(columns, row, strict=True))
    record_id = values[columns[0]]
    try:
        for column in json_columns:
            if values[column] is not None:
                values[column] = json.loads(values[column])
        return model.model_validate(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedRowError(
            f"the catalog's entry of {entity.replace('_', ' ')} {record_id!r} cannot be read: {error}",
            entity=entity,
            record_id=str(record_id),
        ) from error
