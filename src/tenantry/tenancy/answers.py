"""What the admin API keeps in the catalog: answers to requests that may be repeated, and its secret; `registry.answers`."""

import json
import secrets
from datetime import timedelta
from typing import Final, NamedTuple

from tenantry.clock import Clock
from tenantry.statements import Fetch, Statement
from tenantry.tenancy.api_keys import KeyStore

RETENTION_SECONDS: Final = 86_400.0
UNANSWERED_SECONDS_MAX: Final = 60.0
"""After that a request without an answer is one whose process died, or that takes very long: its key may be used again."""

_REMOVED_MAX: Final = 32
_SECRET_BYTES: Final = 32
_FORGET_OLD: Final = """
DELETE FROM idempotent_requests WHERE (key_id, key) IN (
    SELECT key_id, key FROM idempotent_requests WHERE created_at < ? ORDER BY created_at LIMIT ?
)
"""
_FREE: Final = """
DELETE FROM idempotent_requests
WHERE key_id = ? AND key = ? AND created_at < CASE WHEN status IS NULL THEN ? ELSE ? END
"""
_BEGIN: Final = """
INSERT INTO idempotent_requests (key_id, key, request_hash, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING
"""


class Answer(NamedTuple):
    """What is known of a request with an idempotency key.

    Attributes:
        request_hash: Of the request that used the key first.
        status: What was answered; None while it is under way.
        headers: Those that matter.
        body: The body.
    """

    request_hash: str
    status: int | None
    headers: dict[str, str]
    body: bytes


class Answers:
    """Keeps answers for a day.

    Args:
        store: The catalog.
        clock: For their times.
    """

    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def begin(self, key_id: str, key: str, request_hash: str) -> Answer | None:
        """Note that a request is under way; if one with this key was before, return what is known of it instead."""
        while not await self._note(key_id, key, request_hash):
            before = await self._find(key_id, key)
            if before is not None:
                return before
            # Between the two the one before was refused and forgotten: this one is noted after all.
        return None

    async def keep(self, key_id: str, key: str, status: int, headers: dict[str, str], body: bytes) -> None:
        """Keep what was answered."""
        sql = "UPDATE idempotent_requests SET status = ?, headers = ?, body = ? WHERE key_id = ? AND key = ?"
        parameters = (status, json.dumps(headers), body, key_id, key)
        await self._store.write(Statement("answers.keep", sql, parameters))

    async def forget(self, key_id: str, key: str) -> None:
        """Forget a request that had no effect: the same key may be used again."""
        sql = "DELETE FROM idempotent_requests WHERE key_id = ? AND key = ?"
        await self._store.write(Statement("answers.forget", sql, (key_id, key)))

    async def secret(self, name: str) -> bytes:
        """Return the service's secret of this name, the same in all its processes; made when it is first asked for."""
        sql = "INSERT INTO service_secrets VALUES (?, ?) ON CONFLICT DO NOTHING"
        select = Statement(
            "answers.secret", "SELECT value FROM service_secrets WHERE name = ?", (name,), Fetch.ONE
        )
        row = await self._store.read(select)
        if row is None:
            made = (name, secrets.token_bytes(_SECRET_BYTES))
            await self._store.write(Statement("answers.secret", sql, made))
            row = await self._store.read(select)
        value: bytes = row[0]
        return value

    async def _note(self, key_id: str, key: str, request_hash: str) -> bool:
        now = self._clock.now()
        too_old, unanswered = (
            (now - timedelta(seconds=seconds)).isoformat(timespec="microseconds")
            for seconds in (RETENTION_SECONDS, UNANSWERED_SECONDS_MAX)
        )
        row = (key_id, key, request_hash, now.isoformat(timespec="microseconds"))
        results = await self._store.write(
            Statement("answers.forget", _FORGET_OLD, (too_old, _REMOVED_MAX)),
            Statement("answers.forget", _FREE, (key_id, key, unanswered, too_old)),
            Statement("answers.begin", _BEGIN, row, Fetch.ROWCOUNT),
        )
        return bool(results[-1])

    async def _find(self, key_id: str, key: str) -> Answer | None:
        sql = (
            "SELECT request_hash, status, headers, body FROM idempotent_requests WHERE key_id = ? AND key = ?"
        )
        row = await self._store.read(Statement("answers.find", sql, (key_id, key), Fetch.ONE))
        if row is None:
            return None
        return Answer(row[0], row[1], json.loads(row[2] or "{}"), row[3] or b"")
