"""Runs whole batches as plain functions on a thread: the write path and the read path.

Theory of operation. A write batch is one transaction: BEGIN IMMEDIATE, every request, COMMIT. No caller is
answered before COMMIT has returned, which with ``synchronous=FULL`` is when the write-ahead log has reached the disk.

A request that fails does not affect the others. SQLite undoes a failed statement itself
(https://www.sqlite.org/lang_conflict.html, ABORT), so a request with one statement needs no savepoint; a request with several
runs in one. After a statement that failed and kept some changes (``OR FAIL``), the whole transaction is rolled back.
Some errors also roll the whole transaction back (https://www.sqlite.org/lang_transaction.html,
section 3): afterwards ``in_transaction`` is false, and no request of the batch may be acknowledged. The request that
caused the rollback keeps its error; every other request runs again, alone.
"""

import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Final, TypeGuard

from tenantry.errors import DatabaseCorruptError, QueryError, TenantryError
from tenantry.statements import Result, Statement
from tenantry.storage.protocol import KeyedRequest, ReadOutcome, Request, WriteOutcome
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, is_damage, map_error
from tenantry.storage.sqlite.statements import idempotency
from tenantry.storage.sqlite.statements.execution import DIALECT, run_statement

Guard = Callable[[sqlite3.Connection], None]
"""Runs first in every write transaction; raises if this process may not write."""

_DISTINCT_STATEMENTS_MAX: Final = 4096
# What SQLite's tokenizer skips before a statement: white space, a byte order mark, comments and empty statements.
_FIRST_KEYWORD: Final = re.compile(r"(?:[\s\ufeff;]|--[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]*)", re.DOTALL)


class _TransactionLostError(Exception):
    """The error of one request made SQLite roll back the transaction of the whole batch."""

    def __init__(self, index: int, error: TenantryError) -> None:
        super().__init__(index, error)
        self.index = index
        self.error = error


def write_batch(
    requests: Sequence[Request], guard: Guard, connection: sqlite3.Connection
) -> list[WriteOutcome]:
    """Run the requests in one transaction and commit it; return one outcome for each.

    A request that met damage had no effect and runs again, alone: SQLite also reports damage when the disk failed to read once.
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
    """Run reading statements on one snapshot, on a reader's connection; return one outcome for each.

    A statement that met damage runs again, as in `write_batch`.
    """
    return _read_again(_read_batch, statements, connection)


def read_batch_beside_writes(
    statements: Sequence[Statement], connection: sqlite3.Connection
) -> list[ReadOutcome]:
    """Run a read batch on the connection that also writes; a statement that writes is undone and refused.

    Not with ``PRAGMA query_only``: each change of it makes SQLite prepare every cached statement again.
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
        # A single statement is a snapshot; BEGIN and ROLLBACK would cost more than the statement.
        return [read_one(statements[0], connection)]
    return _read_together(statements, read_one, connection)


def _read_batch_beside_writes(
    statements: Sequence[Statement], connection: sqlite3.Connection
) -> list[ReadOutcome]:
    if len(statements) == 1:
        if _is_select(statements[0].text(DIALECT)):
            return [read_one(statements[0], connection)]
        # The rollback of the transaction undoes the statement: no savepoint is needed.
        return _read_together(statements, _read_unless_it_writes, connection)
    return _read_together(statements, read_in_transaction, connection)


def run_unit(request: Request, connection: sqlite3.Connection) -> WriteOutcome:
    """Run one caller's statements inside the open transaction; a failure undoes only these."""
    try:
        connection.execute("SAVEPOINT unit")
        results = _run_statements(request, connection)
        connection.execute("RELEASE unit")
    except Exception as error:  # noqa: BLE001  # whatever a caller's parameters raise is that caller's failure alone
        _undo_unit(connection)
        return map_error(error, request[0].name)
    return results


