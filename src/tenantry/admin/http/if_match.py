"""If-Match: a call on a tenant that was decided on what was read before, and is not to happen if that has changed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Header, Path

from tenantry.admin.http.problems import ProblemError
from tenantry.admin.http.routing import CurrentService
from tenantry.admin.schemas import TenantIdText
from tenantry.tenancy.operations.operation import expecting
from tenantry.tenancy.registry import TenantRegistry
from tenantry.tenancy.tenant_record import TenantRecord

IfMatchHeader = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="The ETag that the call was decided on; otherwise 412.",
        max_length=100,
    ),
]


class IfMatch:
    """What a call on a tenant was decided on.

    Args:
        registry: The tenants.
        tenant_id: Which.
        if_match: What the request says; None if it does not say.
    """

    def __init__(self, registry: TenantRegistry, tenant_id: str, if_match: str | None) -> None:
        self._registry = registry
        self._tenant_id = tenant_id
        self._if_match = if_match

    @asynccontextmanager
    async def applied(self) -> AsyncIterator[None]:
        """Let calls in the block happen only if the tenant is still what the request was decided on, see `expecting`.

        Raises:
            ProblemError: 412: it is something else by now.
            RevisionError: The same, found out by the call itself.
            TenantNotFoundError: There is none.
        """
        if self._if_match is None:
            yield
            return
        with expecting(revision_of(self._if_match, await self._registry.get(self._tenant_id))):
            yield


async def _if_match(
    tenant_id: Annotated[TenantIdText, Path()], service: CurrentService, if_match: IfMatchHeader = None
) -> IfMatch:
    return IfMatch(service.registry, tenant_id, if_match)


CurrentIfMatch = Annotated[IfMatch, Depends(_if_match)]


def etag(tenant: TenantRecord) -> str:
    """Return the tag of a tenant's present settings and state."""
    return f'"{tenant.revision}"'


def revision_of(if_match: str, tenant: TenantRecord) -> int | None:
    """Return the revision that a call was decided on; None if any will do.

    Compared as RFC 9110, section 13.1.1, says: of several tags one must be the tenant's, and a weak one never is.

    Raises:
        ProblemError: 412.
    """
    if if_match.strip() == "*":
        return None
    if etag(tenant) in {tag.strip() for tag in if_match.split(",")}:
        return tenant.revision
    raise ProblemError(
        412,
        "revision",
        "The tenant was changed",
        f"If-Match is not {etag(tenant)}, which is the tenant's ETag by now: read it again",
        tenant_id=tenant.id,
        current_revision=tenant.revision,
    )
