"""Stores the marks of units that other processes forwarded, in the transactions of the units.

A mark is the number and the results of a unit; see `tenantry.storage.protocol.MarkedRequest`. If the owner of a tenant dies, the process
that forwarded a unit asks the next owner for the unit's mark, and so knows whether the unit was committed.

One row has the marks of all units of one batch from one sender, so a batch of 64 units costs one row. The sender tells with each unit
which results it has. About one batch in eight, and each batch with large results, removes the rows that are not needed any more: a
batch of one unit then runs one statement for its mark and not three, each of which would wait for the interpreter lock. What a sender
leaves behind when it ends is removed after `KEPT_SECONDS`. That is far longer than any call waits for its results, so a jump of the
clock would have to be longer than a day to remove a mark that is still needed.
"""

import random
import sqlite3
import time
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from tenantry.errors import (
    DatabaseCorruptError,
    ResultLostError,
    TenantError,
    TenantryError,
    TransactionClosedError,
)
from tenantry.sql.statements import Fetch, Result, Statement
from tenantry.storage.plain_results import as_fetched, as_plain
from tenantry.storage.protocol import MarkedRequest, Request, WriteOutcome
from tenantry.storage.sqlite.statements.execution import DIALECT
from tenantry.storage.sqlite.statements.own_statements import OwnStatement

RESULTS_BYTES_MAX: Final = 1024 * 1024
"""The largest results of a unit that its mark stores. A unit with larger results runs too, but cannot return them again."""

KEPT_SECONDS: Final = 86_400
"""The age after which the marks of a sender that sends nothing more are removed."""

_REMOVING_SHARE: Final = 1 / 8
"""The share of batches that remove rows. The batches are chosen at random: numbers of units may reach a tenant in any pattern."""

_SMALL_BYTES_MAX: Final = 1024
"""The size of a row up to which the row may stay for some batches after it is needed."""

CREATE_SQL: Final = """
CREATE TABLE IF NOT EXISTS tenantry_forwarded (
    sender     BLOB    NOT NULL,  -- the token of the process that forwarded the units
    number     INTEGER NOT NULL,  -- the largest number among the row's units
    written_at INTEGER NOT NULL,  -- seconds since 1970
    units      BLOB    NOT NULL,  -- MessagePack: each unit's number and its encoded results
    PRIMARY KEY (sender, number)
) STRICT, WITHOUT ROWID
"""
_FIND: Final = "SELECT units FROM tenantry_forwarded WHERE sender = ? AND number >= ?"
_REMOVE: Final = "DELETE FROM tenantry_forwarded WHERE (sender = ? AND number <= ?) OR written_at < ?"
_NO_TABLE: Final = "no such table: tenantry_forwarded"
# A sender that uses a number twice breaks the protocol. It loses marks of its own, and nobody else's unit fails.
_ADD: Final = (
    "INSERT OR REPLACE INTO tenantry_forwarded (sender, number, written_at, units) VALUES (?, ?, ?, ?)"
)

_encode = msgspec.msgpack.encode
_ENCODED_NONE: Final = _encode([None])
_decode_units = msgspec.msgpack.Decoder(list[tuple[int, bytes | None]]).decode
_decode_results = msgspec.msgpack.Decoder(list[Any]).decode


_NAME: Final = "mark"
_Unit: TypeAlias = tuple[MarkedRequest, list[Result]]


class FoundResults(list[Result]):
    """The results of a unit that had run before. Its mark exists already."""


def find_results(request: MarkedRequest, connection: sqlite3.Connection) -> FoundResults | None:
    """Return the results of a unit that has a mark; None if the unit must run now.

    Raises:
        ResultLostError: The unit was committed, but its results were too large for the mark.
        TransactionClosedError: The request only looks for the mark of a transaction, and the database has no such mark.
    """
    connection.execute(CREATE_SQL)
    for (units,) in connection.execute(_FIND, (request.sender, request.number)).fetchall():
        for number, encoded in _decode_units(units):
            if number == request.number:
                return _found(request, encoded)
    if request.is_look_up:
        raise TransactionClosedError(
            "the process that had the tenant open ended before the transaction was committed, so nothing of it was kept: open a new "
            "transaction"
        )
    return None


