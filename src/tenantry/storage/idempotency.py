"""The stored form of the results of units with idempotency keys, which is the same in every back end."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tenantry.errors import IdempotencyConflictError, QueryError
from tenantry.sql.statements import Result
from tenantry.storage.plain_results import as_fetched, as_plain
from tenantry.storage.protocol import KeyedRequest

RESULTS_BYTES_MAX: Final = 1024 * 1024
"""The maximum size of a unit's results as JSON, because the results are stored in the database."""

EXPIRED_KEYS_REMOVED_MAX: Final = 16
"""The number of expired keys that each new key removes. More than one makes their number fall; a few keep each call fast."""


def encode_results(request: KeyedRequest, results: Sequence[Result]) -> str:
    """Return the results of a unit as JSON.

    Raises:
        QueryError: The results are too large to be stored.
    """
    encoded = _encode([*map(as_plain, results)])
    if len(encoded) > RESULTS_BYTES_MAX:
        raise QueryError(
            f"{request[0].name}: the write returns {len(encoded)} bytes, but a write with a key may return at most "
            f"{RESULTS_BYTES_MAX} bytes, which are stored with the key: return fewer rows or columns; nothing was written"
        )
    return encoded


def decode_results(request: KeyedRequest, payload_hash: bytes, encoded: str) -> list[Result]:
    """Return the stored results of a unit.

    Args:
        request: The unit that was sent again.
        payload_hash: The stored hash.
        encoded: The stored results.

    Raises:
        IdempotencyConflictError: Another unit was stored with this key.
    """
    if payload_hash != request.payload_hash:
        raise IdempotencyConflictError(
            f"{request[0].name}: the key {request.key!r} was used for another write, and nothing was written now: use a new key for "
            "each write, and repeat a write only with the same statements and parameters",
            key=request.key,
        )
    results = json.loads(encoded, object_hook=_bytes_from_json)
    return [as_fetched(statement.fetch, result) for statement, result in zip(request, results, strict=True)]


def time_text(instant: datetime) -> str:
    """Return a time as a text whose order is the order of time."""
    return instant.isoformat(timespec="microseconds")


def _bytes_as_json(value: bytes) -> dict[str, str]:
    return {"hex": value.hex()}  # JSON can represent all other types of a result


_encode: Final = json.JSONEncoder(default=_bytes_as_json, separators=(",", ":")).encode


def _bytes_from_json(value: dict[str, str]) -> bytes:
    return bytes.fromhex(value["hex"])
