"""Describes and creates tables that no schema pack knows, see `PlainTable`."""

import re
import sqlite3
from typing import Final

from tenantry.storage.plain_tables import Kind, NotPlainError, PlainColumn, PlainIndex, PlainTable
from tenantry.storage.sqlite.foreign.schema_objects import sql_tokens
from tenantry.storage.sqlite.statements.sql_text import folded, quoted

_TYPES: Final = {
    Kind.INTEGER: "INTEGER",
    Kind.REAL: "REAL",
    Kind.TEXT: "TEXT",
    Kind.BLOB: "BLOB",
}
# SQLite derives a column's affinity from words of its type (https://www.sqlite.org/datatype3.html, section 3.1).
_KINDS: Final = (
    (re.compile("int"), Kind.INTEGER),
    (re.compile("char|clob|text"), Kind.TEXT),
    (re.compile("blob"), Kind.BLOB),
    (re.compile("real|floa|doub"), Kind.REAL),
)
_LOST: Final = frozenset(["check", "collate", "references", "foreign", "generated", "conflict"])


def create_plain_table(table: PlainTable, connection: sqlite3.Connection) -> None:
    """Create the table with its indexes."""
    parts = [
        f"{quoted(column.name)} {_TYPES[column.kind]}{' NOT NULL' if column.is_not_null else ''}"
        for column in table.columns
    ]
    if table.primary_key:
        parts.append(f"PRIMARY KEY ({', '.join(map(quoted, table.primary_key))})")
    connection.execute(f"CREATE TABLE {quoted(table.name)} ({', '.join(parts)}) STRICT")
    for number, index in enumerate(table.indexes):
        unique = "UNIQUE " if index.is_unique else ""
        columns = ", ".join(map(quoted, index.columns))
        name = quoted(f"{table.name}_copied_{number}")
        connection.execute(f"CREATE {unique}INDEX {name} ON {quoted(table.name)} ({columns})")


def describe_plain_table(name: str, connection: sqlite3.Connection) -> PlainTable:
    """Describe a table for another back end.

    Raises:
        NotPlainError: A copy would lose a property of the table.
    """
    (sql,) = connection.execute(
        "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,)
    ).fetchone()
    lost = _LOST.intersection(map(folded, sql_tokens(sql)))
    if lost:
        raise NotPlainError(f"the word {min(lost).upper()} in its definition")
    if connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?", (name,)
    ).fetchone():
        raise NotPlainError("a trigger")
    found = connection.execute(
        'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_xinfo(?) ORDER BY cid', (name,)
    ).fetchall()
    primary = tuple(row[0] for row in sorted(found, key=lambda row: row[4]) if row[4])
    columns = []
    for column, type_, is_not_null, default, position in found:
        if default is not None:
            raise NotPlainError(f"the default of column {column!r}")
        columns.append(PlainColumn(column, _kind(column, type_), bool(is_not_null or position)))
    is_numbered = len(primary) == 1 and any(
        row[0] == primary[0] and folded(row[1]) == "integer" for row in found
    )
    return PlainTable(name, tuple(columns), primary, is_numbered, _indexes(name, connection))


def _kind(column: str, type_: str) -> Kind:
    for words, kind in _KINDS:
        if words.search(folded(type_)):
            return kind
    raise NotPlainError(f"the type {type_ or 'of any value'!r} of column {column!r}")


def _indexes(name: str, connection: sqlite3.Connection) -> tuple[PlainIndex, ...]:
    indexes = []
    sql = 'SELECT name, "unique", origin, partial FROM pragma_index_list(?) ORDER BY seq DESC'
    for index, is_unique, origin, is_partial in connection.execute(sql, (name,)).fetchall():
        if origin == "pk":
            continue
        columns = connection.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", (index,))
        names = tuple(column for (column,) in columns)
        if is_partial or None in names:
            raise NotPlainError(f"the index {index!r} on an expression or on a part of the rows")
        indexes.append(PlainIndex(names, bool(is_unique)))
    return tuple(indexes)
