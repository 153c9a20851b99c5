"""API keys of the admin API: create, list, revoke and authenticate keys with `registry.keys`.

A key is ``tnt_<id>_<secret>``. The key's id is stored and shown. Instead of the secret, only its SHA-256 hash is stored: a secret of
256 random bits needs no salt and no slow hash. The hashes are compared in constant time.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict

from tenantry.clock import FIRST_INSTANT, Clock, as_text
from tenantry.errors import KeyRefusedError, QueryError, RecordNotFoundError
from tenantry.ids import TenantId, parse_tenant_id
from tenantry.pages import Page, decode_cursor, encode_cursor, page_rows
from tenantry.scope import Scope
from tenantry.sql.statements import Fetch, Statement, TupleRow
from tenantry.tenancy.catalog.audit import append, append_if, principal_of
from tenantry.tenancy.catalog.rows import decode_row
from tenantry.tenancy.catalog.session import CatalogSession
from tenantry.texts import check_key_name

KEY_ROWS_DEFAULT: Final = 1_000
_TOKEN: Final = re.compile(r"tnt_(?P<id>[0-9a-f]{16})_(?P<secret>[0-9a-f]{64})")
_COLUMNS: Final = ("id", "name", "scopes", "tenants", "created_at", "created_by", "expires_at", "revoked_at")
_JSON_COLUMNS: Final = ("scopes", "tenants")
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)}"
_INSERT: Final = f"INSERT INTO api_keys ({', '.join(_COLUMNS)}, hash) SELECT {', '.join('?' * (len(_COLUMNS) + 1))}"  # our names


class ApiKey(BaseModel):
    """An API key without its secret.

    Attributes:
        scopes: The key's scopes, which are its permissions.
        tenants: The ids of the tenants that the key is limited to; None for all tenants. The tenants need not exist yet. A rename
            changes the id in the list, and a purge removes the id, so a later tenant with the same id is not included.
        created_at, created_by: The time of the key's creation, and the principal that created the key.
        expires_at: The time at which the key expires; None for no expiry.
        revoked_at: The time at which the key was revoked; None if the key is not revoked.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    scopes: tuple[Scope, ...]
    tenants: tuple[TenantId, ...] | None = None
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Return whether the key permits calls that need this scope."""
        return any(mine.includes(scope) for mine in self.scopes)

    def is_for(self, tenant_id: str) -> bool:
        """Return whether the key permits calls to this tenant."""
        return self.tenants is None or tenant_id in self.tenants


class NewApiKey(NamedTuple):
    """A key that was just created, with its token, which cannot be shown again."""

    key: ApiKey
    token: str


class ApiKeys:
    """Creates and checks API keys; available as `registry.keys`."""

    def __init__(self, store: CatalogSession, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(
        self,
        *,
        name: str = "",
        scopes: Sequence[Scope] = (Scope.READ,),
        tenants: Sequence[str] | None = None,
        expires_in_seconds: float | None = None,
        made_by: ApiKey | None = None,
        by: str | None = None,
    ) -> NewApiKey:
        """Create a key and return it with its token, which cannot be shown again.

        Args:
            name: The key's name that people see.
            scopes: The key's scopes.
            tenants: The ids of the tenants that the key is limited to; None for all tenants.
            expires_in_seconds: The time for which the key is valid; None for no expiry.
            made_by: The caller's own key, if the caller has one; the transaction that creates the new key checks the caller's key.
            by: The principal for the audit; by default the user that the process runs as.

        Raises:
            KeyRefusedError: `made_by` is no longer valid, or the new key has a scope that `made_by` lacks; no key was created.
            QueryError: `scopes` or `tenants` is empty, a name is not valid, or `expires_in_seconds` is not above 0.
            InvalidTenantIdError: One of `tenants` is not a valid tenant id.
        """
        check_key_name(name)
        now = self._clock.now()
        key = ApiKey(
            id=secrets.token_hex(8),
            name=name,
            scopes=_checked_scopes(scopes),
            tenants=None if tenants is None else _checked_tenants(tenants),
            created_at=now,
            created_by=principal_of(by),
            expires_at=None if expires_in_seconds is None else _later(now, expires_in_seconds),
        )
        self._check_may_manage(made_by, key.scopes)
        secret = secrets.token_hex(32)
        condition, parameters = _may_manage(made_by)
        values = key.model_dump(mode="json")
        tenants_json = None if key.tenants is None else json.dumps(values["tenants"])
        # The time is stored as a string of fixed length, so the order of the strings is the order of the times.
        created_at = as_text(now)
        row = (key.id, key.name, json.dumps(values["scopes"]), tenants_json, created_at)
        times = (key.created_by, values["expires_at"], None, _hash(secret))
        told = {name: values[name] for name in ("name", "scopes", "tenants", "expires_at")}
        results = await self._store.write(
            append_if(
                condition, parameters, self._audited("key.create", {"key_id": key.id, **told}, key.created_by)
            ),
            Statement(
                "keys.create", f"{_INSERT} WHERE {condition}", (*row, *times, *parameters), Fetch.ROWCOUNT
            ),
        )
        if not results[-1]:
            raise _refused("no key was created")
        return NewApiKey(key, f"tnt_{key.id}_{secret}")

    async def list(self, *, limit: int | None = None, cursor: str | None = None) -> Page[ApiKey]:
        """Return a page of all keys, including expired and revoked keys, oldest first.

        Args:
            limit: The largest number of keys in the page; by default 1,000.
            cursor: The `next_cursor` of the previous page.

        Raises:
            QueryError: `limit` or `cursor` is not valid.
        """
        rows_max = page_rows(KEY_ROWS_DEFAULT if limit is None else limit)
        after = (FIRST_INSTANT, "") if cursor is None else decode_cursor("keys", cursor, str, str)
        sql = f"{_SELECT} FROM api_keys WHERE (created_at, id) > (?, ?) ORDER BY created_at, id LIMIT ?"
        rows = await self._store.read(Statement("keys.list", sql, (*after, rows_max + 1), Fetch.ALL))
        keys = [_from_row(row) for row in rows[:rows_max]]
        last = rows[rows_max - 1] if len(rows) > rows_max else None
        return Page(keys, None if last is None else encode_cursor("keys", last[4], last[0]))

    async def revoke(self, key_id: str, *, revoked_by: ApiKey | None = None, by: str | None = None) -> ApiKey:
        """Revoke a key, so that requests with the key are refused; idempotent.

        Args:
            key_id: The key's id.
            revoked_by: The caller's own key, see `made_by` of `create`.
            by: See `create`.

        Raises:
            KeyRefusedError: `revoked_by` is no longer valid; nothing was changed.
            RecordNotFoundError: The key does not exist.
        """
        self._check_may_manage(revoked_by, ())
        now = as_text(self._clock.now())
        # A repeated call also appends a row to the audit, and therefore commits. The commit makes an earlier revocation durable if
        # the earlier commit could not sync the file.
        condition, parameters = _may_manage(revoked_by)
        sql = f"UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ? AND {condition}"  # noqa: S608  # our names
        exists = f"EXISTS (SELECT 1 FROM api_keys WHERE id = ?) AND {condition}"  # noqa: S608  # our names
        await self._store.write(
            append_if(exists, (key_id, *parameters), self._audited("key.revoke", {"key_id": key_id}, by)),
            Statement("keys.revoke", sql, (now, key_id, *parameters)),
        )
        found = await self._find(key_id)
        if found is None:
            raise RecordNotFoundError(f"the key {key_id[:40]!r} does not exist", record_id=key_id[:40])
        if found[0].revoked_at is None:
            raise _refused("the key was not revoked")
        return found[0]

    async def authenticate(self, token: str) -> ApiKey | None:
        """Return the key with this token; None if the token is unknown, expired or revoked."""
        match = _TOKEN.fullmatch(token)
        found = await self._find(match["id"]) if match is not None else None
        # Compare hashes even if the key does not exist, so that the duration of this call does not reveal which ids exist.
        known_hash = found[1] if found is not None else _hash("")
        given_hash = _hash(match["secret"] if match is not None else token)
        if not hmac.compare_digest(known_hash, given_hash) or found is None:
            return None
        key = found[0]
        is_expired = key.expires_at is not None and key.expires_at <= self._clock.now()
        return None if is_expired or key.revoked_at is not None else key

    async def has_any(self) -> bool:
        """Return whether any key exists that was not revoked."""
        sql = "SELECT 1 FROM api_keys WHERE revoked_at IS NULL LIMIT 1"
        return await self._store.read(Statement("keys.has_any", sql, (), Fetch.ONE)) is not None

    async def _find(self, key_id: str) -> tuple[ApiKey, str] | None:
        sql = f"{_SELECT}, hash FROM api_keys WHERE id = ?"
        row = await self._store.read(Statement("keys.find", sql, (key_id,), Fetch.ONE))
        return None if row is None else (_from_row(row[:-1]), row[-1])

    def _check_may_manage(self, manager: ApiKey | None, scopes: Sequence[Scope]) -> None:
        """Check the immutable part of the caller's key; the transaction checks the rest, see `_may_manage`."""
        if manager is None:
            return
        is_expired = manager.expires_at is not None and manager.expires_at <= self._clock.now()
        if is_expired or not all(manager.allows(scope) for scope in (Scope.ADMIN, *scopes)):
            raise _refused(
                "the caller's key has expired, lacks the scope 'admin', or lacks a scope of the new key"
            )

    def _audited(self, action: str, detail: dict[str, object], by: str | None) -> Statement:
        return append(
            self._clock,
            action,
            tenant_id=None,
            tenant_uid=None,
            outcome="ok",
            detail=detail,
            by=by,
        )


