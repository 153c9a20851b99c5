"""Authenticates callers by API key, and checks the scopes and tenants of a key."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security.base import SecurityBase

from tenantry.admin.http.problems import ProblemError
from tenantry.ids import TenantId
from tenantry.scope import Scope
from tenantry.tenancy.catalog.api_keys import ApiKey, ApiKeys

_TOKEN_CHARACTERS_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of a request.

    Attributes:
        name: The principal's name in the audit.
        key: The API key; None for a caller without a key, who is authenticated in another way and may do everything.
    """

    name: str
    key: ApiKey | None

    @property
    def id(self) -> str:
        """A unique identifier of the caller."""
        return self.key.id if self.key is not None else f"name:{self.name}"

    @property
    def tenants(self) -> tuple[TenantId, ...] | None:
        """The tenants that the caller's key is for; None for all tenants."""
        return None if self.key is None else self.key.tenants

    def is_for(self, tenant_id: str) -> bool:
        """Return whether the caller's key is for this tenant."""
        return self.key is None or self.key.is_for(tenant_id)

    def check_scope(self, scope: Scope) -> None:
        """Raise unless the caller's key has the scope.

        Raises:
            ProblemError: The key lacks the scope (403).
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
            ProblemError: The key is for other tenants (403). The problem does not reveal whether this tenant exists.
        """
        if not self.is_for(tenant_id):
            raise another_tenant()

    def check_fleet(self) -> None:
        """Raise unless the caller's key is for all tenants.

        Raises:
            ProblemError: The key is limited to some tenants (403).
        """
        if self.tenants is not None:
            raise ProblemError(403, "tenant", "Not allowed", "this request needs a key for all tenants")


def another_tenant() -> ProblemError:
    """Return the problem that the caller's key is for other tenants."""
    return ProblemError(403, "tenant", "Not allowed", "this key is for other tenants")


Authenticate = Callable[[Request], Awaitable[Principal]]


def authenticate_by_key(keys: ApiKeys) -> Authenticate:
    """Return a function that identifies the caller of a request by its API key.

    Wrong keys are not counted, because nobody can guess a secret of 256 bits, and `Strangers` limits the rate of such requests.
    """

    async def authenticate(request: Request) -> Principal:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthorized("send a key in the header 'Authorization: Bearer tnt_…'", "")
        key = await keys.authenticate(token.strip()[:_TOKEN_CHARACTERS_MAX])
        if key is None:
            raise unauthorized()
        return Principal(f"key:{key.id}", key)

    return authenticate


class Bearer(SecurityBase):
    """Declares the bearer scheme in OpenAPI; `AdminRoute` authenticates the caller."""

    def __init__(self) -> None:
        self.model = HTTPBearerModel(description="An API key of `tenantry key create`.", bearerFormat="tnt_…")
        self.scheme_name = "api_key"

    async def __call__(self, request: Request) -> Principal:
        """Return the caller."""
        principal: Principal = request.state.principal
        return principal


def unauthorized() -> ProblemError:
    """Return the problem that the caller's key is unknown, expired or revoked."""
    return _unauthorized("this key is unknown, expired or revoked", 'error="invalid_token"')


def _unauthorized(detail: str, parameters: str) -> ProblemError:
    challenge = f"Bearer {parameters}".strip()
    return ProblemError(401, "unauthorized", "No valid key", detail, headers={"WWW-Authenticate": challenge})
