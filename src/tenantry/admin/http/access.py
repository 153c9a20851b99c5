"""Checks what a request may do: when it begins, and again each time it has waited."""

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
"""How often a response is made again because the key's tenants changed while it was made."""

_RETRY_AFTER_SECONDS: Final = 1


def key_changed() -> ProblemError:
    """Return the problem of a caller whose key's tenants changed while the response was made."""
    return ProblemError(
        409,
        "key-changed",
        "The key's tenants changed",
        "a tenant of this key was renamed or purged while the response was made: send the request again",
        retry_after_seconds=_RETRY_AFTER_SECONDS,
    )


class Access:
    """The caller of a request and the tenant that its path names; an `Authority` for the calls that it makes.

    The order of the reads matters where a key is for some tenants only: the tenant is found first and the key is read
    afterwards. A rename changes the key in its own transaction. So a key that still names the id was for the tenant that was
    found, and the calls find no other tenant under that id.

    Attributes:
        tenant_id: The tenant that the path names, None if it names none.
        tenant_uid: Its stable key, None if the tenant does not exist.
    """

    def __init__(self, request: Request, authenticate: Authenticate, registry: TenantRegistry) -> None:
        self._request = request
        self._authenticate = authenticate
        self._registry = registry
        self.tenant_id: str | None = request.path_params.get("tenant_id")
        self.tenant_uid: str | None = None

    async def begin(self) -> Principal:
        """Return who makes the request, and note which tenant it is about.

        Raises:
            ProblemError: 401 or 403.
        """
        principal = await self._principal()
        await self._find_tenant()
        # Nothing is looked up for an unknown caller, so the key of a known caller is read twice.
        return principal if principal.tenants is None else await self._principal()

    async def check(self) -> Principal:
        """Return who makes the request, if that caller may still do so; routes see this principal from now on.

        Raises:
            ProblemError: 401 or 403: the key is no longer valid, or no longer for the tenant.
        """
        await self._find_tenant()
        return await self._principal()

    async def check_stream(self) -> None:
        """Raise unless a stream of the request may go on.

        Raises:
            ProblemError: 401 or 403, as `check`; 409: the stream is about several tenants, and those of the key changed.
        """
        before: Principal = self._request.state.principal
        if (await self.check()).tenants != before.tenants and self.tenant_id is None:
            raise key_changed()

    async def holds_for(self, response: Response) -> bool:
        """Return whether a response may be sent; if not, the key's tenants changed and the response has to be made again.

        Only streams, and responses to `GET` for a key for some tenants, are checked.

        Raises:
            ProblemError: 401 or 403, as `check`; 409: the response is a stream, so the caller has to send the request again.
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
            return  # The route's own validation answers an invalid id.
        self.tenant_uid = None if tenant is None else tenant.uid
