"""Maps the errors of a PostgreSQL server to tenantry's errors, by SQLSTATE and never by message.

PostgreSQL lists its codes at https://www.postgresql.org/docs/current/errcodes-appendix.html. A server's message can be in any language. Its
detail quotes values of the row, and is not part of tenantry's message.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import pq

from tenantry.errors import (
    ConstraintViolationError,
    DatabaseCorruptError,
    DuplicateRecordError,
    PersistenceConnectionError,
    PersistenceError,
    QueryError,
    StorageFullError,
    TransactionClosedError,
)
from tenantry.storage.postgres.connections.pipeline import Pipeline

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

FENCED: Final = "22012"
"""division_by_zero: in the guard, another owner has raised the epoch."""
LOCK_NOT_AVAILABLE: Final = "55P03"
READ_ONLY: Final = "25006"
SCHEMA_MISSING: Final = frozenset(["42P01", "3F000"])
"""undefined_table and invalid_schema_name: in the guard, the tenant's schema was removed or renamed."""
RUN_AGAIN: Final = frozenset(["40001", "40P01"])
"""serialization_failure and deadlock_detected: the transaction is rolled back, and may succeed if it runs again."""
STATEMENT_UNKNOWN: Final = "26000"
PREPARED_STALE: Final = frozenset([STATEMENT_UNKNOWN, "0A000", "22003", "22P02", "42804", "42883"])
"""The codes of a prepared statement that the server does not know, or that may not fit the tables.

A prepared statement keeps the types of its parameters and columns. In the schema of a tenant with another version of the tables it can
fail because a type differs (``datatype_mismatch``, ``undefined_function``), because a value does not fit the old type
(``numeric_value_out_of_range``, ``invalid_text_representation``), or because the result has other columns (``feature_not_supported``).
"""
TRANSACTION_TIMED_OUT: Final = frozenset(["25P03", "25P04"])
"""The server ends the connection with these codes if a transaction is open for too long."""
CONNECTION_CLASS: Final = "08"
TRANSIENT: Final = ("40", "53", "57", READ_ONLY, "55006", LOCK_NOT_AVAILABLE, "58030")
"""The beginnings of the codes of errors that may be over soon: conflicts, a lack of resources, an intervention, a locked object."""

# Both have the same SQLSTATE, and the server's name of its function is the same in every language.
_LOCK_TIMEOUT: Final = "ProcessInterrupts"
_DUPLICATE: Final = frozenset(["23505", "23P01"])
_NOT_NULL: Final = "23502"
_CHECK: Final = "23514"
_INTEGRITY_CLASS: Final = "23"
_DATA_CLASS: Final = "22"
_QUOTED: Final = re.compile('["«»„“](?s:.*)["«»“”]')  # the quotes of the languages of the server's messages
_DISK_FULL: Final = "53100"
_CORRUPT: Final = frozenset(["XX001", "XX002"])
_LIMIT_EXCEEDED: Final = "54000"
_AUTHORIZATION_CLASS: Final = "28"
_NOT_PERMITTED: Final = "42501"
_KEY: Final = re.compile(r"\((?P<columns>.*?)\)=\(", re.DOTALL)
_COLUMN: Final = re.compile(r'[^\W\d][\w$]*|"[^"]+"')


def code_of(result: "PGresult") -> str:
    """Return the SQLSTATE of an error; an empty string for an error without a SQLSTATE."""
    return _field(result, pq.DiagnosticField.SQLSTATE) or ""


def map_error(result: "PGresult", doing: str) -> PersistenceError:
    """Return tenantry's error for a failed result. `doing` names the failed step in the message."""
    code = code_of(result)
    text = without_value(
        _field(result, pq.DiagnosticField.MESSAGE_PRIMARY) or result.get_error_message().strip(), code
    )
    message = f"{doing}: {text} ({code})"
    if code in _DUPLICATE:
        constraint, columns = _violated_key(result)
        return DuplicateRecordError(message, code=code, constraint=constraint, columns=columns)
    if code.startswith(_INTEGRITY_CLASS):
        return ConstraintViolationError(message, code=code, constraint=_violated_constraint(result, code))
    if code in TRANSACTION_TIMED_OUT:
        return TransactionClosedError(message, code=code)
    if code == _LIMIT_EXCEEDED:
        message += ": PostgreSQL limits this, for example a text in an indexed column to 2704 bytes; nothing was written"
    return _error_of(code, message)


