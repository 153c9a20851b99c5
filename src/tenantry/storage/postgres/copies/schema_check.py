"""Checks a tenant's schema: its owner, its tables, its indexes, and with the extension amcheck the contents of its indexes.

A thorough check reads every table and compares indexes as the check of an open tenant does (`integrity`). This function
blocks; each call runs on its own thread.
"""

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import Connection

from tenantry.errors import DatabaseCorruptError
from tenantry.schemas.schema import Schema
from tenantry.storage.artifacts import expected_tables
from tenantry.storage.postgres import integrity
from tenantry.storage.postgres.copies.copy_out import read_mark
from tenantry.storage.postgres.copies.tables import read_tables
from tenantry.storage.postgres.quoting import quoted
from tenantry.threads import check_cancelled

_PROBLEMS_SHOWN_MAX: Final = 5
_INVALID_INDEXES: Final = """
SELECT format('the index %%I is not valid', c.relname)
FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND NOT (i.indisvalid AND i.indisready AND i.indislive) ORDER BY c.relname
"""
_DISABLED_CONSTRAINTS: Final = """
SELECT format('the constraint %%I is not validated', c.conname)
FROM pg_catalog.pg_constraint AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.connamespace
WHERE n.nspname = %s AND NOT c.convalidated ORDER BY c.conname
"""


def check_schema(
    connection: Connection[tuple[Any, ...]],
    schema: str,
    uid: str,
    schemas: Sequence[Schema],
    *,
    is_thorough: bool,
) -> None:
    """Check a tenant's schema.

    Args:
        connection: A connection with autocommit.
        schema: The schema's name.
        uid: The tenant's stable key.
        schemas: The packs.
        is_thorough: Whether to read all tables, and to compare indexes with their tables if the extension amcheck is there.

    Raises:
        DatabaseCorruptError: The schema is missing, damaged, or belongs to another tenant; the message names the damaged parts.
        MigrationError: The schema is newer than the code.
        psycopg.Error: The server cannot read the schema.
    """
    mark = read_mark(connection, schema)
    if mark.tenant_uid != uid:
        raise DatabaseCorruptError(
            f"the schema {schema!r} belongs to the tenant with the key {mark.tenant_uid!r} and not to {uid!r}: restore a snapshot, or "
            "move the right schema to its place"
        )
    problems = _differences(connection, schema, schemas, dict(mark.versions))
    for query in (_INVALID_INDEXES, _DISABLED_CONSTRAINTS):
        problems += [problem for (problem,) in connection.execute(query, (schema,)).fetchall()]
    if is_thorough and not problems:
        problems = _read_all(connection, schema)
    if problems:
        raise DatabaseCorruptError(
            f"the schema {schema!r} is damaged: {'; '.join(problems[:_PROBLEMS_SHOWN_MAX])}: restore a snapshot, or correct the schema"
        )


def _differences(
    connection: Connection[tuple[Any, ...]], schema: str, schemas: Sequence[Schema], versions: dict[str, int]
) -> list[str]:
    """Return the tables and columns that the packs' migrations create and that are missing."""
    known = [one for one in schemas if one.name in versions]
    found = read_tables(connection, schema)
    problems = []
    for name, table in expected_tables(known, versions).items():
        if name not in found:
            problems.append(f"the table {name} is missing")
            continue
        missing = table.columns.keys() - set(found[name].column_names)
        problems += [f"the column {column} of table {name} is missing" for column in sorted(missing)]
    return problems


def _read_all(connection: Connection[tuple[Any, ...]], schema: str) -> list[str]:
    """Return the damage that the server finds in tables, large values and indexes."""
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('search_path', %s, true)", (quoted(schema),))
            connection.execute(integrity.SETTINGS)
            for (table,) in connection.execute(integrity.TABLES).fetchall():
                check_cancelled()
                connection.execute(integrity.reading(table, is_thorough=True))
            for index, namespace in connection.execute(integrity.INDEXES).fetchall():
                check_cancelled()
                connection.execute(integrity.comparing(index, namespace))
    except (psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted) as error:
        return [error.diag.message_primary or str(error)]
    return []
