"""Stores the results of a unit with the unit's idempotency key, in the unit's own transaction.

So the key is stored if and only if the unit's changes are stored. `find_results` and `keep_results` run inside the unit's savepoint. If
one of them raises an error, the unit fails. The engine runs the same statements as a `OnceUnit`; it needs no savepoint, because it leaves
a batch with a unit that fails to Python.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from tenantry.sql.statements import Fetch, Result
from tenantry.storage.idempotency import (
    EXPIRED_KEYS_REMOVED_MAX,
    decode_results,
    encode_results,
    time_text,
)
from tenantry.storage.protocol import KeyedRequest, WriteOutcome
from tenantry.storage.sqlite.errors import map_error
from tenantry.storage.sqlite.statements.own_statements import OnceUnit, OwnStatement

STATEMENTS_MAX: Final = 1000
"""The largest number of statements of a keyed unit in the engine. The results of more statements could be too large to be stored."""

_NAME: Final = "idempotency"
CREATE_SQL: Final = (
    """
CREATE TABLE IF NOT EXISTS tenantry_idempotency (
    key          TEXT NOT NULL PRIMARY KEY,
    payload_hash BLOB NOT NULL,
    results      TEXT NOT NULL,  -- JSON, one for each statement of the unit
    created_at   TEXT NOT NULL   -- UTC, of one width: text order is time order
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX IF NOT EXISTS tenantry_idempotency_created ON tenantry_idempotency (created_at)",
)
_FIND: Final = "SELECT payload_hash, results FROM tenantry_idempotency WHERE key = ? AND created_at > ?"
_REMOVE_EXPIRED: Final = """
DELETE FROM tenantry_idempotency
WHERE key IN (SELECT key FROM tenantry_idempotency WHERE created_at <= ? ORDER BY created_at LIMIT ?)
"""
# The table may still contain the same key, expired but not yet removed.
_KEEP: Final = "INSERT OR REPLACE INTO tenantry_idempotency VALUES (?, ?, ?, ?)"


def find_results(request: KeyedRequest, connection: sqlite3.Connection) -> list[Result] | None:
    """Return the stored results of the unit, or None if the unit must run now.

    Raises:
        IdempotencyConflictError: Another unit was stored with this key.
    """
    for sql in CREATE_SQL:  # a microsecond if the table and the index already exist
        connection.execute(sql)
    found = connection.execute(_FIND, (request.key, time_text(request.kept_since))).fetchone()
    return None if found is None else decode_results(request, *found)


def keep_results(request: KeyedRequest, results: Sequence[Result], connection: sqlite3.Connection) -> None:
    """Store the results of the unit with its key, and remove some expired keys."""
    encoded = encode_results(request, results)
    connection.execute(_REMOVE_EXPIRED, (time_text(request.kept_since), EXPIRED_KEYS_REMOVED_MAX))
    connection.execute(_KEEP, (request.key, request.payload_hash, encoded, time_text(request.now)))


def once_unit(request: KeyedRequest) -> OnceUnit | None:
    """Return the unit for the engine, with the statements that find and keep its results; None if its results are not known before it runs."""
    if len(request) > STATEMENTS_MAX or any(statement.fetch is not Fetch.NONE for statement in request):
        return None
    encoded = encode_results(request, [None] * len(request))
    kept_since = time_text(request.kept_since)
    return OnceUnit(
        (
            OwnStatement(_NAME, _FIND, (request.key, kept_since), Fetch.ONE),
            *request,
            OwnStatement(_NAME, _REMOVE_EXPIRED, (kept_since, EXPIRED_KEYS_REMOVED_MAX)),
            OwnStatement(_NAME, _KEEP, (request.key, request.payload_hash, encoded, time_text(request.now))),
        )
    )


def outcome_of_once_unit(request: KeyedRequest, results: Sequence[Any]) -> WriteOutcome:
    """Return the outcome of a keyed unit from the results of its `OnceUnit`: stored results, if it has run before."""
    found = results[0]
    if found is None:
        return [None] * len(request)
    try:
        return decode_results(request, *found)
    except Exception as error:  # noqa: BLE001  # whatever is stored, only this unit fails
        return map_error(error, request[0].name)
