"""Who calls: API keys, what they are good for, and a limit on how often somebody may try wrong ones."""

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
"""How many wrong keys one client may try in a row; then one every `WRONG_KEY_SECONDS`. A good key is let in all the same: many
clients may come from one address, and nobody guesses one of 2^256."""

WRONG_KEY_SECONDS: Final = 6.0
_CLIENTS_MAX: Final = 4096
_TOKEN_CHARACTERS_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request.

    Attributes:
        name: In the audit.
        key: The key that was shown; None for whoever is known in another way, and may do everything.
    """

    name: str
    key: ApiKey | None

    @property
    def id(self) -> str:
        """A text that differs between callers."""
        return self.key.id if self.key is not None else f"name:{self.name}"

    @property
    def tenants(self) -> tuple[TenantId, ...] | None:
        """The only tenants that the caller's key is for; all if None."""
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
            ProblemError: 403; it does not say whether there is such a tenant.
        """
        if not self.is_for(tenant_id):
            raise another_tenant()

    def check_fleet(self) -> None:
        """Raise if the caller's key is for some tenants only: what concerns all of them is not for it.

        Raises:
            ProblemError: 403.
        """
        if self.tenants is not None:
            raise ProblemError(403, "tenant", "Not allowed", "this key is for some tenants only")


def another_tenant() -> ProblemError:
    """Return what a caller is told whose key is for other tenants."""
    return ProblemError(403, "tenant", "Not allowed", "this key is for other tenants")


Authenticate = Callable[[Request], Awaitable[Principal]]


class KeyAuthenticator:
    """Finds out by its key who makes a request.

    Args:
        keys: The keys.
        clock: For the limit on failures.
    """

    def __init__(self, keys: ApiKeys, clock: Clock) -> None:
        self._keys = keys
        self._failures = WrongKeyLimiter(clock)

    async def __call__(self, request: Request) -> Principal:
        """Return who makes the request.

        Raises:
            ProblemError: 401 without a good key; 429 with a wrong one from a client that tried too many.
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
    """How often a client may fail: a bucket for each of the last ones.

    Args:
        clock: Monotonic.
    """

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic_seconds
        # By client: when its bucket of failures will be empty again.
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def check(self, client: str) -> None:
        """Raise if the client has failed too often.

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
        """Note that the client has failed."""
        self._empty_at[client] = max(self._empty_at.get(client, 0.0), self._now()) + WRONG_KEY_SECONDS
        self._empty_at.move_to_end(client)
        while len(self._empty_at) > _CLIENTS_MAX:
            self._empty_at.popitem(last=False)


class Bearer(SecurityBase):
    """Tells the document that operations need a key; whether it is good was found out before."""

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
    """Return the answer to a caller whose key is unknown, expired or revoked."""
    return _unauthorized("this key is unknown, expired or revoked", 'error="invalid_token"')


def _unauthorized(detail: str, parameters: str) -> ProblemError:
    challenge = f"Bearer {parameters}".strip()
    return ProblemError(401, "unauthorized", "No good key", detail, headers={"WWW-Authenticate": challenge})
