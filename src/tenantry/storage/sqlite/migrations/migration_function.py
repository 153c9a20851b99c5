"""Runs the function of a Python migration inside the transaction that also records the migration's number."""

import sqlite3
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Final, TypeVar

from tenantry.errors import TenantryError
from tenantry.schemas.migration import Migration, MigrationFunction
from tenantry.sql.row import Columns, Row
from tenantry.storage.sqlite.connections.pace import PROCESS
from tenantry.storage.sqlite.migrations.migration_script import BrokenScriptError, run_step
from tenantry.storage.sqlite.statements.execution import count_rows
from tenantry.storage.sqlite.statements.placeholders import find_numbered
from tenantry.threads import is_cancelled

T = TypeVar("T")

_CAUSES_MAX: Final = 8
_find_numbered = lru_cache(maxsize=128)(find_numbered)


class _CancelledStepError(sqlite3.OperationalError):
    """The caller was cancelled between two of the function's statements, so SQLite had no statement to interrupt."""

    sqlite_errorcode = sqlite3.SQLITE_INTERRUPT
    sqlite_errorname = "SQLITE_INTERRUPT"


class SQLiteMigrationSession:
    """The `MigrationSession` of a SQLite database.

    A failed statement may have ended the transaction, for example on a full disk. So no statement may run after a failed statement.
    `failure` is the failed statement's error, or None if no statement failed.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_over = False
        self.failure: BaseException | None = None

    def execute(self, sql: str, parameters: Sequence[object] = (), /) -> int:
        """Run one statement that returns no rows; see `MigrationSession.execute`."""
        return self._run(partial(self._execute, sql, parameters))

    def execute_many(self, sql: str, rows: Iterable[Sequence[object]], /) -> int:
        """Run one statement for each row; see `MigrationSession.execute_many`."""
        return self._run(partial(self._execute_many, sql, rows))

    def fetch_one(self, sql: str, parameters: Sequence[object] = (), /) -> Row | None:
        """Return the first row; see `MigrationSession.fetch_one`."""
        rows = self._run(partial(self._fetch, sql, parameters, rows_max=1))
        return rows[0] if rows else None

    def fetch_all(self, sql: str, parameters: Sequence[object] = (), /) -> list[Row]:
        """Return all rows; see `MigrationSession.fetch_all`."""
        return self._run(partial(self._fetch, sql, parameters))

    def end(self) -> None:
        """Refuse statements from now on."""
        self._is_over = True

    def _run(self, work: Callable[[], T]) -> T:
        if self._is_over:
            raise RuntimeError("the migration has ended, so its session cannot be used")
        if self.failure is not None:
            raise self.failure
        PROCESS.give_way()
        try:
            _check_cancelled()
            return work()
        except BaseException as error:
            self.failure = error
            raise

    def _cursor(self, sql: str, parameters: Sequence[object]) -> sqlite3.Cursor:
        numbered = _find_numbered(sql)
        if numbered is None:
            return self._connection.execute(sql, parameters)
        return self._connection.execute(numbered.sql, numbered.names(parameters))

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

    def _execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        numbered = _find_numbered(sql)
        if numbered is None:
            return self._connection.executemany(sql, rows).rowcount
        return self._connection.executemany(numbered.sql, map(numbered.names, rows)).rowcount

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


def run_function(function: MigrationFunction, connection: sqlite3.Connection) -> None:
    """Run a migration's function as one step; see `run_step`.

    Raises:
        sqlite3.Error: A statement failed, even if the function caught the error.
        BrokenScriptError: A statement is not allowed, or the function raised another error.
    """
    session = SQLiteMigrationSession(connection)
    try:
        run_step(lambda: _call(function, session), connection)
    finally:
        session.end()


def _check_cancelled() -> None:
    if is_cancelled():
        raise _CancelledStepError("interrupted")


def failed_line(migration: Migration, error: BaseException) -> int | None:
    """Return the line of the migration's file where the function raised the error; None if other code raised the error."""
    if migration.function is None:
        return None
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if cause is None:
            break
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if frame.filename.endswith(f"/{migration.file_name}"):
                return frame.lineno
        cause = cause.__cause__
    return None


def _call(function: MigrationFunction, session: SQLiteMigrationSession) -> None:
    raised: BaseException | None = None
    try:
        function(session)
    except BaseException as error:  # noqa: BLE001  # raised below; SystemExit would end the event loop, and the program
        raised = error
    raised = session.failure or raised
    if raised is None:
        return
    if isinstance(raised, (sqlite3.Error, sqlite3.Warning, MemoryError, BrokenScriptError)):
        raise raised
    # The message of an error from outside tenantry may quote values of a row.
    reason = (
        str(raised)
        if isinstance(raised, TenantryError)
        else "its text may quote a row and is not shown; to give a reason, raise MigrationError"
    )
    raise BrokenScriptError(
        f"the function raised {type(raised).__name__}: {reason}", code=type(raised).__name__
    ) from raised
