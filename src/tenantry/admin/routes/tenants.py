"""Endpoints that create, list and change tenants, and move tenants through their lifecycle."""

from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Response

from tenantry.admin.http.cursors import CurrentCursor
from tenantry.admin.http.operations import Operation
from tenantry.admin.http.routing import Administrator, AdminRoute, CurrentService, Operator, Reader
from tenantry.admin.http.tenant_change import CurrentChange, tagged
from tenantry.admin.openapi.responses import documented
from tenantry.admin.schemas import (
    LIST_ITEMS_MAX,
    BackendName,
    CloneRequest,
    CreateTenantRequest,
    IdPrefix,
    MoveRequest,
    OneTenantOut,
    OwnerOut,
    PurgeRequest,
    ReasonRequest,
    RenameRequest,
    TenantIdText,
    TenantOut,
    TenantPage,
    UpdateTenantRequest,
    reason_of,
)
from tenantry.lifecycle import TenantState
from tenantry.tenancy.move.plan import MovePlan

router = APIRouter(prefix="/v1/tenants", tags=["tenants"], route_class=AdminRoute)

_EXISTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": TenantOut, "description": "The tenant existed, and nothing was changed (`if_not_exists`)."}
}

TenantPath = Annotated[TenantIdText, Path(alias="tenant_id")]


@router.post("", status_code=201, responses={**documented(400, 409, 507), **_EXISTS})
async def create_tenant(
    body: CreateTenantRequest,
    principal: Operator,
    service: CurrentService,
    response: Response,
) -> TenantOut:
    """Create a tenant with a migrated database."""
    principal.check_tenant(body.id)
    before = await service.registry.find(body.id) if body.if_not_exists else None
    tenant = await service.registry.create(
        body.id,
        display_name=body.display_name,
        backend=body.backend,
        if_not_exists=body.if_not_exists,
        by=principal.name,
    )
    if before is not None and before.uid == tenant.uid:
        response.status_code = HTTPStatus.OK
    response.headers["Location"] = f"/v1/tenants/{tenant.id}"
    return tagged(tenant, response)


@router.get("", responses=documented(400))
async def list_tenants(
    principal: Reader,
    service: CurrentService,
    cursor: CurrentCursor,
    state: TenantState | None = None,
    id_prefix: Annotated[IdPrefix | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=LIST_ITEMS_MAX)] = 100,
) -> TenantPage:
    """Return a page of tenants, ordered by id. Purged tenants are listed only with `state=purged`.

    A key that is limited to some tenants sees only these tenants.
    """
    page = await service.registry.list(
        state=state, id_prefix=id_prefix, tenant_ids=principal.tenants, limit=limit, cursor=cursor.after
    )
    return TenantPage(items=[TenantOut.of(tenant) for tenant in page], next_cursor=cursor.next(page))


@router.get("/{tenant_id}", responses=documented(404))
async def get_tenant(
    tenant_id: TenantPath, _: Reader, service: CurrentService, response: Response
) -> OneTenantOut:
    """Return a tenant in any state."""
    tenant = tagged(await service.registry.get(tenant_id), response)
    owner = await service.registry.tenant_owner(tenant_id)
    shown = None if owner is None else OwnerOut(pid=owner.pid, host=owner.host)
    return OneTenantOut(**dict(tenant), owner=shown)


@router.patch("/{tenant_id}", responses=documented(400, 404, 409, 412))
async def update_tenant(
    tenant_id: TenantPath,
    body: UpdateTenantRequest,
    _: Operator,
    change: CurrentChange,
    service: CurrentService,
) -> TenantOut:
    """Change a tenant's settings and limits, with immediate effect."""
    settings = {name: getattr(body, name) for name in UpdateTenantRequest.model_fields}
    return await change.apply(partial(service.registry.update, tenant_id, **settings))


@router.delete("/{tenant_id}", responses=documented(404, 409, 412))
async def delete_tenant(
    tenant_id: TenantPath, _: Administrator, change: CurrentChange, service: CurrentService
) -> TenantOut:
    """Refuse the tenant's calls, and start its grace period. Until `purge_after` the tenant can be undeleted."""
    return await change.apply(partial(service.registry.delete, tenant_id))


@router.post("/{tenant_id}/suspend", responses=documented(404, 409, 412))
async def suspend_tenant(
    tenant_id: TenantPath,
    _: Operator,
    change: CurrentChange,
    service: CurrentService,
    body: ReasonRequest | None = None,
) -> TenantOut:
    """Refuse the tenant's calls, but keep its data."""
    return await change.apply(partial(service.registry.suspend, tenant_id, reason=reason_of(body)))


@router.post("/{tenant_id}/resume", responses=documented(404, 409, 412))
async def resume_tenant(
    tenant_id: TenantPath, _: Operator, change: CurrentChange, service: CurrentService
) -> TenantOut:
    """Serve the calls of a suspended tenant again."""
    return await change.apply(partial(service.registry.resume, tenant_id))


