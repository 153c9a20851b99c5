"""If-Match: a call on a tenant that was decided on what was read before, and is not to happen if that has changed."""

from typing import Annotated

from fastapi import Depends, Header, Path

from tenantry.admin.problems import ProblemError
from tenantry.admin.routing import CurrentService
from tenantry.admin.schemas import TenantIdText
from tenantry.tenancy.tenant import Tenant

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="The ETag that the call was decided on; otherwise 412.",
        max_length=100,
    ),
]


async def _check(
    tenant_id: Annotated[TenantIdText, Path()], service: CurrentService, if_match: IfMatch = None
) -> None:
    """Refuse a call that was decided on something else than the tenant is now.

    Looked at before the call, and not with it as a change of settings does: of two calls that are made at the very same time
    both may pass. Then the states decide: the second one is refused, or finds that what it asks for is done.

    Raises:
        ProblemError: 412.
        TenantNotFoundError: There is none.
    """
    if if_match is not None:
        revision_of(if_match, await service.registry.get(tenant_id))


Matched = Annotated[None, Depends(_check)]
"""For a call on a tenant; after what checks the key's scope."""


def etag(tenant: Tenant) -> str:
    """Return the tag of a tenant's present settings and state."""
    return f'"{tenant.revision}"'


def revision_of(if_match: str, tenant: Tenant) -> int | None:
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