def not_looked_up(request: MarkedRequest, error: TenantryError) -> TenantryError:
    """Return the error for a repeated unit whose mark was not looked for because of another error: the unit may have been committed.

    Errors that the tenant's actor handles are returned unchanged: damage, an interrupted batch, and another owner.
    """
    if (
        isinstance(error, (DatabaseCorruptError, TenantError))
        or getattr(error, "code", "") == "SQLITE_INTERRUPT"
    ):
        return error
    unknown = TenantError(
        f"it could not be looked up whether {request[0].name} was committed before: {error}"
    )
    unknown.is_retryable = error.is_retryable
    unknown.__cause__ = error
    return unknown


def plain_unit(request: MarkedRequest) -> Request | None:
    """Return the statements of a unit for the engine; None if Python must run it.

    The engine stores marks that were made before the units ran, which is possible only for a new unit without results.
    """
    if request.is_repeated:
        return None
    for statement in request:  # a generator would take twice the time
        if statement.fetch is not Fetch.NONE:
            return None
    return tuple(request)


def rows_of_plain_units(requests: Sequence[Request]) -> list[Statement]:
    """Return the statements that store the marks of a batch whose units have no results. The marks are right only if every unit succeeds."""
    by_sender: dict[bytes, list[_Unit]] = {}
    for request in requests:
        if isinstance(request, MarkedRequest):
            results: list[Result] = [None] * len(request)
            by_sender.setdefault(request.sender, []).append((request, results))
    return [row for sender, units in by_sender.items() for row in _rows_of_sender(sender, units)]


def keep_results(
    requests: Sequence[Request], outcomes: Sequence[WriteOutcome], connection: sqlite3.Connection
) -> None:
    """Store the marks of the forwarded units of a batch that have an effect, and remove marks that are not needed any more."""
    by_sender: dict[bytes, list[_Unit]] = {}
    for request, outcome in zip(requests, outcomes, strict=True):
        if isinstance(request, MarkedRequest) and type(outcome) is list:
            by_sender.setdefault(request.sender, []).append((request, outcome))
    for sender, units in by_sender.items():
        for row in _rows_of_sender(sender, units):
            try:
                connection.execute(row.text(DIALECT), row.parameters)
            except sqlite3.OperationalError as error:
                if str(error) != _NO_TABLE:
                    raise
                connection.execute(CREATE_SQL)
                connection.execute(row.text(DIALECT), row.parameters)


def _rows_of_sender(sender: bytes, units: Sequence[_Unit]) -> list[Statement]:
    """Return the statement that stores the marks of units, and sometimes before it the statement that removes rows."""
    now = int(time.time())
    number = max(request.number for request, _ in units)
    encoded = _encode([(request.number, _encoded(results)) for request, results in units])
    add = OwnStatement(_NAME, _ADD, (sender, number, now, encoded))
    if len(encoded) <= _SMALL_BYTES_MAX and random.random() >= _REMOVING_SHARE:  # noqa: S311  # it guards nothing
        return [add]
    answered_to = max(request.answered_to for request, _ in units)
    return [OwnStatement(_NAME, _REMOVE, (sender, answered_to, now - KEPT_SECONDS)), add]


def _encoded(results: Sequence[Result]) -> bytes | None:
    if len(results) == 1 and results[0] is None:
        return _ENCODED_NONE
    encoded = _encode([as_plain(result) for result in results])
    return encoded if len(encoded) <= RESULTS_BYTES_MAX else None


def _found(request: MarkedRequest, encoded: bytes | None) -> FoundResults:
    if encoded is None:
        raise ResultLostError(
            f"{request[0].name} was committed, but the process that ran it ended before it sent the results, which are larger than "
            f"{RESULTS_BYTES_MAX} bytes: read the rows instead of repeating the write"
        )
    results = _decode_results(encoded)
    return FoundResults(
        as_fetched(statement.fetch, result) for statement, result in zip(request, results, strict=True)
    )
