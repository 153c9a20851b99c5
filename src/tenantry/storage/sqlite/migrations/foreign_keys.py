"""Finds rows that lose their parent row in a migration.

SQLite's procedure for changing a table (https://www.sqlite.org/lang_altertable.html, section 7) turns foreign keys off and checks them
at the end. A row that lacked its parent row before the migration must not fail the migration, so all such rows are recorded
first, in a temporary table because the number of rows is not limited.
"""

import sqlite3
from typing import Final, NamedTuple

_SHOWN_MAX: Final = 5
_CHILDREN: Final = """
SELECT DISTINCT child.name FROM sqlite_schema AS child, pragma_foreign_key_list(child.name, 'main')
WHERE child.type = 'table' ORDER BY child.name
"""
_HAS_PARENTS: Final = """
SELECT NOT EXISTS (
    SELECT 1 FROM pragma_foreign_key_list(:child, 'main') AS key WHERE NOT EXISTS (
        SELECT 1 FROM sqlite_schema AS parent WHERE parent.type = 'table' AND parent.name = key."table" COLLATE NOCASE
    )
)
"""
_FIND: Final = """SELECT "rowid", parent FROM pragma_foreign_key_check(:child, 'main') LIMIT :rows_max"""
_CREATE: Final = (
    "CREATE TEMP TABLE IF NOT EXISTS tenantry_orphans (child TEXT, row_id INTEGER, parent TEXT, rows INTEGER)",
    "CREATE INDEX IF NOT EXISTS temp.tenantry_orphans_row ON tenantry_orphans (child, row_id)",
)
_DROP: Final = "DROP TABLE temp.tenantry_orphans"
# The pragma reports no row number for a table without rowids, so the counts of rows are compared.
_NOTE: Final = """
INSERT INTO temp.tenantry_orphans
SELECT :child, "rowid", parent, count(*) FROM pragma_foreign_key_check(:child, 'main') GROUP BY "rowid", parent
"""
_FIND_NEW: Final = """
SELECT "rowid", parent FROM pragma_foreign_key_check(:child, 'main') AS found GROUP BY "rowid", parent
HAVING count(*) > coalesce((
    SELECT rows FROM temp.tenantry_orphans AS noted
    WHERE noted.child = :child AND noted.row_id IS found."rowid" AND noted.parent = found.parent
), 0)
LIMIT :rows_max
"""


class OrphanedRowsError(Exception):
    """A migration leaves rows without their parent rows. The message names some of these rows."""

    sqlite_errorname = "SQLITE_CONSTRAINT_FOREIGNKEY"


class Noted(NamedTuple):
    """The tables that had foreign keys before a step.

    Attributes:
        whole: The tables that can be checked and whose parent tables all exist.
        unchecked: The tables that cannot be checked, because a parent table lacks the referenced unique key.
        orphaned: The tables that have rows without a parent row.
    """

    whole: frozenset[str]
    unchecked: frozenset[str]
    orphaned: frozenset[str]


def note_orphans(connection: sqlite3.Connection) -> Noted:
    """Record the rows that have no parent row, inside the step's transaction."""
    children = _children(connection)
    found = {child: _has_orphans(child, connection) for child in children}
    orphaned = frozenset(child for child in children if found[child])
    for child in orphaned:
        _note(child, connection)
    unchecked = frozenset(child for child in children if found[child] is None)
    whole = frozenset(child for child in children if _has_parents(child, connection))
    return Noted(whole - unchecked, unchecked, orphaned)


def check_orphans(noted: Noted, connection: sqlite3.Connection) -> None:
    """Check, in the step's transaction, that every row without a parent row was recorded by `note_orphans`.

    Raises:
        OrphanedRowsError: The step removed the parents of some rows, or added rows without a parent.
        sqlite3.OperationalError: A parent table has lost the unique key that its child tables reference.
    """
    found: list[str] = []
    for child in _children(connection):
        if child not in noted.unchecked:
            found += _new_orphans(child, noted, connection)
    if noted.orphaned:
        connection.execute(_DROP)
    if found:
        more = ", and more" if len(found) > _SHOWN_MAX else ""
        raise OrphanedRowsError(f"{'; '.join(found[:_SHOWN_MAX])}{more}")


def _children(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute(_CHILDREN).fetchall()]


def _has_parents(child: str, connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(_HAS_PARENTS, {"child": child}).fetchone()[0])


def _has_orphans(child: str, connection: sqlite3.Connection) -> bool | None:
    """Return whether the table has rows without a parent row; None if the table cannot be checked."""
    try:
        return connection.execute(_FIND, {"child": child, "rows_max": 1}).fetchone() is not None
    except sqlite3.OperationalError as error:
        if not _lacks_key(error):
            raise
        return None


def _note(child: str, connection: sqlite3.Connection) -> None:
    for sql in _CREATE:
        connection.execute(sql)
    connection.execute(_NOTE, {"child": child})


def _new_orphans(child: str, noted: Noted, connection: sqlite3.Connection) -> list[str]:
    sql = _FIND_NEW if child in noted.orphaned else _FIND
    try:
        rows = connection.execute(sql, {"child": child, "rows_max": _SHOWN_MAX + 1}).fetchall()
    except sqlite3.OperationalError as error:
        if child in noted.whole or not _lacks_key(error):
            raise
        return []  # a later migration may add the missing unique key
    return [
        f"a row of {child} has no row in {parent}"
        if row_id is None
        else f"row {row_id} of {child} has no row in {parent}"
        for row_id, parent in rows
    ]


def _lacks_key(error: sqlite3.OperationalError) -> bool:
    """Return whether the parent table has no unique key with the columns that the child table references."""
    return error.sqlite_errorcode == sqlite3.SQLITE_ERROR