@contextmanager
def server_errors(doing: str) -> Iterator[None]:
    """Turn the driver's errors into ours. The message begins with `doing`, and has neither the address's password nor values of rows."""
    try:
        yield
    except psycopg.Error as error:
        raise _map_driver_error(error, doing) from error


def _map_driver_error(error: psycopg.Error, doing: str) -> PersistenceError:
    """Return our error for an error of the driver outside the statements of callers."""
    code = error.sqlstate
    if isinstance(error, psycopg.ProgrammingError) and code is None:
        # The driver cannot parse the address, and would quote it.
        return PersistenceConnectionError(
            f"{doing}: the address of the database is not valid", is_retryable=False
        )
    # The driver's text has more lines, which quote values of the row.
    text = error.diag.message_primary or next(iter(str(error).strip().splitlines()), type(error).__name__)
    message = f"{doing}: {without_value(text, code)}"
    if code is None or code.startswith(CONNECTION_CLASS):
        return PersistenceConnectionError(message, code=code)
    if code.startswith(_AUTHORIZATION_CLASS) or code in {_NOT_PERMITTED, READ_ONLY}:
        return PersistenceConnectionError(message, code=code, is_retryable=code == READ_ONLY)
    return _error_of(code, message)


def _error_of(code: str, message: str) -> PersistenceError:
    if code == _DISK_FULL:
        return StorageFullError(f"{message}: free space on the server's disk", code=code)
    if code in _CORRUPT:
        return DatabaseCorruptError(message, code=code)
    return QueryError(message, code=code, is_transient=code.startswith(TRANSIENT))


def is_lock_timeout(result: "PGresult") -> bool:
    """Return whether a statement waited for a lock for too long; False for a statement with NOWAIT, which must fail at once."""
    return (
        code_of(result) == LOCK_NOT_AVAILABLE
        and _field(result, pq.DiagnosticField.SOURCE_FUNCTION) == _LOCK_TIMEOUT
    )


def without_value(text: str, code: str | None) -> str:
    """Return the server's message without the value that does not fit its type, because values are never logged."""
    return _QUOTED.sub("(a value)", text) if (code or "").startswith(_DATA_CLASS) else text


def forget_stale(code: str, sql: bytes, pipeline: Pipeline) -> bool:
    """Return whether a statement failed perhaps only because it was prepared for other tables; if so, it is prepared again."""
    if code not in PREPARED_STALE:
        return False
    if code == STATEMENT_UNKNOWN:
        pipeline.forget_all()
        return True
    return pipeline.forget(sql)


def _field(result: "PGresult", field: int) -> str | None:
    value = result.error_field(field)
    return None if value is None else value.decode("utf-8", "replace")


def _violated_key(result: "PGresult") -> tuple[str | None, tuple[str, ...]]:
    """Return the columns of the key with their table; or the name of the key if it has expressions, and no columns.

    The server's detail is the only place with the columns. It begins with ``Key (a, b)=(1, 2)`` in every language.
    """
    name = _field(result, pq.DiagnosticField.CONSTRAINT_NAME)
    table = _field(result, pq.DiagnosticField.TABLE_NAME)
    key = _KEY.search(_field(result, pq.DiagnosticField.MESSAGE_DETAIL) or "")
    names = [] if key is None else key["columns"].split(", ")
    if table is None or not names or not all(map(_COLUMN.fullmatch, names)):
        return name, ()
    columns = tuple(f"{table}.{column.strip(chr(34))}" for column in names)
    return ", ".join(columns), columns


def _violated_constraint(result: "PGresult", code: str) -> str | None:
    if code == _NOT_NULL:
        table = _field(result, pq.DiagnosticField.TABLE_NAME)
        column = _field(result, pq.DiagnosticField.COLUMN_NAME)
        return f"{table}.{column}" if table and column else None
    return _field(result, pq.DiagnosticField.CONSTRAINT_NAME) if code == _CHECK else None
