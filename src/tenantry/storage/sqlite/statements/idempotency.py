"""Stores the results of a unit with the unit's idempotency key, in the unit's own transaction.

So the key is stored if and only if the unit's changes are stored. These functions run inside the unit's savepoint. If one of
these functions raises an error, the unit fails.
"""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tenantry.errors import IdempotencyConflictError, QueryError
from tenantry.sql.row import Columns, Row
from tenantry.sql.statements import Fetch, Result
from tenantry.storage.protocol import KeyedRequest

RESULTS_BYTES_MAX: Final = 1024 * 1024
"""The maximum size of a unit's results as JSON, because the results are stored in the database."""

EXPIRED_KEYS_REMOVED_MAX: Final = 16
"""The number of expired keys that each new key removes. More than one makes their number fall; a few keep each call fast."""

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
    found = connection.execute(_FIND, (request.key, _text(request.kept_since))).fetchone()
    if found is None:
        return None
    payload_hash, results = found
    if payload_hash != request.payload_hash:
        raise IdempotencyConflictError(
            f"{request[0].name}: the key {request.key!r} was used for another write, and nothing was written now: use a new key for "
            "each write, and repeat a write only with the same statements and parameters",
            key=request.key,
        )
    return _decoded(request, results)


def keep_results(request: KeyedRequest, results: Sequence[Result], connection: sqlite3.Connection) -> None:
    """Store the results of the unit with its key, and remove some expired keys."""
    encoded = json.dumps([*map(_as_kept, results)], default=_bytes_as_json, separators=(",", ":"))
    if len(encoded) > RESULTS_BYTES_MAX:
        raise QueryError(
            f"{request[0].name}: the write returns {len(encoded)} bytes, but a write with a key may return at most "
            f"{RESULTS_BYTES_MAX} bytes, which are stored with the key: return fewer rows or columns; nothing was written"
        )
    connection.execute(_REMOVE_EXPIRED, (_text(request.kept_since), EXPIRED_KEYS_REMOVED_MAX))
    connection.execute(_KEEP, (request.key, request.payload_hash, encoded, _text(request.now)))


def _decoded(request: KeyedRequest, encoded: str) -> list[Result]:
    results = json.loads(encoded, object_hook=_bytes_from_json)
    return [_as_fetched(statement.fetch, result) for statement, result in zip(request, results, strict=True)]


def _as_kept(result: Result) -> Any:
    """Convert named rows to a list of the column names, followed by the values of each row."""
    if isinstance(result, Row):
        return [result.keys(), tuple(result)]
    if isinstance(result, list) and result and isinstance(result[0], Row):
        return [result[0].keys(), *map(tuple, result)]
    return result


def _as_fetched(fetch: Fetch, result: Any) -> Result:
    """Convert rows from JSON lists back to the statement's original result."""
    if fetch is Fetch.ALL:
        return [tuple(row) for row in result]
    if not isinstance(result, list):
        return result
    if fetch is Fetch.ONE:
        return tuple(result)
    names, *rows = result or [()]
    columns = Columns(tuple(names))
    named = [Row(columns, tuple(values)) for values in rows]
    return named if fetch is Fetch.NAMED_ALL else named[0]


def _bytes_as_json(value: bytes) -> dict[str, str]:
    return {"hex": value.hex()}  # JSON can represent all other types of SQLite


def _bytes_from_json(value: dict[str, str]) -> bytes:
    return bytes.fromhex(value["hex"])


def _text(instant: datetime) -> str:
    return instant.isoformat(timespec="microseconds")
