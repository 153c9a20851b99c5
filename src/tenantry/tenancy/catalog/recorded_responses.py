"""What the admin API keeps in the catalog: answers to requests that may be repeated, and its secret; `registry.answers`."""

import json
import secrets
from typing import Final, NamedTuple

from tenantry.clock import Clock, as_text
from tenantry.statements import Fetch, Statement
from tenantry.tenancy.catalog.api_keys import KeyStore
from tenantry.tenancy.clock_watch import ClockWatch

RETENTION_SECONDS: Final = 86_400.0
UNANSWERED_SECONDS_MAX: Final = 60.0
"""After that a request that was neither answered nor renewed is one whose process died: its key may be used again."""

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
        status: What was answered in the end; None while it is under way.
        headers: Those that matter.
        body: The body; while it is under way, what was answered so far, or nothing.
    """

    request_hash: str
    status: int | None
    headers: dict[str, str]
    body: bytes


class Attempt:
    """A request that is under way, the only one with its idempotency key.

    After `UNANSWERED_SECONDS_MAX` without `renew` the key is free; then these methods do nothing to the request that has
    taken it.
    """

    def __init__(self, store: KeyStore, clock: Clock, key_id: str, key: str, begun_at: str) -> None:
        self._store = store
        self._clock = clock
        self._row = (key_id, key)
        # Tells it from a later request with the same key.
        self._begun_at = begun_at

    async def renew(self) -> None:
        """Say that it is still under way."""
        now = as_text(self._clock.now())
        await self._change("answers.renew", "UPDATE idempotent_requests SET created_at = ?", now)
        self._begun_at = now

    async def keep_so_far(self, headers: dict[str, str], body: bytes) -> None:
        """Keep what was answered while the work goes on: it is the answer for as long as this is renewed."""
        sql = "UPDATE idempotent_requests SET headers = ?, body = ?"
        await self._change("answers.keep", sql, json.dumps(headers), body)

    async def keep(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Keep what was answered."""
        sql = "UPDATE idempotent_requests SET status = ?, headers = ?, body = ?"
        await self._change("answers.keep", sql, status, json.dumps(headers), body)

    async def forget(self) -> None:
        """Forget it, because it had no effect: the same key may be used again."""
        await self._change("answers.forget", "DELETE FROM idempotent_requests")

    async def _change(self, operation: str, sql: str, *values: object) -> None:
        where = "WHERE key_id = ? AND key = ? AND created_at = ? AND status IS NULL"
        parameters = (*values, *self._row, self._begun_at)
        await self._store.write(Statement(operation, f"{sql} {where}", parameters))


class Answers:
    """Keeps answers for a day.

    Args:
        store: The catalog.
        clock: For their times.
        watch: Tells which have expired.
    """

    def __init__(self, store: KeyStore, clock: Clock, watch: ClockWatch) -> None:
        self._store = store
        self._clock = clock
        self._watch = watch

    async def begin(self, key_id: str, key: str, request_hash: str) -> Attempt | Answer:
        """Note that a request is under way; if one with this key was before, return what is known of it instead."""
        while True:
            begun_at = await self._note(key_id, key, request_hash)
            if begun_at is not None:
                return Attempt(self._store, self._clock, key_id, key, begun_at)
            before = await self._find(key_id, key)
            if before is not None:
                return before
            # Between the two the one before was refused and forgotten: this one is noted after all.

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

    async def _note(self, key_id: str, key: str, request_hash: str) -> str | None:
        now = self._clock.now()
        too_old, unanswered = (
            as_text(self._watch.expired_before(seconds))
            for seconds in (RETENTION_SECONDS, UNANSWERED_SECONDS_MAX)
        )
        row = (key_id, key, request_hash, as_text(now))
        results = await self._store.write(
            Statement("answers.forget", _FORGET_OLD, (too_old, _REMOVED_MAX)),
            Statement("answers.forget", _FREE, (key_id, key, unanswered, too_old)),
            Statement("answers.begin", _BEGIN, row, Fetch.ROWCOUNT),
        )
        return row[-1] if results[-1] else None

    async def _find(self, key_id: str, key: str) -> Answer | None:
        sql = (
            "SELECT request_hash, status, headers, body FROM idempotent_requests WHERE key_id = ? AND key = ?"
        )
        row = await self._store.read(Statement("answers.find", sql, (key_id, key), Fetch.ONE))
        if row is None:
            return None
        return Answer(row[0], row[1], json.loads(row[2] or "{}"), row[3] or b"")
