"""Reads the tables of a database that can move to another back end, and removes a journal."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

from tenantry.storage.moves import CONTROL_TABLES, JOURNAL, MovedTable
from tenantry.storage.sqlite.statements.sql_text import folded, quoted

_TABLES: Final = (
    "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND type <> 'view' ORDER BY name"
)
_COLUMNS: Final = "SELECT name, upper(type), pk, hidden FROM pragma_table_xinfo(?) ORDER BY cid"
_UNIQUE: Final = "SELECT name FROM pragma_index_list(?) WHERE \"unique\" AND origin <> 'pk' ORDER BY name"
_INDEXED: Final = "SELECT name FROM pragma_index_info(?) ORDER BY seqno"
_FIND_JOURNAL: Final = "SELECT count(*) FROM sqlite_schema WHERE name = ?"
_JOURNAL: Final = "SELECT type, name FROM sqlite_schema WHERE type = ? AND substr(name, 1, ?) = ?"


def read_tables(connection: sqlite3.Connection) -> list[MovedTable]:
    """Return the tables with the tenant's data."""
    return [
        _table(name, kind, connection)
        for name, kind in connection.execute(_TABLES).fetchall()
        if not _is_internal(folded(name))
    ]


def unique_columns(table: MovedTable, connection: sqlite3.Connection) -> Iterator[list[str]]:
    """Yield the columns of each unique index beside the primary key. An index on an expression is left out."""
    for (index,) in connection.execute(_UNIQUE, (table.name,)).fetchall():
        columns = [name for (name,) in connection.execute(_INDEXED, (index,))]
        if None not in columns:
            yield columns


def find_journal(connection: sqlite3.Connection) -> bool:
    """Return whether the database has a journal."""
    return bool(connection.execute(_FIND_JOURNAL, (JOURNAL,)).fetchone()[0])


def remove_journal(connection: sqlite3.Connection) -> None:
    """Remove a journal in a transaction; a no-op if there is no journal. The triggers are removed first."""
    found = [
        *connection.execute(_JOURNAL, ("trigger", len(JOURNAL), JOURNAL)).fetchall(),
        *connection.execute(_JOURNAL, ("table", len(JOURNAL), JOURNAL)).fetchall(),
    ]
    if not found:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for kind, name in found:
            connection.execute(f"DROP {kind} {quoted(name)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def listed(names: Sequence[str]) -> str:
    """Return names in quotes, separated by commas."""
    return ", ".join(map(quoted, names))


def _table(name: str, kind: str, connection: sqlite3.Connection) -> MovedTable:
    columns = connection.execute(_COLUMNS, (name,)).fetchall()
    key = [(position, column) for column, _, position, _ in columns if position]
    refusal = None
    if kind != "table":
        refusal = f"it is a {kind} table"
    elif not key:
        refusal = "it has no primary key"
    return MovedTable(
        name,
        tuple(column for column, _, _, hidden in columns if not hidden),
        tuple(type_ for _, type_, _, hidden in columns if not hidden),
        tuple(column for _, column in sorted(key)),
        refusal,
    )


def _is_internal(name: str) -> bool:
    return name.startswith(("sqlite_", JOURNAL)) or name in CONTROL_TABLES
