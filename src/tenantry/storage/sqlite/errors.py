"""Maps sqlite3's errors to tenantry's errors, by extended result code and never by message.

SQLite lists its result codes at https://www.sqlite.org/rescode.html.
"""

import copy
import re
import sqlite3
from typing import Final

from tenantry.errors import (
    ConstraintViolationError,
    DatabaseCorruptError,
    DuplicateRecordError,
    PersistenceConnectionError,
    PersistenceError,
    QueryError,
    StorageFullError,
    TenantryError,
)

_DUPLICATE: Final = {
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
}
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NAMED_CONSTRAINTS: Final = {sqlite3.SQLITE_CONSTRAINT_NOTNULL, sqlite3.SQLITE_CONSTRAINT_CHECK}
# SQLite's code names the kind of constraint; only the message contains the constraint's name.
_CONSTRAINT_NAME: Final = re.compile(
    r" constraint failed: (?:index '(?P<index>.+)'|(?P<columns>.+))", re.DOTALL
)
_TRANSIENT: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}
# These failures remain until an operator changes the file permissions, the mount or the process's limits.
_LASTING: Final = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOLFS,
}
_PRIMARY_CODE_MASK: Final = 0xFF
_UNDECODABLE_COLUMN: Final = "Could not decode to UTF-8"  # Python's own message; SQLite has no such code

DRIVER_ERRORS: Final = (sqlite3.Error, sqlite3.Warning, UnicodeDecodeError, MemoryError)
"""The errors that sqlite3 raises for a database, whatever the parameters.

If SQLite's message is not UTF-8 because it quotes a name in a damaged schema, sqlite3 raises `UnicodeDecodeError` without a code.
For ``SQLITE_NOMEM`` it raises `MemoryError`.
"""


def is_transient(error: BaseException) -> bool:
    """Return whether the failure was temporary, which means that the same statement may succeed later."""
    primary = _primary_code(error)
    return isinstance(error, MemoryError) or primary in _TRANSIENT or primary == sqlite3.SQLITE_FULL


def is_full(error: BaseException) -> bool:
    """Return whether the disk had no space for the database, its log, or the shared memory of its connections."""
    extended = getattr(error, "sqlite_errorcode", None)
    return _primary_code(error) == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE


def is_busy(error: BaseException) -> bool:
    """Return whether another connection holds a lock that the statement needs."""
    return _primary_code(error) == sqlite3.SQLITE_BUSY


def is_read_only(error: BaseException) -> bool:
    """Return whether a write was refused because the connection or the file is read-only."""
    return _primary_code(error) == sqlite3.SQLITE_READONLY


def is_interrupted(error: BaseException) -> bool:
    """Return whether the statement was interrupted."""
    return _primary_code(error) == sqlite3.SQLITE_INTERRUPT


def is_damage(error: BaseException) -> bool:
    """Return whether the error reports a damaged database. Use this function only for tenantry's own statements."""
    return is_undecodable(error) or _primary_code(error) in _CORRUPT


def is_undecodable(error: BaseException) -> bool:
    """Return whether the error reports invalid UTF-8 in a message of SQLite or in a text of a row."""
    is_column = type(error) is sqlite3.OperationalError and str(error).startswith(_UNDECODABLE_COLUMN)
    return is_column or isinstance(error, UnicodeDecodeError)


def error_text(error: BaseException) -> str:
    """Return the message of an error without the content of a row. SQLite's message need not be valid UTF-8."""
    if isinstance(error, UnicodeDecodeError):
        return error.object.decode("utf-8", "replace")
    if is_undecodable(error):
        return str(error).partition(" with text ")[0]
    return str(error)


def is_machine_failure(error: BaseException) -> bool:
    """Return whether the failure was caused by the machine and not by the statement."""
    return is_transient(error) or _primary_code(error) in _LASTING


def map_error(error: BaseException, doing: str) -> TenantryError:
    """Return tenantry's error for an error of sqlite3, with sqlite3's error as the cause. `doing` names the failed step in the message.

    Binding parameters can also raise `OverflowError`, `UnicodeEncodeError`, `ValueError` or `TypeError`.
    """
    if isinstance(error, TenantryError):
        # Many callers get the error of a batch, and two callers must not raise the same instance.
        again = copy.copy(error)
        again.__cause__ = error.__cause__
        return again
    mapped = _map(error, doing)
    mapped.__cause__ = error
    return mapped


def map_connection_error(error: BaseException, doing: str) -> TenantryError:
    """Return tenantry's error for a failure to open or close a database."""
    mapped = map_error(error, doing)
    if isinstance(mapped, QueryError) and not isinstance(mapped, StorageFullError):
        mapped = PersistenceConnectionError(str(mapped), code=mapped.code)
        mapped.__cause__ = error
    return mapped


def _primary_code(error: BaseException) -> int:
    extended: int = getattr(error, "sqlite_errorcode", None) or 0
    return extended & _PRIMARY_CODE_MASK


def _map(error: BaseException, doing: str) -> PersistenceError:
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    extended: int = getattr(error, "sqlite_errorcode", None) or 0
    primary = _primary_code(error)
    message = f"{doing}: {error_text(error)} ({name})"
    if extended in _DUPLICATE:
        constraint, columns = _constraint(error)
        return DuplicateRecordError(message, code=name, constraint=constraint, columns=columns)
    if primary == sqlite3.SQLITE_CONSTRAINT:
        constraint = _constraint(error)[0] if extended in _NAMED_CONSTRAINTS else None
        return ConstraintViolationError(message, code=name, constraint=constraint)
    if is_full(error):
        return StorageFullError(f"{message}: free space on the disk", code=name)
    if is_damage(error):
        return DatabaseCorruptError(message, code=name)
    if primary == sqlite3.SQLITE_CANTOPEN:
        return PersistenceConnectionError(message, code=name)
    return QueryError(message, code=name, is_transient=is_transient(error))


def _constraint(error: BaseException) -> tuple[str | None, tuple[str, ...]]:
    """Return the name of the violated constraint in SQLite's message, and the constraint's columns."""
    named = _CONSTRAINT_NAME.search(str(error))
    if named is None:
        return None, ()
    if named["index"] is not None:
        return named["index"], ()
    return named["columns"], tuple(named["columns"].split(", "))
