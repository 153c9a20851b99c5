"""If-Match: a request that changes a tenant only if the tenant is still as the client has read it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Header, Path

from tenantry.admin.http.problems import ProblemError
from tenantry.admin.http.routing import CurrentService
from tenantry.admin.schemas import TenantIdText
from tenantry.tenancy.operations.expected_revision import expecting
from tenantry.tenancy.registry import TenantRegistry
from tenantry.tenancy.tenant_record import TenantRecord

IfMatchHeader = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="The ETag of the tenant as it was read; if the tenant has changed since, 412.",
        max_length=100,
    ),
]


class IfMatch:
    """The condition of a request that changes a tenant.

    Args:
        registry: The tenants.
        tenant_id: The tenant.
        if_match: The header's value; None without one.
    """

    def __init__(self, registry: TenantRegistry, tenant_id: str, if_match: str | None) -> None:
        self._registry = registry
        self._tenant_id = tenant_id
        self._if_match = if_match

    @asynccontextmanager
    async def applied(self) -> AsyncIterator[None]:
        """Let operations in the block take effect only if the condition holds, see `expecting`.

        Raises:
            ProblemError: 412: the tenant has changed.
            RevisionError: The same, detected by the operation.
            TenantNotFoundError: The tenant does not exist.
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
    """Return the revision that the request expects; None for any revision.

    RFC 9110, section 13.1.1: one of the tags must be the tenant's, and a weak tag never matches.

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
        f"tenant {tenant.id!r} is at revision {etag(tenant)}, and the request expects {if_match.strip()}: read it again",
        tenant_id=tenant.id,
        current_revision=tenant.revision,
    )
