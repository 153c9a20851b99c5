"""Runs whole batches of writes or reads as plain functions on a thread.

Theory of operation. A write batch is one transaction: BEGIN IMMEDIATE, every request, COMMIT. Callers get their results only after
COMMIT has returned. With ``synchronous=FULL`` COMMIT returns when the write-ahead log is on the disk.

A failed request does not affect other requests. SQLite rolls back a failed statement (https://www.sqlite.org/lang_conflict.html, ABORT),
so a request with a single statement needs no savepoint. A request with several statements runs in a savepoint. If a failed statement
kept some changes (``OR FAIL``), the whole transaction is rolled back. SQLite itself also rolls the transaction back after some errors
(https://www.sqlite.org/lang_transaction.html, section 3). After such an error ``in_transaction`` is false, and no request of the batch
may be acknowledged. The request that caused the rollback keeps its error; every other request runs again in a transaction of its own.
"""

import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Final, TypeGuard

from tenantry.errors import DatabaseCorruptError, QueryError, TenantryError
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import KeyedRequest, MarkedRequest, ReadOutcome, Request, WriteOutcome
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, is_damage, is_full, map_error
from tenantry.storage.sqlite.statements import idempotency, marks
from tenantry.storage.sqlite.statements.execution import DIALECT, run_statement

Guard = Callable[[sqlite3.Connection], None]
"""A check that runs first in every write transaction; raises if this process may not write."""

_DISTINCT_STATEMENTS_MAX: Final = 4096
# A table may name FAIL in a conflict clause, and a trigger may name FAIL anywhere.
_FAIL_IN_SCHEMA: Final = (
    "SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'trigger') AND instr(upper(sql), 'FAIL') "
    "AND (type = 'trigger' OR instr(upper(sql), 'CONFLICT')) LIMIT 1"
)
_FAIL: Final = re.compile(r"\bFAIL\b", re.IGNORECASE)
# SQLite's tokenizer skips white space, a byte order mark, comments and empty statements before a statement.
_FIRST_KEYWORD: Final = re.compile(r"(?:[\s\ufeff;]|--[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]*)", re.DOTALL)


class _TransactionLostError(Exception):
    """The transaction of the whole batch was rolled back because of one request.

    Attributes:
        index: The request whose error made SQLite roll the transaction back; None if there was no space for the batch's marks.
    """

    def __init__(self, index: int | None, error: TenantryError) -> None:
        super().__init__(index, error)
        self.index = index
        self.error = error


def write_batch(
    requests: Sequence[Request], guard: Guard, connection: sqlite3.Connection
) -> list[WriteOutcome]:
    """Run the requests in one transaction, and commit; return one outcome for each request.

    A request that fails because of damage has no effect, and runs again alone: SQLite also reports damage after one failed disk read.
    """
    try:
        outcomes = _write_together(requests, guard, connection)
    except _TransactionLostError as lost:
        outcomes = [
            lost.error if index == lost.index else _write_alone(request, guard, connection)
            for index, request in enumerate(requests)
        ]
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, DatabaseCorruptError):
            outcomes[index] = _write_alone(requests[index], guard, connection)
    return outcomes


def read_batch(statements: Sequence[Statement], connection: sqlite3.Connection) -> list[ReadOutcome]:
    """Run read-only statements on one snapshot, on a reader's connection; return one outcome for each statement.

    A statement that fails because of damage runs again, as in `write_batch`.
    """
    return _read_again(_read_batch, statements, connection)


def read_batch_beside_writes(
    statements: Sequence[Statement], connection: sqlite3.Connection
) -> list[ReadOutcome]:
    """Run a read batch on the writer's connection; a statement that writes is rolled back and refused.

    This function does not use ``PRAGMA query_only``: after each change of that pragma SQLite prepares all cached statements again.
    """
    return _read_again(_read_batch_beside_writes, statements, connection)


def _read_again(
    read: Callable[[Sequence[Statement], sqlite3.Connection], list[ReadOutcome]],
    statements: Sequence[Statement],
    connection: sqlite3.Connection,
) -> list[ReadOutcome]:
    outcomes = read(statements, connection)
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, DatabaseCorruptError):
            (outcomes[index],) = read((statements[index],), connection)
    return outcomes


def _read_batch(statements: Sequence[Statement], connection: sqlite3.Connection) -> list[ReadOutcome]:
    if len(statements) == 1:
        # A single statement reads one snapshot. BEGIN and ROLLBACK would take longer than the statement.
        return [read_one(statements[0], connection)]
    return _read_together(statements, read_one, connection)


