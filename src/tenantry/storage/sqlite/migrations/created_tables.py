"""The tables that a pack's migrations make in SQLite, after each migration."""

from collections.abc import Sequence
from contextlib import closing
from typing import Final

from tenantry.schemas.schema import Schema
from tenantry.storage.pack_tables import Tables, kind_of_sqlite
from tenantry.storage.sqlite.migrations.memory_database import database_of

# Virtual tables, and the tables in which they keep their rows, have no counterpart in another back end. The last two kinds of hidden
# columns are generated.
_COLUMNS: Final = """
SELECT found.name, columns.name, columns.type FROM pragma_table_list AS found, pragma_table_xinfo(found.name) AS columns
WHERE found.schema = 'main' AND found.type = 'table' AND found.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
    AND found.name <> 'schema_migrations' AND columns.hidden NOT IN (2, 3)
"""


def tables_after_each(schema: Schema) -> Sequence[Tables]:
    """Return the tables after the first migration, after the second, and so on.

    Raises:
        MigrationError: A migration failed on an empty database.
    """
    migrations = schema.migrations("sqlite")
    found = []
    for count in range(1, len(migrations) + 1):
        tables: dict[str, dict[str, str]] = {}
        with closing(database_of(migrations[:count], [schema])) as connection:
            for table, column, declared in connection.execute(_COLUMNS):
                tables.setdefault(table, {})[column] = kind_of_sqlite(declared)
        found.append(tables)
    return found
