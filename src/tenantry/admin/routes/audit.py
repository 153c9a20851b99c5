"""Endpoints that list the audit and verify its hash chain."""

from typing import Annotated

from fastapi import APIRouter, Query

from tenantry.admin.http.auth import Principal, another_tenant
from tenantry.admin.http.cursors import CurrentCursor
from tenantry.admin.http.routing import AdminRoute, CurrentService, Reader
from tenantry.admin.openapi.responses import documented
from tenantry.admin.schemas import (
    LIST_ITEMS_MAX,
    AuditEntryOut,
    AuditPage,
    AuditVerificationOut,
    TenantIdText,
)
from tenantry.tenancy.catalog.audit import AdminAuditEntry

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=AdminRoute)


@router.get("", responses=documented(400, 404))
async def list_audit(
    principal: Reader,
    service: CurrentService,
    cursor: CurrentCursor,
    tenant_id: Annotated[
        TenantIdText | None,
        Query(
            description="Selects the rows with this tenant id, including the rows of an earlier tenant with the same id."
        ),
    ] = None,
    tenant_uid: Annotated[
        str | None,
        Query(
            pattern=r"^[0-9a-f]{32}$",
            examples=["0f8fad5bd9cb469fa16570867728950e"],
            description="Selects the rows of the tenant with this `uid`, including the rows under its former ids.",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=LIST_ITEMS_MAX)] = 100,
) -> AuditPage:
    """Return a page of the audit, newest first: the principal, the action and the tenant of each row.

    Callers whose keys are limited to some tenants must pass `tenant_id`. The page has rows of the id's current tenant, also
    under former ids, but no rows of earlier tenants with the same id.
    """
    wanted = {"tenant_id": tenant_id, "tenant_uid": tenant_uid}
    if tenant_id is None:
        principal.check_fleet()
    else:
        principal.check_tenant(tenant_id)
        if principal.tenants is not None:
            uid = (await service.registry.get(tenant_id)).uid
            if tenant_uid not in {None, uid}:
                raise another_tenant()
            wanted = {"tenant_uid": uid}
    page = await service.registry.audit.list(**wanted, limit=limit, cursor=cursor.after)
    items = [_shown_to(principal, entry) for entry in page]
    return AuditPage(items=items, next_cursor=cursor.next(page))


@router.get("/verification", responses=documented())
async def verify_audit(principal: Reader, service: CurrentService) -> AuditVerificationOut:
    """Recompute the audit's hash chain, and compare it with the recorded hashes."""
    principal.check_fleet()
    found = await service.registry.audit.verify()
    return AuditVerificationOut.model_validate(found, from_attributes=True)


def _shown_to(principal: Principal, entry: AdminAuditEntry) -> AuditEntryOut:
    """Return an audit entry; a clone's source tenant is left out unless the caller's key includes the source."""
    values = entry.model_dump()
    source = entry.detail.get("source")
    if source is not None and not principal.is_for(source):
        del values["detail"]["source"]
    return AuditEntryOut(**values)