def _read_batch_beside_writes(
    statements: Sequence[Statement], connection: sqlite3.Connection
) -> list[ReadOutcome]:
    if len(statements) == 1:
        if _is_select(statements[0].text(DIALECT)):
            return [read_one(statements[0], connection)]
        # A single statement needs no savepoint, because the whole transaction is rolled back.
        return _read_together(statements, _read_unless_it_writes, connection)
    return _read_together(statements, read_in_transaction, connection)


def run_unit(request: Request, connection: sqlite3.Connection) -> WriteOutcome:
    """Run one caller's statements inside the open transaction; a failure rolls back only these statements."""
    try:
        connection.execute("SAVEPOINT unit")
        results = _run_statements(request, connection)
        connection.execute("RELEASE unit")
    except Exception as error:  # noqa: BLE001  # any error of a caller's parameters fails only that caller
        _undo_unit(connection)
        return map_error(error, request[0].name)
    return results


def run_unit_of_transaction(request: Request, connection: sqlite3.Connection) -> WriteOutcome:
    """Run one unit of a transaction over several calls, like `run_unit`; a `MarkedRequest` stores its mark immediately."""
    outcome = run_unit(request, connection)
    if isinstance(request, MarkedRequest):
        try:
            marks.keep_results((request,), (outcome,), connection)
        except DRIVER_ERRORS as error:
            return map_error(error, request[0].name)
    return outcome


def _run_statements(request: Request, connection: sqlite3.Connection) -> list[Result]:
    """Run a unit's statements inside the unit's savepoint; return the stored results if the unit has run before."""
    if isinstance(request, MarkedRequest) and request.is_repeated:
        found = _found_results(request, connection)
        if found is not None:
            return found
    if not isinstance(request, KeyedRequest):
        return [run_statement(statement, connection) for statement in request]
    kept = idempotency.find_results(request, connection)
    if kept is not None:
        return kept
    results = [run_statement(statement, connection) for statement in request]
    idempotency.keep_results(request, results, connection)
    return results


def _found_results(request: MarkedRequest, connection: sqlite3.Connection) -> list[Result] | None:
    try:
        return marks.find_results(request, connection)
    except TenantryError:
        raise
    except Exception as error:  # a mark that cannot be read proves nothing, whatever is wrong with it
        raise marks.not_looked_up(request, map_error(error, request[0].name)) from error


def read_one(statement: Statement, connection: sqlite3.Connection) -> ReadOutcome:
    """Run one read-only statement, inside or outside a transaction."""
    try:
        return run_statement(statement, connection)
    except Exception as error:  # noqa: BLE001  # any error of a caller's parameters fails only that caller
        return map_error(error, statement.name)


def read_in_transaction(statement: Statement, connection: sqlite3.Connection) -> ReadOutcome:
    """Run one read-only statement inside the open transaction; a statement that writes is rolled back and refused."""
    connection.execute("SAVEPOINT unit")
    outcome = _read_unless_it_writes(statement, connection)
    _undo_unit(connection)
    return outcome


def _read_unless_it_writes(statement: Statement, connection: sqlite3.Connection) -> ReadOutcome:
    changes = connection.total_changes
    outcome = read_one(statement, connection)
    return outcome if connection.total_changes == changes else _refused_write(statement)


def roll_back(connection: sqlite3.Connection) -> None:
    """Roll back the open transaction, if any."""
    if connection.in_transaction:
        connection.rollback()


def _write_together(
    requests: Sequence[Request], guard: Guard, connection: sqlite3.Connection
) -> list[WriteOutcome]:
    outcomes: list[WriteOutcome] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        guard(connection)
        for index, request in enumerate(requests):
            outcome = _run_request(request, connection)
            if _is_interrupted(outcome):
                raise outcome
            outcomes.append(outcome)
            if isinstance(outcome, TenantryError) and not connection.in_transaction:
                raise _TransactionLostError(index, outcome)
        if any(request.__class__ is MarkedRequest for request in requests):
            _keep_marks(requests, outcomes, connection)
        connection.execute("COMMIT")
    except (*DRIVER_ERRORS, TenantryError) as error:
        # Nothing was committed, so no request may be acknowledged.
        return [
            _outcome_without_commit(request, outcome, error)
            for request, outcome in zip_longest(requests, outcomes)
        ]
    finally:
        roll_back(connection)
    return outcomes


def _keep_marks(
    requests: Sequence[Request], outcomes: Sequence[WriteOutcome], connection: sqlite3.Connection
) -> None:
    try:
        marks.keep_results(requests, outcomes, connection)
    except DRIVER_ERRORS as error:
        if is_full(error) and len(requests) > 1:
            # Only units whose own marks find no space may fail. The units run again, each with its own mark.
            raise _TransactionLostError(None, map_error(error, "mark")) from error
        raise


