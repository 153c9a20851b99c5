"""Runs one statement of a repository. The authorizer checks it if its text is new; `Fetch` decides what it returns."""

import sqlite3
from typing import Final

from tenantry.errors import QueryError
from tenantry.row import Columns, Row
from tenantry.statements import Fetch, Result, Statement
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, error_text, is_damage, is_undecodable
from tenantry.storage.sqlite.statements.authorizer import RefusedActionError, judge_statement, judged
from tenantry.storage.sqlite.statements.placeholders import NumberedStatement, find_numbered

DIALECT: Final = "sqlite"

_DISTINCT_STATEMENTS_MAX: Final = 4096
_UNKNOWN: Final = NumberedStatement("", 0)
_known: Final[dict[str, NumberedStatement | None]] = {}
"""The texts of statements that were authorized and have run, with the form to run them in. Each is authorized once in a process.

The authorizer is not kept on the connection: SQLite would call it for each column of each statement that it prepares, and each
call waits for the interpreter lock.
"""


def run_statement(statement: Statement, connection: sqlite3.Connection) -> Result:
    """Execute one statement and return what its `Fetch` says.

    Raises:
        QueryError: The statement would change the connection or the transaction; it had no effect.
        Exception: What the driver raises for the statement and its parameters.
    """
    sql = statement.text(DIALECT)
    numbered = _known.get(sql, _UNKNOWN)
    try:
        if numbered is not _UNKNOWN:
            return _execute(sql, statement, numbered, connection)
        return _run_judged(sql, statement, connection)
    except (UnicodeDecodeError, sqlite3.OperationalError) as error:
        if not is_undecodable(error) or _is_schema_damaged(connection):
            raise
        # The message quotes the caller's own bytes, or a row holds bytes that are not text.
        raise QueryError(f"{statement.name}: {error_text(error)}", code=type(error).__name__) from error


def _run_judged(sql: str, statement: Statement, connection: sqlite3.Connection) -> Result:
    """Run a statement that has not run before, under the authorizer."""
    numbered = find_numbered(sql)
    try:
        with judged(judge_statement, connection):
            result = _execute(sql, statement, numbered, connection)
    except RefusedActionError as error:
        raise QueryError(
            f"{statement.name}: a statement may not use {error.action}, because {error.reason}"
        ) from error
    except sqlite3.IntegrityError:
        # SQLite refused a row, so the statement itself is allowed: a text that often meets duplicates is authorized once too.
        _remember(sql, numbered)
        raise
    _remember(sql, numbered)
    return result


def _remember(sql: str, numbered: NumberedStatement | None) -> None:
    if len(_known) >= _DISTINCT_STATEMENTS_MAX:
        _known.clear()
    _known[sql] = numbered


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
        cursor.close()  # ends the statement: only then can its changes be seen and undone
        raise QueryError(
            f"{statement.name} returns rows, and its Fetch is NONE: nothing was written; give the statement a Fetch that returns "
            "them, or leave out RETURNING"
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
        # The error's traceback keeps the cursor alive, and a statement in progress would keep COMMIT from working.
        cursor.close()
        raise


def _fetch_named(statement: Statement, cursor: sqlite3.Cursor) -> Result:
    """Return the rows with their names.

    Raises:
        QueryError: The statement cannot return rows.
    """
    if cursor.description is None:
        raise QueryError(
            f"{statement.name} cannot return rows, and its Fetch is {statement.fetch.name}: nothing was written; add RETURNING, "
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
    """Return how many rows a statement inserted, updated or deleted itself, without its triggers and foreign keys.

    Python only counts for statements that begin with INSERT, UPDATE, DELETE or REPLACE and return no rows.
    """
    if cursor.rowcount >= 0 and cursor.description is None:
        return cursor.rowcount
    for _ in cursor:  # only a statement that has run to its end says how many rows it changed
        pass
    if connection.total_changes == changes_before:  # changes() would be an earlier statement's
        return 0
    count: int = connection.execute("SELECT changes()").fetchone()[0]
    return count
