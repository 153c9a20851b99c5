"""Authenticates callers by API key, checks what a key allows, and limits how often a client may try wrong keys."""

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security.base import SecurityBase

from tenantry.admin.http.address import network_of
from tenantry.admin.http.problems import ProblemError, too_many
from tenantry.clock import Clock
from tenantry.ids import TenantId
from tenantry.tenancy.catalog.api_keys import ApiKey, ApiKeys, Scope

WRONG_KEYS_MAX: Final = 10
"""How many wrong keys one client may try in a row; then one every `WRONG_KEY_SECONDS`. A valid key is accepted all the same:
many clients may share an address, and nobody guesses one of 2^256 keys."""

WRONG_KEY_SECONDS: Final = 6.0
_CLIENTS_MAX: Final = 4096
_TOKEN_CHARACTERS_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request.

    Attributes:
        name: The principal's name in the audit.
        key: The API key; None for a caller that is authenticated in another way, who may do everything.
    """

    name: str
    key: ApiKey | None

    @property
    def id(self) -> str:
        """A text that differs between callers."""
        return self.key.id if self.key is not None else f"name:{self.name}"

    @property
    def tenants(self) -> tuple[TenantId, ...] | None:
        """The tenants that the caller's key is for; None for all tenants."""
        return None if self.key is None else self.key.tenants

    def is_for(self, tenant_id: str) -> bool:
        """Return whether the caller's key is for this tenant."""
        return self.key is None or self.key.is_for(tenant_id)

    def check_scope(self, scope: Scope) -> None:
        """Raise unless the caller may do what the scope allows.

        Raises:
            ProblemError: 403.
        """
        if self.key is not None and not self.key.allows(scope):
            raise ProblemError(
                403,
                "scope",
                "Not allowed",
                f"this key lacks the scope {scope.value!r}",
                required_scope=scope.value,
            )

    def check_tenant(self, tenant_id: str) -> None:
        """Raise unless the caller's key is for this tenant.

        Raises:
            ProblemError: 403; it does not say whether the tenant exists.
        """
        if not self.is_for(tenant_id):
            raise another_tenant()

    def check_fleet(self) -> None:
        """Raise if the caller's key is for some tenants only: it may not see or do what concerns all tenants.

        Raises:
            ProblemError: 403.
        """
        if self.tenants is not None:
            raise ProblemError(403, "tenant", "Not allowed", "this key is for some tenants only")


def another_tenant() -> ProblemError:
    """Return the problem of a caller whose key is for other tenants."""
    return ProblemError(403, "tenant", "Not allowed", "this key is for other tenants")


Authenticate = Callable[[Request], Awaitable[Principal]]


class KeyAuthenticator:
    """Identifies the caller of a request by its API key.

    Args:
        keys: The keys.
        clock: Gives the time for the limit on wrong keys.
    """

    def __init__(self, keys: ApiKeys, clock: Clock) -> None:
        self._keys = keys
        self._failures = WrongKeyLimiter(clock)

    async def __call__(self, request: Request) -> Principal:
        """Return who makes the request.

        Raises:
            ProblemError: 401 without a valid key; 429 with a wrong key from a client that tried too many.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthorized("send a key: Authorization: Bearer tnt_…", "")
        key = await self._keys.authenticate(token.strip()[:_TOKEN_CHARACTERS_MAX])
        if key is None:
            client = _client(request)
            self._failures.check(client)
            self._failures.note(client)
            raise unauthorized()
        return Principal(f"key:{key.id}", key)


class WrongKeyLimiter:
    """Limits how many wrong keys each client may try: a leaky bucket for each of the latest clients.

    Args:
        clock: Gives the monotonic time.
    """

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic_seconds
        # By client: when its bucket of failures will be empty again.
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def check(self, client: str) -> None:
        """Raise if the client has tried too many wrong keys.

        Raises:
            ProblemError: 429, with when to try again.
        """
        over = self._empty_at.get(client, 0.0) - self._now() - WRONG_KEY_SECONDS * (WRONG_KEYS_MAX - 1)
        if over > 0:
            seconds = math.ceil(over)
            raise too_many(
                "failures",
                f"too many wrong keys came from this address: try again in {seconds} s",
                status=429,
                seconds=seconds,
            )

    def note(self, client: str) -> None:
        """Count a wrong key of the client."""
        self._empty_at[client] = max(self._empty_at.get(client, 0.0), self._now()) + WRONG_KEY_SECONDS
        self._empty_at.move_to_end(client)
        while len(self._empty_at) > _CLIENTS_MAX:
            self._empty_at.popitem(last=False)


class Bearer(SecurityBase):
    """Declares the bearer scheme in OpenAPI; `AdminRoute` authenticates."""

    def __init__(self) -> None:
        self.model = HTTPBearerModel(description="An API key: `tenantry key create`.", bearerFormat="tnt_…")
        self.scheme_name = "api_key"

    async def __call__(self, request: Request) -> Principal:
        """Return who makes the request."""
        principal: Principal = request.state.principal
        return principal


def _client(request: Request) -> str:
    return network_of(request.client.host) if request.client is not None else "unknown"


def unauthorized() -> ProblemError:
    """Return the problem of a caller whose key is unknown, expired or revoked."""
    return _unauthorized("this key is unknown, expired or revoked", 'error="invalid_token"')


def _unauthorized(detail: str, parameters: str) -> ProblemError:
    challenge = f"Bearer {parameters}".strip()
    return ProblemError(401, "unauthorized", "No valid key", detail, headers={"WWW-Authenticate": challenge})