def _outcome_without_commit(
    request: Request, outcome: WriteOutcome | None, error: BaseException
) -> WriteOutcome:
    """Return a request's outcome after its batch was rolled back.

    A request that failed earlier keeps its error. A repeated unit that had been committed before keeps the results of its mark. If the
    batch failed before it looked for a repeated unit's mark, the error does not mean that the unit has no effect.
    """
    if isinstance(outcome, (TenantryError, marks.FoundResults)):
        return outcome
    mapped = map_error(error, request[0].name)
    if outcome is None and isinstance(request, MarkedRequest) and request.is_repeated:
        return marks.not_looked_up(request, mapped)
    return mapped


def _write_alone(request: Request, guard: Guard, connection: sqlite3.Connection) -> WriteOutcome:
    try:
        return _write_together((request,), guard, connection)[0]
    except _TransactionLostError as lost:
        return lost.error


def _run_request(request: Request, connection: sqlite3.Connection) -> WriteOutcome:
    """Run one unit of a batch, without a savepoint for a single statement."""
    if len(request) != 1 or (request.__class__ is not tuple and _is_stored(request)):
        return run_unit(request, connection)
    statement, changes = request[0], connection.total_changes
    try:
        return [run_statement(statement, connection)]
    except Exception as error:  # noqa: BLE001  # any error of a caller's parameters fails only that caller
        if is_damage(error) or _may_keep_changes(statement, changes, connection):
            # A failed statement may keep changes that must not be committed. With OR FAIL, RAISE(FAIL) or a result that cannot be
            # fetched, the earlier rows stay. A statement that fails because of damage may leave a row without its index entry.
            # After the rollback the rest of the batch runs again.
            roll_back(connection)
        return map_error(error, statement.name)


def _may_keep_changes(statement: Statement, changes: int, connection: sqlite3.Connection) -> bool:
    """Return whether a failed statement may have left changes in the open transaction.

    SQLite does not count the rows that a trigger, or the action of a foreign key, had written before a FAIL ended the statement. The
    statement, the trigger or a table may ask for FAIL.
    """
    if not connection.in_transaction:
        return False
    if connection.total_changes != changes:
        return True
    try:
        has_fail = _FAIL.search(statement.text(DIALECT)) is not None
        return has_fail or connection.execute(_FAIL_IN_SCHEMA).fetchone() is not None
    except (*DRIVER_ERRORS, QueryError):
        return True


def _is_stored(request: Request) -> bool:
    """Return whether the results of the unit may be stored already."""
    return isinstance(request, KeyedRequest) or (isinstance(request, MarkedRequest) and request.is_repeated)


def _undo_unit(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        try:
            connection.execute("ROLLBACK TO unit")
            connection.execute("RELEASE unit")
        except DRIVER_ERRORS:
            # A partial unit must never be committed. After the rollback the rest of the batch runs again.
            roll_back(connection)


def _read_together(
    statements: Sequence[Statement],
    read: Callable[[Statement, sqlite3.Connection], ReadOutcome],
    connection: sqlite3.Connection,
) -> list[ReadOutcome]:
    outcomes: list[ReadOutcome] = []
    try:
        # One read transaction for all statements acquires the snapshot's lock only once.
        connection.execute("BEGIN")
        for statement in statements:
            outcome = read(statement, connection)
            if _is_interrupted(outcome):
                raise outcome
            outcomes.append(outcome)
    except (*DRIVER_ERRORS, QueryError) as error:
        return [map_error(error, statement.name) for statement in statements]
    finally:
        roll_back(connection)
    return outcomes


def _is_interrupted(outcome: object) -> TypeGuard[QueryError]:
    """Return whether all callers of the batch were cancelled; if so, no further statement should run."""
    return isinstance(outcome, QueryError) and outcome.code == "SQLITE_INTERRUPT"


def _refused_write(statement: Statement) -> QueryError:
    return QueryError(
        f"{statement.name} writes, but was passed to read(): nothing was written; use write()",
        code="SQLITE_READONLY",
    )


@lru_cache(maxsize=_DISTINCT_STATEMENTS_MAX)
def _is_select(sql: str) -> bool:
    """Return whether the first keyword of the statement is SELECT, so that the statement can only read."""
    keyword = _FIRST_KEYWORD.match(sql)
    return keyword is not None and keyword[1].upper() == "SELECT"
