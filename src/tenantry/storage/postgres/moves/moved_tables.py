"""Reads the tables of a schema that can move to another back end.

These functions block; each call runs on its own thread.
"""

from collections.abc import Sequence
from typing import Any, Final

from psycopg import Connection

from tenantry.storage.moves import MovedTable
from tenantry.storage.postgres.copies.tables import Column, Table, read_tables
from tenantry.storage.postgres.quoting import quoted

KEYS_TABLE: Final = "tenantry_idempotency"
"""The table of idempotency keys, which each back end creates in its own form, and which moves with the tenant."""

_KEYS_COLUMNS: Final = (
    Column("key", "varchar", is_not_null=True, is_numbered=False),
    Column("payload_hash", "bytea", is_not_null=True, is_numbered=False),
    Column("results", "text", is_not_null=True, is_numbered=False),
    Column("created_at", "timestamptz", is_not_null=True, is_numbered=False),
)
_PRIMARY_KEYS: Final = """
SELECT c.relname, array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum))
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
WHERE n.nspname = %s AND i.indisprimary GROUP BY c.relname
"""


def read_columns(connection: Connection[tuple[Any, ...]], schema: str) -> dict[str, Table]:
    """Return the tables with the tenant's data, by name, with the table of idempotency keys."""
    keys = Table(KEYS_TABLE, _KEYS_COLUMNS)
    return {KEYS_TABLE: keys, **read_tables(connection, schema)}


def read_moved_tables(connection: Connection[tuple[Any, ...]], schema: str) -> list[MovedTable]:
    """Return the tables with the tenant's data, in the order of their names."""
    found = read_columns(connection, schema)
    keys = dict(connection.execute(_PRIMARY_KEYS, (schema,)).fetchall())
    return [_moved(found[name], tuple(keys.get(name, ()))) for name in sorted(found)]


def count_rows(
    connection: Connection[tuple[Any, ...]], schema: str, tables: Sequence[MovedTable]
) -> dict[str, int]:
    """Return the number of rows of each table."""
    counts = {}
    for table in tables:
        sql = f"SELECT count(*) FROM {quoted(schema, table.name)}"  # noqa: S608  # quoted
        (counts[table.name],) = connection.execute(sql.encode()).fetchone() or (0,)
    return counts


def _moved(table: Table, key: tuple[str, ...]) -> MovedTable:
    return MovedTable(
        table.name,
        table.column_names,
        tuple(column.type for column in table.columns),
        key,
        None if key else "it has no primary key",
    )