def _may_manage(manager: ApiKey | None) -> tuple[str, tuple[str, ...]]:
    """Return an SQL condition and its parameters. The condition checks the mutable part of the caller's key if the caller has a key."""
    if manager is None:
        return "1 = 1", ()
    is_good = "EXISTS (SELECT 1 FROM api_keys WHERE id = ? AND revoked_at IS NULL AND tenants IS NULL)"
    return is_good, (manager.id,)


def _refused(what: str) -> KeyRefusedError:
    return KeyRefusedError(
        f"the caller's key does not permit this call: {what}; use a valid key with enough scopes"
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _checked_tenants(tenants: Sequence[str]) -> tuple[TenantId, ...]:
    if not tenants:
        raise QueryError(
            "the list of tenants is empty: name at least one tenant, or leave out the list to allow all tenants"
        )
    return tuple(sorted(set(map(parse_tenant_id, tenants))))


def _checked_scopes(scopes: Sequence[Scope]) -> tuple[Scope, ...]:
    if not scopes:
        raise QueryError(f"the key has no scope: give at least one of {', '.join(Scope)}")
    return tuple(sorted({Scope(scope) for scope in scopes}, key=list(Scope).index))


def _later(now: datetime, seconds: float) -> datetime:
    if not seconds > 0:
        raise QueryError(f"expires_in_seconds must be above 0, not {seconds!r}")
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError as error:
        raise QueryError(
            "expires_in_seconds is too large: for a key that never expires, leave out the argument"
        ) from error


def _from_row(row: TupleRow) -> ApiKey:
    return decode_row(ApiKey, _COLUMNS, row, entity="key", json_columns=_JSON_COLUMNS)
