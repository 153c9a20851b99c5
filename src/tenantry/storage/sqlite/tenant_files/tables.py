"""The tables of a tenant file that contain the packs' rows."""

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from tenantry.storage.sqlite.foreign.schema_objects import sql_tokens
from tenantry.storage.sqlite.statements.sql_text import folded, quoted

CONTROL_TABLES: Final = frozenset(
    ["schema_migrations", "tenantry_forwarded", "tenantry_idempotency", "tenantry_owner"]
)
"""The tables of tenantry itself, which each back end creates in its own form."""

_TABLES: Final = """
SELECT list.name, list.wr, coalesce(master.sql, '') AS sql
FROM pragma_table_list AS list LEFT JOIN sqlite_schema AS master ON master.type = 'table' AND master.name = list.name
WHERE list.schema = 'main' AND list.type = 'table' AND list.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
ORDER BY list.name
"""
_COLUMNS: Final = "SELECT name, type, pk FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid"
_ROWID_NAMES: Final = ("rowid", "_rowid_", "oid")


class FileTable(NamedTuple):
    """A table with rows of its own: not a view, a virtual table or a table behind a virtual table.

    Attributes:
        columns: The declared type of each column that stores values, by name; generated columns are missing.
        key: The expressions of the order in which SQLite reads the table: the rowid, or the primary key.
        key_names: The columns whose values name a row for people.
    """

    name: str
    columns: dict[str, str]
    key: tuple[str, ...]
    key_names: tuple[str, ...]
    has_autoincrement: bool

    def select(self, columns: Sequence[str]) -> str:
        """Return the statement that reads these columns of all rows, in the order of the key."""
        names = ", ".join(map(quoted, columns))
        return f"SELECT {names} FROM {quoted(self.name)} ORDER BY {', '.join(self.key)}"  # noqa: S608

    def select_key(self) -> str:
        """Return the statement that reads the values of `key_names` of the row at a position in the order of `select`."""
        names = ", ".join(map(quoted, self.key_names)) or self.key[0]
        return f"SELECT {names} FROM {quoted(self.name)} ORDER BY {', '.join(self.key)} LIMIT 1 OFFSET ?"  # noqa: S608


def read_tables(connection: sqlite3.Connection) -> dict[str, FileTable]:
    """Return the tables with rows, by name, without the tables of tenantry itself."""
    return {
        name: _read_table(name, sql, connection, is_without_rowid=bool(is_without_rowid))
        for name, is_without_rowid, sql in connection.execute(_TABLES).fetchall()
        if folded(name) not in CONTROL_TABLES
    }


def _read_table(name: str, sql: str, connection: sqlite3.Connection, *, is_without_rowid: bool) -> FileTable:
    found = connection.execute(_COLUMNS, (name,)).fetchall()
    columns = {column: type_ or "" for column, type_, _ in found}
    primary = tuple(column for column, _, position in sorted(found, key=lambda column: column[2]) if position)
    taken = set(map(folded, columns))
    rowid = next((one for one in _ROWID_NAMES if one not in taken), None)
    has_rowid = not is_without_rowid and rowid is not None
    key = (str(rowid),) if has_rowid else tuple(map(quoted, primary)) or ("1",)
    return FileTable(name, columns, key, primary, has_autoincrement="autoincrement" in sql_tokens(sql))