def _run_statements(request: Request, connection: sqlite3.Connection) -> list[Result]:
    """Run a unit's statements inside its savepoint; a unit that has run with its key before returns the stored results."""
    if not isinstance(request, KeyedRequest):
        return [run_statement(statement, connection) for statement in request]
    kept = idempotency.find_results(request, connection)
    if kept is not None:
        return kept
    results = [run_statement(statement, connection) for statement in request]
    idempotency.keep_results(request, results, connection)
    return results


def read_one(statement: Statement, connection: sqlite3.Connection) -> ReadOutcome:
    """Run one reading statement, inside or outside a transaction."""
    try:
        return run_statement(statement, connection)
    except Exception as error:  # noqa: BLE001  # whatever a caller's parameters raise is that caller's failure alone
        return map_error(error, statement.name)


def read_in_transaction(statement: Statement, connection: sqlite3.Connection) -> ReadOutcome:
    """Run one reading statement inside the open transaction; a statement that writes is undone and refused."""
    connection.execute("SAVEPOINT unit")
    outcome = _read_unless_it_writes(statement, connection)
    _undo_unit(connection)
    return outcome


def _read_unless_it_writes(statement: Statement, connection: sqlite3.Connection) -> ReadOutcome:
    changes = connection.total_changes
    outcome = read_one(statement, connection)
    return outcome if connection.total_changes == changes else _refused_write(statement)


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction if there is one."""
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
        connection.execute("COMMIT")
    except (*DRIVER_ERRORS, TenantryError) as error:
        # Nothing was committed, so no request may be acknowledged; those that had failed before keep their error.
        return [
            outcome if isinstance(outcome, TenantryError) else map_error(error, request[0].name)
            for request, outcome in zip_longest(requests, outcomes)
        ]
    finally:
        roll_back(connection)
    return outcomes


def _write_alone(request: Request, guard: Guard, connection: sqlite3.Connection) -> WriteOutcome:
    try:
        return _write_together((request,), guard, connection)[0]
    except _TransactionLostError as lost:
        return lost.error


def _run_request(request: Request, connection: sqlite3.Connection) -> WriteOutcome:
    """Run one unit of a batch; a unit with a single statement needs no savepoint."""
    if len(request) != 1 or isinstance(request, KeyedRequest):
        return run_unit(request, connection)
    statement, changes = request[0], connection.total_changes
    try:
        return [run_statement(statement, connection)]
    except Exception as error:  # noqa: BLE001  # whatever a caller's parameters raise is that caller's failure alone
        if connection.total_changes != changes or is_damage(error):
            # OR FAIL and RAISE(FAIL) keep the rows before the failing one, and so does a result that cannot be fetched. When a
            # statement of one row meets damage, SQLite keeps its changes so far, for example a row without its index entry.
            # These changes must not be committed; after the rollback the rest of the batch runs again.
            roll_back(connection)
        return map_error(error, statement.name)


def _undo_unit(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        try:
            connection.execute("ROLLBACK TO unit")
            connection.execute("RELEASE unit")
        except DRIVER_ERRORS:
            # Half a unit must never be committed; after the rollback the rest of the batch runs again.
            roll_back(connection)


def _read_together(
    statements: Sequence[Statement],
    read: Callable[[Statement, sqlite3.Connection], ReadOutcome],
    connection: sqlite3.Connection,
) -> list[ReadOutcome]:
    outcomes: list[ReadOutcome] = []
    try:
        # One read transaction for all statements: the snapshot's lock is taken once.
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
    """Return whether the batch was interrupted because every caller has gone: then no further statement should run."""
    return isinstance(outcome, QueryError) and outcome.code == "SQLITE_INTERRUPT"


def _refused_write(statement: Statement) -> QueryError:
    return QueryError(
        f"{statement.name} writes, but was given to read(): it had no effect; use write()",
        code="SQLITE_READONLY",
    )


@lru_cache(maxsize=_DISTINCT_STATEMENTS_MAX)
def _is_select(sql: str) -> bool:
    """Return whether the statement can only be a query, by its first word."""
    keyword = _FIRST_KEYWORD.match(sql)
    return keyword is not None and keyword[1].upper() == "SELECT"
