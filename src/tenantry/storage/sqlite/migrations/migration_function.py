"""Runs the function of a Python migration inside the transaction that also records the migration's number."""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Final

from typing_extensions import override

from tenantry.schemas.migration import MigrationFunction
from tenantry.sql.row import Columns, Row
from tenantry.storage.python_migrations import BrokenScriptError, FunctionSession, call_function
from tenantry.storage.sqlite.connections.pace import PROCESS
from tenantry.storage.sqlite.migrations.migration_script import run_step
from tenantry.storage.sqlite.statements.execution import count_rows
from tenantry.storage.sqlite.statements.placeholders import find_numbered
from tenantry.threads import is_cancelled

_STATEMENT_ERRORS: Final = (sqlite3.Error, sqlite3.Warning)
_find_numbered = lru_cache(maxsize=128)(find_numbered)


class _CancelledStepError(sqlite3.OperationalError):
    """The caller was cancelled between two of the function's statements, so SQLite had no statement to interrupt."""

    sqlite_errorcode = sqlite3.SQLITE_INTERRUPT
    sqlite_errorname = "SQLITE_INTERRUPT"


class SQLiteMigrationSession(FunctionSession):
    """The `MigrationSession` of a SQLite database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    @override
    def _check_cancelled(self) -> None:
        PROCESS.give_way()
        if is_cancelled():
            raise _CancelledStepError("interrupted")

    @override
    def _execute(self, sql: str, parameters: Sequence[object]) -> int:
        changes = self._connection.total_changes
        cursor = self._cursor(sql, parameters)
        if cursor.description is not None:
            cursor.close()
            raise BrokenScriptError(
                "the function passes execute() a statement that returns rows: use fetch_one() or fetch_all()",
                code="SQLITE_ROW",
            )
        return count_rows(cursor, changes, self._connection)

    @override
    def _execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        numbered = _find_numbered(sql)
        if numbered is None:
            return self._connection.executemany(sql, rows).rowcount
        return self._connection.executemany(numbered.sql, map(numbered.names, rows)).rowcount

    @override
    def _fetch(self, sql: str, parameters: Sequence[object], *, rows_max: int | None = None) -> list[Row]:
        cursor = self._cursor(sql, parameters)
        if cursor.description is None:
            raise BrokenScriptError(
                "the function passes fetch_one() or fetch_all() a statement that returns no rows: use execute(), or add RETURNING",
                code="SQLITE_DONE",
            )
        try:
            columns = Columns(tuple(column[0] for column in cursor.description))
            return [Row(columns, values) for values in islice(cursor, rows_max)]
        finally:
            cursor.close()  # a running statement would prevent COMMIT

    def _cursor(self, sql: str, parameters: Sequence[object]) -> sqlite3.Cursor:
        numbered = _find_numbered(sql)
        if numbered is None:
            return self._connection.execute(sql, parameters)
        return self._connection.execute(numbered.sql, numbered.names(parameters))


def run_function(function: MigrationFunction, connection: sqlite3.Connection) -> None:
    """Run a migration's function as one step; see `run_step`.

    Raises:
        sqlite3.Error: A statement failed, even if the function caught the error.
        BrokenScriptError: A statement is not allowed, or the function raised another error.
    """
    session = SQLiteMigrationSession(connection)
    run_step(lambda: call_function(function, session, driver_errors=_STATEMENT_ERRORS), connection)
