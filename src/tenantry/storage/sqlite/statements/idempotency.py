"""Idempotency keys in a database: the results of a unit are stored with its key, in the unit's own transaction.

So the key is stored if and only if the unit's changes are. These functions run inside the savepoint of the unit, and an error in
them fails the unit.
"""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tenantry.errors import IdempotencyConflictError, QueryError
from tenantry.row import Columns, Row
from tenantry.statements import Fetch, Result
from tenantry.storage.protocol import KeyedRequest

RESULTS_BYTES_MAX: Final = 1024 * 1024
"""The largest results, as JSON, of a unit with a key: they are stored in the database."""

EXPIRED_KEYS_REMOVED_MAX: Final = 16
"""How many expired keys each new key removes: more than one, so that they become fewer, but few, so that no call is slow."""

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
# The same key may still be stored, expired and not yet removed.
_KEEP: Final = "INSERT OR REPLACE INTO tenantry_idempotency VALUES (?, ?, ?, ?)"


def find_results(request: KeyedRequest, connection: sqlite3.Connection) -> list[Result] | None:
    """Return the results of the unit from when it ran, or None if it must run now; raise if another unit had its key."""
    for sql in CREATE_SQL:  # costs a microsecond where they exist
        connection.execute(sql)
    found = connection.execute(_FIND, (request.key, _text(request.kept_since))).fetchone()
    if found is None:
        return None
    payload_hash, results = found
    if payload_hash != request.payload_hash:
        raise IdempotencyConflictError(
            f"{request[0].name}: the key {request.key!r} was used for another write, and nothing was written now: give "
            "each write a key of its own, and repeat a write with all that it had the first time",
            key=request.key,
        )
    return _decoded(request, results)


def keep_results(request: KeyedRequest, results: Sequence[Result], connection: sqlite3.Connection) -> None:
    """Store the results of the unit with its key, and remove some expired keys."""
    encoded = json.dumps([*map(_as_kept, results)], default=_bytes_as_json, separators=(",", ":"))
    if len(encoded) > RESULTS_BYTES_MAX:
        raise QueryError(
            f"{request[0].name}: a write with a key may give back at most {RESULTS_BYTES_MAX} bytes, for they are kept "
            f"with the key, and this one gave {len(encoded)}: ask for fewer rows or columns; nothing was written"
        )
    connection.execute(_REMOVE_EXPIRED, (_text(request.kept_since), EXPIRED_KEYS_REMOVED_MAX))
    connection.execute(_KEEP, (request.key, request.payload_hash, encoded, _text(request.now)))


def _decoded(request: KeyedRequest, encoded: str) -> list[Result]:
    results = json.loads(encoded, object_hook=_bytes_from_json)
    return [_as_fetched(statement.fetch, result) for statement, result in zip(request, results, strict=True)]


def _as_kept(result: Result) -> Any:
    """Convert named rows to the names of their columns, followed by the values of each row."""
    if isinstance(result, Row):
        return [result.keys(), tuple(result)]
    if isinstance(result, list) and result and isinstance(result[0], Row):
        return [result[0].keys(), *map(tuple, result)]
    return result


def _as_fetched(fetch: Fetch, result: Any) -> Result:
    """Convert the rows, which are lists in JSON, back to what the statement returned."""
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
    return {"hex": value.hex()}  # JSON has all other types of SQLite


def _bytes_from_json(value: dict[str, str]) -> bytes:
    return bytes.fromhex(value["hex"])


def _text(instant: datetime) -> str:
    return instant.isoformat(timespec="microseconds")
