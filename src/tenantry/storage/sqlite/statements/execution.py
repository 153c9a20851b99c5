"""Runs one statement of a repository. The authorizer checks each new SQL text; `Fetch` selects the result."""

import sqlite3
from typing import Final

from tenantry.errors import QueryError
from tenantry.sql.row import Columns, Row
from tenantry.sql.statements import Fetch, Result, Statement
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, error_text, is_damage, is_undecodable
from tenantry.storage.sqlite.statements.authorizer import RefusedActionError, judge_of, judged
from tenantry.storage.sqlite.statements.placeholders import NumberedStatement, find_numbered

DIALECT: Final = "sqlite"

_DISTINCT_STATEMENTS_MAX: Final = 4096
_UNKNOWN: Final = NumberedStatement("", 0)
known_texts: Final[dict[str, NumberedStatement | None]] = {}
"""The SQL texts that were authorized and have run, with their executable forms. Each text is authorized once in a process.

The authorizer is removed after each new text. Otherwise SQLite would call it for each column of each prepared statement, and each call
would wait for the interpreter lock.
"""


def run_statement(statement: Statement, connection: sqlite3.Connection) -> Result:
    """Execute one statement and return the result that its `Fetch` selects.

    Raises:
        QueryError: The statement would change the connection or the transaction; nothing was changed.
        Exception: The driver's error for the statement and its parameters.
    """
    sql = statement.text(DIALECT)
    numbered = known_texts.get(sql, _UNKNOWN)
    try:
        if numbered is not _UNKNOWN:
            return _execute(sql, statement, numbered, connection)
        return _run_judged(sql, statement, connection)
    except (UnicodeDecodeError, sqlite3.OperationalError) as error:
        if not is_undecodable(error) or _is_schema_damaged(connection):
            raise
        # SQLite's message quotes the caller's own bytes, or a text in a row is not valid UTF-8.
        raise QueryError(f"{statement.name}: {error_text(error)}", code=type(error).__name__) from error


def _run_judged(sql: str, statement: Statement, connection: sqlite3.Connection) -> Result:
    """Run a statement with a new SQL text under the authorizer."""
    numbered = find_numbered(sql)
    try:
        with judged(judge_of(sql), connection):
            result = _execute(sql, statement, numbered, connection)
    except RefusedActionError as error:
        raise QueryError(
            f"{statement.name}: a statement may not use {error.action}, because {error.reason}"
        ) from error
    except sqlite3.IntegrityError:
        # SQLite refused a row, so the authorizer allowed the statement. The SQL text need not be authorized again.
        _remember(sql, numbered)
        raise
    _remember(sql, numbered)
    return result


def _remember(sql: str, numbered: NumberedStatement | None) -> None:
    if len(known_texts) >= _DISTINCT_STATEMENTS_MAX:
        known_texts.clear()
    known_texts[sql] = numbered


def _execute(
    sql: str, statement: Statement, numbered: NumberedStatement | None, connection: sqlite3.Connection
) -> Result:
    changes = connection.total_changes
    if numbered is None:
        cursor = connection.execute(sql, statement.parameters)
    else:
        cursor = connection.execute(numbered.sql, numbered.names(statement.parameters))
    fetch = statement.fetch
    if fetch is Fetch.NONE:
        if cursor.description is None:
            return None
        cursor.close()  # this ends the statement: its changes can now be counted and rolled back
        raise QueryError(
            f"{statement.name} returns rows, but its Fetch is NONE: nothing was written; use a Fetch that returns rows, or remove "
            "RETURNING"
        )
    try:
        if fetch is Fetch.ALL:
            return cursor.fetchall()
        if fetch is Fetch.ONE:
            return cursor.fetchone()
        if fetch is Fetch.ROWCOUNT:
            return count_rows(cursor, changes, connection)
        return _fetch_named(statement, cursor)
    except BaseException:
        # The error's traceback keeps the cursor alive, and a running statement would prevent COMMIT.
        cursor.close()
        raise


def _fetch_named(statement: Statement, cursor: sqlite3.Cursor) -> Result:
    """Return the rows with the names of their columns.

    Raises:
        QueryError: The statement cannot return rows.
    """
    if cursor.description is None:
        raise QueryError(
            f"{statement.name} cannot return rows, but its Fetch is {statement.fetch.name}: nothing was written; add RETURNING, "
            "or use another Fetch"
        )
    columns = Columns(tuple(column[0] for column in cursor.description))
    if statement.fetch is Fetch.NAMED_ALL:
        return [Row(columns, values) for values in cursor]
    values = cursor.fetchone()
    return None if values is None else Row(columns, values)


def _is_schema_damaged(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
    except DRIVER_ERRORS as error:
        return is_damage(error)
    return False


def count_rows(cursor: sqlite3.Cursor, changes_before: int, connection: sqlite3.Connection) -> int:
    """Return the number of rows that the statement itself changed, without the effects of triggers and foreign keys.

    Python counts rows only for statements that begin with INSERT, UPDATE, DELETE or REPLACE and return no rows.
    """
    if cursor.rowcount >= 0 and cursor.description is None:
        return cursor.rowcount
    for _ in cursor:  # SQLite counts changed rows only after the statement has ended
        pass
    if connection.total_changes == changes_before:  # changes() would count an earlier statement's rows
        return 0
    count: int = connection.execute("SELECT changes()").fetchone()[0]
    return count
