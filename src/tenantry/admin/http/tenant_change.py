"""Changes the tenant in a request's path, immediately or as an operation; with If-Match only if the tenant is unchanged."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, TypeAlias

from fastapi import Depends, Header, Path, Request, Response

from tenantry.admin.http.operations import Operation
from tenantry.admin.http.problems import ProblemError
from tenantry.admin.http.routing import CurrentService, accepted
from tenantry.admin.schemas import TenantIdText, TenantOut
from tenantry.tenancy.tenant_record import TenantRecord

Call: TypeAlias = Callable[..., Awaitable[TenantRecord]]
"""A function that takes ``by`` and ``if_revision`` and returns a tenant."""


class TenantChange:
    """A change of the tenant in the request's path.

    Args:
        if_match: The tenant revisions that the request accepts; None accepts any revision.
    """

    def __init__(
        self,
        tenant_id: Annotated[TenantIdText, Path()],
        request: Request,
        service: CurrentService,
        response: Response,
        if_match: Annotated[
            str | None,
            Header(
                alias="If-Match",
                description="The ETag of the tenant when the client read the tenant. If the tenant has changed since, the response is 412.",
                max_length=100,
                examples=['"3"'],
            ),
        ] = None,
    ) -> None:
        self._tenant_id = tenant_id
        self._by: str = request.state.principal.name
        self._service = service
        self._response = response
        self._if_match = if_match

    async def apply(self, call: Call) -> TenantOut:
        """Make the change, and return the tenant that `call` returns.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            ProblemError: The tenant has changed (412).
        """
        revision = None if self._if_match is None else self._revision_of(await self._tenant())
        return tagged(await call(by=self._by, if_revision=revision), self._response)

    async def begin(self, action: str, call: Call) -> Operation:
        """Start an operation that makes the change; the operation's result is the tenant that `call` returns.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            ProblemError: The tenant has changed (412), or too many operations are running (429 or 503).
        """
        tenant = await self._tenant()
        work = partial(_shown, partial(call, by=self._by, if_revision=self._revision_of(tenant)))
        return accepted(self._service.operations.start(action, tenant, work, by=self._by), self._response)

    async def check(self) -> None:
        """Raise if the change would be refused now.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            ProblemError: The tenant has changed (412).
        """
        self._revision_of(await self._tenant())

    async def _tenant(self) -> TenantRecord:
        return await self._service.registry.get(self._tenant_id)

    def _revision_of(self, tenant: TenantRecord) -> int | None:
        """Return the revision that the request expects; None for any revision.

        RFC 9110, section 13.1.1: one of the tags must equal the tenant's ETag, and a weak tag never matches.
        """
        if self._if_match is None or self._if_match.strip() == "*":
            return None
        if _etag(tenant) in {tag.strip() for tag in self._if_match.split(",")}:
            return tenant.revision
        raise ProblemError(
            412,
            "revision",
            "The tenant was changed",
            f"tenant {tenant.id!r} is at revision {_etag(tenant)}, and the request expects {self._if_match.strip()}: read the tenant again",
            tenant_id=tenant.id,
            current_revision=tenant.revision,
        )


CurrentChange = Annotated[TenantChange, Depends()]


def tagged(tenant: TenantRecord, response: Response) -> TenantOut:
    """Return the API's model of a tenant, and set the response's ETag."""
    response.headers["ETag"] = _etag(tenant)
    return TenantOut.of(tenant)


def _etag(tenant: TenantRecord) -> str:
    return f'"{tenant.revision}"'


async def _shown(call: Callable[[], Awaitable[TenantRecord]]) -> TenantOut:
    return TenantOut.of(await call())
