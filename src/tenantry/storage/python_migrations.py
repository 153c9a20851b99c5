"""Runs the functions of Python migrations, with every back end in the same way."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeVar

from tenantry.errors import TenantryError
from tenantry.schemas.migration import Migration, MigrationFunction
from tenantry.sql.row import Row

T = TypeVar("T")

_CAUSES_MAX: Final = 8


class BrokenScriptError(ValueError):
    """A migration did something that is forbidden in migrations. The message says how to correct the migration.

    Attributes:
        code: The back end's name of the error, or the type of the error that a function raised.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class FunctionSession(ABC):
    """The `MigrationSession` of one step; a back end runs the statements.

    A failed statement may have ended the transaction, for example on a full disk. So no statement may run after a failed statement.
    `failure` is the failed statement's error, or None if no statement failed.
    """

    def __init__(self) -> None:
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
        try:
            self._check_cancelled()
            return work()
        except BaseException as error:
            self.failure = error
            raise

    @abstractmethod
    def _check_cancelled(self) -> None:
        """Raise the back end's error if the migration's caller was cancelled."""

    @abstractmethod
    def _execute(self, sql: str, parameters: Sequence[object]) -> int:
        """Run one statement, and return the number of changed rows."""

    @abstractmethod
    def _execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Run one statement for each row, and return the number of changed rows."""

    @abstractmethod
    def _fetch(self, sql: str, parameters: Sequence[object], *, rows_max: int | None = None) -> list[Row]:
        """Run one statement, and return at most `rows_max` rows."""


def call_function(
    function: MigrationFunction,
    session: FunctionSession,
    *,
    driver_errors: tuple[type[BaseException], ...],
) -> None:
    """Call a migration's function, then end the session.

    Raises:
        BrokenScriptError: The function raised an error that is not one of `driver_errors`.
        BaseException: A statement failed with one of `driver_errors`, even if the function caught the error.
    """
    raised: BaseException | None = None
    try:
        function(session)
    except BaseException as error:  # noqa: BLE001  # raised below; SystemExit would end the event loop, and the program
        raised = error
    finally:
        session.end()
    raised = session.failure or raised
    if raised is None:
        return
    if isinstance(raised, (*driver_errors, MemoryError, BrokenScriptError)):
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
