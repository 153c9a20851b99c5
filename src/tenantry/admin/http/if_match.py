"""If-Match: a request that changes a tenant only if the tenant is still as the client has read it."""

from typing import Annotated

from fastapi import Depends, Header, Path

from tenantry.admin.http.problems import ProblemError
from tenantry.admin.http.routing import CurrentService
from tenantry.admin.schemas import TenantIdText
from tenantry.tenancy.tenant_record import TenantRecord

IfMatchHeader = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="The ETag of the tenant as it was read; if the tenant has changed since, 412.",
        max_length=100,
        examples=['"3"'],
    ),
]


async def _expected_revision(
    tenant_id: Annotated[TenantIdText, Path()], service: CurrentService, if_match: IfMatchHeader = None
) -> int | None:
    return None if if_match is None else _revision_of(if_match, await service.registry.get(tenant_id))


ExpectedRevision = Annotated[int | None, Depends(_expected_revision)]
"""The revision that the request's condition names; None for any."""


def etag(tenant: TenantRecord) -> str:
    """Return the tag of a tenant's present settings and state."""
    return f'"{tenant.revision}"'


def _revision_of(if_match: str, tenant: TenantRecord) -> int | None:
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
