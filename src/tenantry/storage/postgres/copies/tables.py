"""The tables of a tenant's schema that contain the packs' rows, read from the server's catalogs."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from psycopg import Connection

from tenantry.errors import SnapshotError
from tenantry.storage.moves import JOURNAL

CONTROL_TABLES: Final = frozenset(
    ["schema_migrations", "tenantry_batches", "tenantry_idempotency", "tenantry_owner"]
)
"""The tables of tenantry itself, which each back end creates in its own form."""

# A column of a domain has the values of the domain's type. A partition's rows are those of its table.
COLUMNS_SQL: Final = """
SELECT c.relname, a.attname, coalesce(base.typname, t.typname), a.attnotnull,
    a.attidentity <> '' OR pg_get_serial_sequence(format('%%I.%%I', n.nspname, c.relname), a.attname) IS NOT NULL
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute AS a
    ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
LEFT JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type AS base ON t.typtype = 'd' AND base.oid = t.typbasetype
WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY c.relname, a.attnum
"""


class Column(NamedTuple):
    """A column that stores values.

    Attributes:
        type: The server's name of the type, such as ``int8``; of a domain its base type.
        is_numbered: Whether the server numbers new rows in this column.
    """

    name: str
    type: str
    is_not_null: bool
    is_numbered: bool


class Table(NamedTuple):
    """A table with its columns, without generated columns."""

    name: str
    columns: tuple[Column, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in the table's order."""
        return tuple(column.name for column in self.columns)

    def columns_named(self, names: tuple[str, ...]) -> tuple[Column, ...]:
        """Return the columns with these names, in the order of the names."""
        by_name = {column.name: column for column in self.columns}
        return tuple(by_name[name] for name in names)

    def check_columns(self, names: Iterable[str], places: str) -> None:
        """Check that the table has exactly the columns with these names.

        Args:
            names: The names of the columns in a tenant file.
            places: Both places of the columns, for the message.

        Raises:
            SnapshotError: A column is in only one of the places; the message names the column.
        """
        difference = set(self.column_names) ^ set(names)
        if difference:
            raise SnapshotError(
                f"the column {min(difference)!r} of table {self.name!r} is not in both {places}: the migrations for both back ends must "
                "create the same columns"
            )


def read_tables(connection: Connection[tuple[Any, ...]], schema: str) -> dict[str, Table]:
    """Return the tables of a schema, by name, without the tables of tenantry itself."""
    found: dict[str, list[Column]] = {}
    for name, *column in connection.execute(COLUMNS_SQL, (schema,)).fetchall():
        columns = found.setdefault(name, [])
        if column[0] is not None:
            columns.append(Column(*column))
    return {
        name: Table(name, tuple(columns))
        for name, columns in found.items()
        if name not in CONTROL_TABLES and not name.startswith(JOURNAL)
    }
