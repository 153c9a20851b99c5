"""Checks a caller's rights when a request begins, and again after each wait."""

from typing import Final

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from tenantry.admin.http.auth import Authenticate, Principal
from tenantry.admin.http.problems import ProblemError
from tenantry.errors import InvalidTenantIdError
from tenantry.ids import parse_tenant_id
from tenantry.tenancy.registry import TenantRegistry

ANSWERS_MAX: Final = 5
"""The maximum number of attempts to make a response while the tenants of the caller's key change."""

_RETRY_AFTER_SECONDS: Final = 1


def key_changed() -> ProblemError:
    """Return the problem that the tenants of the caller's key changed while the response was made."""
    return ProblemError(
        409,
        "key-changed",
        "The key's tenants changed",
        "a tenant of this key was renamed or purged while the response was made: send the request again",
        retry_after_seconds=_RETRY_AFTER_SECONDS,
    )


class Access:
    """The caller of a request and the tenant in the request's path; an `Authority` for the request's calls.

    For a key that is limited to some tenants, the tenant is looked up before the key is read. A rename changes the tenant and the
    key in one transaction. If the key that is read after the look-up lists the request's tenant id, the key is for the tenant
    that was found. The request's calls never reach another tenant that gets the same id.

    Attributes:
        tenant_id: The tenant id in the path; None if the path has no tenant.
        tenant_uid: The tenant's stable key; None if the tenant does not exist.
    """

    def __init__(self, request: Request, authenticate: Authenticate, registry: TenantRegistry) -> None:
        self._request = request
        self._authenticate = authenticate
        self._registry = registry
        self.tenant_id: str | None = request.path_params.get("tenant_id")
        self.tenant_uid: str | None = None

    async def begin(self) -> Principal:
        """Return the caller, and look up the tenant in the path.

        Raises:
            ProblemError: The key is not valid (401), or is not for the tenant (403).
        """
        principal = await self._principal()
        await self._find_tenant()
        # Read the key before the look-up to refuse unknown callers, and again after the look-up, see the class.
        return principal if principal.tenants is None else await self._principal()

    async def check(self) -> Principal:
        """Check the caller's key again, store the caller as the request's principal, and return the caller.

        Raises:
            ProblemError: The key is no longer valid (401), or no longer for the tenant (403).
        """
        await self._find_tenant()
        return await self._principal()

    async def check_stream(self) -> None:
        """Raise unless a stream of the request may continue.

        Raises:
            ProblemError: 401 or 403, see `check`; 409 if the stream concerns several tenants and the key's tenants changed.
        """
        before: Principal = self._request.state.principal
        if (await self.check()).tenants != before.tenants and self.tenant_id is None:
            raise key_changed()

    async def holds_for(self, response: Response) -> bool:
        """Return whether a response may be sent; False if the response must be made again, because the key's tenants changed.

        Two kinds of responses are checked: streams, and responses to a `GET` with a key that is limited to some tenants.

        Raises:
            ProblemError: 401 or 403, see `check`; 409 if the key's tenants changed and the response is a stream.
        """
        before: Principal = self._request.state.principal
        is_stream = isinstance(response, StreamingResponse)
        is_read_of_some = before.tenants is not None and self._request.method == "GET"
        if not is_read_of_some and not is_stream:
            return True
        holds = (await self.check()).tenants == before.tenants
        if not holds and is_stream:
            raise key_changed()
        return holds

    async def _principal(self) -> Principal:
        principal = await self._authenticate(self._request)
        if self.tenant_id is not None:
            principal.check_tenant(self.tenant_id)
        self._request.state.principal = principal
        return principal

    async def _find_tenant(self) -> None:
        if self.tenant_id is None or self.tenant_uid is not None:
            return
        try:
            tenant = await self._registry.find(parse_tenant_id(self.tenant_id))
        except InvalidTenantIdError:
            return  # The route itself refuses an invalid tenant id.
        self.tenant_uid = None if tenant is None else tenant.uid
