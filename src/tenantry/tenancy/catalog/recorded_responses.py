"""The recorded responses of the admin API by idempotency key, stored in the catalog; see `registry.recorded_responses`."""

import json
from typing import Final, NamedTuple

from tenantry.clock import Clock, as_text
from tenantry.sql.statements import Fetch, Statement
from tenantry.tenancy.catalog.session import CatalogSession
from tenantry.tenancy.clock_watch import ClockWatch

RETENTION_SECONDS: Final = 86_400.0
PENDING_SECONDS_MAX: Final = 60.0
"""After this time without a renewal, a pending request counts as abandoned, and its key is free again."""

_REMOVED_MAX: Final = 32
_DELETE_EXPIRED: Final = """
DELETE FROM idempotent_requests WHERE (key_id, key) IN (
    SELECT key_id, key FROM idempotent_requests WHERE created_at < ? ORDER BY created_at LIMIT ?
)
"""
_FREE_KEY: Final = """
DELETE FROM idempotent_requests
WHERE key_id = ? AND key = ? AND created_at < CASE WHEN status IS NULL THEN ? ELSE ? END
"""
_BEGIN: Final = """
INSERT INTO idempotent_requests (key_id, key, request_hash, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING
"""


class RecordedResponse(NamedTuple):
    """The response to a request with an idempotency key, or the interim response while the request is pending.

    Attributes:
        request_hash: The hash of the first request with the key.
        status: The final status code; None while the request is pending.
        headers: The headers that a replay sends again.
        body: The body of the response; empty if a pending request has no interim response.
    """

    request_hash: str
    status: int | None
    headers: dict[str, str]
    body: bytes


class PendingRequest:
    """A request without a final response; no other pending request has the same idempotency key.

    `PENDING_SECONDS_MAX` after the last `renew`, another request can use the key. After that, this object's methods do nothing.
    """

    def __init__(self, store: CatalogSession, clock: Clock, key_id: str, key: str, begun_at: str) -> None:
        self._store = store
        self._clock = clock
        self._row = (key_id, key)
        # The time distinguishes this request from other requests with the same key.
        self._begun_at = begun_at

    async def renew(self) -> None:
        """Record that the request is still pending."""
        now = as_text(self._clock.now())
        await self._change("recorded_responses.renew", "UPDATE idempotent_requests SET created_at = ?", now)
        self._begun_at = now

    async def record_interim(self, headers: dict[str, str], body: bytes) -> None:
        """Record an interim response, such as a running operation. While this request is pending, replays get this response."""
        sql = "UPDATE idempotent_requests SET headers = ?, body = ?"
        await self._change("recorded_responses.record", sql, json.dumps(headers), body)

    async def record(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Record the final response."""
        sql = "UPDATE idempotent_requests SET status = ?, headers = ?, body = ?"
        await self._change("recorded_responses.record", sql, status, json.dumps(headers), body)

    async def forget(self) -> None:
        """Delete the record of a request that had no effect, so that its key can be used again."""
        await self._change("recorded_responses.forget", "DELETE FROM idempotent_requests")

    async def _change(self, operation: str, sql: str, *values: object) -> None:
        where = "WHERE key_id = ? AND key = ? AND created_at = ? AND status IS NULL"
        parameters = (*values, *self._row, self._begun_at)
        await self._store.write(Statement(operation, f"{sql} {where}", parameters))


class RecordedResponses:
    """Records responses, and keeps them for a day."""

    def __init__(self, store: CatalogSession, clock: Clock, watch: ClockWatch) -> None:
        self._store = store
        self._clock = clock
        self._watch = watch

    async def begin(self, key_id: str, key: str, request_hash: str) -> PendingRequest | RecordedResponse:
        """Record a pending request; if a request with this key is already recorded, return the recorded response instead."""
        while True:
            begun_at = await self._insert_pending(key_id, key, request_hash)
            if begun_at is not None:
                return PendingRequest(self._store, self._clock, key_id, key, begun_at)
            before = await self._find(key_id, key)
            if before is not None:
                return before
            # The recorded request was deleted between the two statements, so try again.

    async def _insert_pending(self, key_id: str, key: str, request_hash: str) -> str | None:
        now = self._clock.now()
        expired, abandoned = (
            as_text(self._watch.expired_before(seconds))
            for seconds in (RETENTION_SECONDS, PENDING_SECONDS_MAX)
        )
        row = (key_id, key, request_hash, as_text(now))
        results = await self._store.write(
            Statement("recorded_responses.forget", _DELETE_EXPIRED, (expired, _REMOVED_MAX)),
            Statement("recorded_responses.forget", _FREE_KEY, (key_id, key, abandoned, expired)),
            Statement("recorded_responses.begin", _BEGIN, row, Fetch.ROWCOUNT),
        )
        return row[-1] if results[-1] else None

    async def _find(self, key_id: str, key: str) -> RecordedResponse | None:
        sql = (
            "SELECT request_hash, status, headers, body FROM idempotent_requests WHERE key_id = ? AND key = ?"
        )
        row = await self._store.read(Statement("recorded_responses.find", sql, (key_id, key), Fetch.ONE))
        if row is None:
            return None
        return RecordedResponse(row[0], row[1], json.loads(row[2] or "{}"), row[3] or b"")
