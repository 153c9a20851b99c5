"""Converts rows of the catalog's tables to models, and tenants' records to rows."""

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
ID_IN_JSON: Final = Sql(
    {
        "sqlite": "id IN (SELECT value FROM json_each(?))",
        "postgres": "id IN (SELECT jsonb_array_elements_text(?))",
    }
)
"""The condition that a tenant's id is in a list; its one parameter is the list as a JSON array."""
_JSON_COLUMNS: Final = ("schema_versions", "intent", "limits")
_TIME_COLUMNS: Final = ("created_at", "state_changed_at", "purge_after", "snapshot_due_at")


def after_prefix(id_prefix: str) -> str:
    """Return a string that sorts after all ids with this prefix."""
    return f"{id_prefix}{{"  # "{" follows "z", the last character that an id can have


def to_row(tenant: TenantRecord) -> TupleRow:
    """Return a tenant's record as a row."""
    values = tenant.model_dump(mode="json")
    for column in _TIME_COLUMNS:
        if (instant := getattr(tenant, column)) is not None:
            values[column] = as_text(instant)
    for column in _JSON_COLUMNS:
        if values[column] is not None:
            values[column] = json.dumps(values[column], sort_keys=True)
    return tuple(values[column] for column in COLUMNS)


def from_row(row: TupleRow) -> TenantRecord:
    """Return a row of `SELECT` as a tenant's record."""
    return decode_row(TenantRecord, COLUMNS, row, entity="tenant", json_columns=_JSON_COLUMNS)


def decode_row(
    model: type[ModelT],
    columns: Sequence[str],
    row: TupleRow,
    *,
    entity: str,
    json_columns: Sequence[str] = (),
) -> ModelT:
    """Return a row as a model.

    Args:
        model: The model; its fields have the names of the columns.
        columns: The names of the row's columns, in order. The first column must be the record's id.
        row: The row.
        entity: The kind of record for error messages: ``fleet_job``.
        json_columns: The names of the columns that contain JSON or NULL.

    Raises:
        MalformedRowError: The row cannot be read, for example because a newer version of tenantry has written it.
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
            f"the catalog's record of {entity.replace('_', ' ')} {record_id!r} cannot be read: {error}",
            entity=entity,
            record_id=str(record_id),
        ) from error