@router.post("/{tenant_id}/unarchive", responses=documented(404, 409, 412))
async def unarchive_tenant(
    tenant_id: TenantPath, _: Operator, change: CurrentChange, service: CurrentService
) -> TenantOut:
    """Serve the calls of an archived tenant again."""
    return await change.apply(partial(service.registry.unarchive, tenant_id))


@router.post("/{tenant_id}/undelete", responses=documented(404, 409, 412))
async def undelete_tenant(
    tenant_id: TenantPath, _: Operator, change: CurrentChange, service: CurrentService
) -> TenantOut:
    """Return a deleted tenant to its state before the deletion."""
    return await change.apply(partial(service.registry.undelete, tenant_id))


@router.post("/{tenant_id}/rename", responses=documented(404, 409, 412))
async def rename_tenant(
    tenant_id: TenantPath,
    body: RenameRequest,
    principal: Administrator,
    change: CurrentChange,
    service: CurrentService,
) -> TenantOut:
    """Change the tenant's id; its data, files and snapshots stay in place."""
    principal.check_tenant(body.new_id)
    return await change.apply(partial(service.registry.rename, tenant_id, body.new_id))


@router.post("/{tenant_id}/quarantine", responses=documented(404, 409, 412))
async def quarantine_tenant(
    tenant_id: TenantPath,
    _: Operator,
    change: CurrentChange,
    service: CurrentService,
    body: ReasonRequest | None = None,
) -> TenantOut:
    """Quarantine an active tenant; its calls are refused until the tenant is repaired or restored."""
    reason = reason_of(body) or "quarantined by an operator"
    return await change.apply(partial(service.registry.quarantine, tenant_id, reason=reason))


@router.post("/{tenant_id}/archive", status_code=202, responses=documented(404, 412))
async def archive_tenant(
    tenant_id: TenantPath,
    _: Operator,
    change: CurrentChange,
    service: CurrentService,
    body: ReasonRequest | None = None,
) -> Operation:
    """Close the tenant for a long time, and compact its database into one file. The operation's result is the tenant."""
    work = partial(service.registry.archive, tenant_id, reason=reason_of(body))
    return await change.begin("archive", work)


@router.post("/{tenant_id}/repair", status_code=202, responses=documented(404, 412))
async def repair_tenant(
    tenant_id: TenantPath, _: Operator, change: CurrentChange, service: CurrentService
) -> Operation:
    """Check a quarantined tenant's database, repair it if possible, and serve calls again. The operation's result is the tenant.

    An active tenant is neither checked nor changed; use a fleet job of the kind `check` for active tenants.
    """
    return await change.begin("repair", partial(service.registry.repair, tenant_id))


@router.post("/{tenant_id}/purge", status_code=202, responses=documented(404, 412))
async def purge_tenant(
    tenant_id: TenantPath,
    _: Administrator,
    change: CurrentChange,
    service: CurrentService,
    body: PurgeRequest | None = None,
) -> Operation:
    """Remove a deleted tenant's files and snapshots permanently. The operation's result is the purged tenant."""
    is_forced = body is not None and body.force
    return await change.begin("purge", partial(service.registry.purge, tenant_id, force=is_forced))


@router.get("/{tenant_id}/move", responses=documented(404, 409))
async def plan_move(
    tenant_id: TenantPath, _: Reader, service: CurrentService, to: Annotated[BackendName, Query()]
) -> MovePlan:
    """Return what a move to another back end would do: the tables, their rows, and the reasons against the move."""
    return await service.registry.plan_move(tenant_id, to)


@router.post("/{tenant_id}/move", status_code=202, responses=documented(404, 412))
async def move_tenant(
    tenant_id: TenantPath,
    body: MoveRequest,
    _: Administrator,
    change: CurrentChange,
    service: CurrentService,
) -> Operation:
    """Move the tenant's database to another back end, while its callers keep reading and writing.

    The callers wait for a moment, typically less than half a second. If the move fails, the tenant stays where it is. The operation's
    result is the tenant.
    """
    return await change.begin("move", partial(service.registry.move, tenant_id, body.to))


@router.post("/{tenant_id}/clone", status_code=202, responses=documented(404, 412))
async def clone_tenant(
    tenant_id: TenantPath,
    body: CloneRequest,
    principal: Operator,
    change: CurrentChange,
    service: CurrentService,
) -> Operation:
    """Create a tenant with this tenant's current data or a snapshot's data. The operation's result is the new tenant."""
    principal.check_tenant(body.new_id)
    if body.snapshot_id is not None:
        await service.registry.snapshots.get(tenant_id, body.snapshot_id)
    work = partial(
        service.registry.clone,
        tenant_id,
        body.new_id,
        body.snapshot_id,
        display_name=body.display_name,
        backend=body.backend,
    )
    return await change.begin("clone", work)
