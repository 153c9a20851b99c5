"""Endpoints that take, list, delete, restore and test snapshots, and that undo a restore."""

from contextlib import suppress
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Response

from tenantry.admin.http.operations import Operation
from tenantry.admin.http.routing import (
    Administrator,
    AdminRoute,
    CurrentService,
    Operator,
    Reader,
    accepted,
)
from tenantry.admin.http.tenant_change import CurrentChange
from tenantry.admin.openapi.responses import documented
from tenantry.admin.routes.tenants import TenantPath
from tenantry.admin.schemas import (
    SNAPSHOT_ID,
    DrillOut,
    DrillRequest,
    RestorePoint,
    RestorePointList,
    SnapshotPage,
    StorageClaimed,
)
from tenantry.errors import SnapshotCorruptError
from tenantry.tenancy.registry import TenantRegistry
from tenantry.tenancy.snapshots.snapshot import Snapshot

router = APIRouter(prefix="/v1/tenants/{tenant_id}", tags=["snapshots"], route_class=AdminRoute)
fleet_router = APIRouter(prefix="/v1/snapshots", tags=["snapshots"], route_class=AdminRoute)

SnapshotPath = Annotated[str, Path(examples=[SNAPSHOT_ID])]
PointPath = Annotated[str, Path(examples=[f"before-{SNAPSHOT_ID}"])]


@router.post("/snapshots", status_code=202, responses=documented(404))
async def create_snapshot(
    tenant_id: TenantPath,
    principal: Operator,
    service: CurrentService,
    response: Response,
) -> Operation:
    """Take a snapshot of the tenant while it serves calls. The operation's result is the snapshot."""
    tenant = await service.registry.get(tenant_id)
    work = partial(service.registry.snapshots.create, tenant_id, by=principal.name)
    return accepted(service.operations.start("snapshot", tenant, work, by=principal.name), response)


@router.get("/snapshots", responses=documented(404))
async def list_snapshots(tenant_id: TenantPath, _: Reader, service: CurrentService) -> SnapshotPage:
    """Return the tenant's snapshots, newest first."""
    kept = await service.registry.snapshots.look(tenant_id)
    return SnapshotPage(items=kept.sound, damaged=kept.damaged)


@router.get("/snapshots/{snapshot_id}", responses=documented(404))
async def get_snapshot(
    tenant_id: TenantPath, snapshot_id: SnapshotPath, _: Reader, service: CurrentService
) -> Snapshot:
    """Return one snapshot."""
    return await service.registry.snapshots.get(tenant_id, snapshot_id)


@router.delete("/snapshots/{snapshot_id}", status_code=204, responses=documented(404))
async def delete_snapshot(
    tenant_id: TenantPath, snapshot_id: SnapshotPath, principal: Administrator, service: CurrentService
) -> None:
    """Delete a snapshot."""
    with suppress(SnapshotCorruptError):  # a corrupt snapshot can be deleted too
        await service.registry.snapshots.get(tenant_id, snapshot_id)
    await service.registry.snapshots.delete(tenant_id, snapshot_id, by=principal.name)


@router.post("/snapshots/{snapshot_id}/restore", status_code=202, responses=documented(404, 412))
async def restore_snapshot(
    tenant_id: TenantPath,
    snapshot_id: SnapshotPath,
    _: Administrator,
    change: CurrentChange,
    service: CurrentService,
) -> Operation:
    """Restore the snapshot as the tenant's database; `undo-restore` undoes the restore. The operation's result is the tenant."""
    # The `snapshot_id` may also be the id of a restore point.
    if snapshot_id not in await service.registry.snapshots.points(tenant_id):
        await service.registry.snapshots.get(tenant_id, snapshot_id)
    return await change.begin("restore", partial(service.registry.snapshots.restore, tenant_id, snapshot_id))


@router.get("/restore-points", responses=documented(404))
async def list_restore_points(tenant_id: TenantPath, _: Reader, service: CurrentService) -> RestorePointList:
    """Return the databases that restores have replaced, oldest first; `snapshots/{id}/restore` also accepts these ids."""
    points = await service.registry.snapshots.points(tenant_id)
    return RestorePointList(items=[RestorePoint(id=point) for point in points])


@router.delete("/restore-points/{point}", status_code=204, responses=documented(404))
async def drop_restore_point(
    tenant_id: TenantPath, point: PointPath, principal: Administrator, service: CurrentService
) -> None:
    """Remove a database that a restore has replaced, to free disk space. That restore can no longer be undone."""
    await service.registry.snapshots.drop_point(tenant_id, point, by=principal.name)


@router.post("/undo-restore", status_code=202, responses=documented(404, 412))
async def undo_restore(
    tenant_id: TenantPath,
    _: Administrator,
    change: CurrentChange,
    service: CurrentService,
) -> Operation:
    """Undo the last restore. The operation's result is the tenant."""
    return await change.begin("undo_restore", partial(service.registry.snapshots.undo_restore, tenant_id))


@fleet_router.post("/claim-storage", responses=documented(409))
async def claim_storage(principal: Administrator, service: CurrentService) -> StorageClaimed:
    """Make this data directory the owner of the snapshot storage. The storage then refuses the previous owner's directory."""
    principal.check_fleet()
    before = await service.registry.snapshots.claim_storage(by=principal.name)
    location = service.registry.snapshots.storage_location
    return StorageClaimed(location=location, taken_from=None if before is None else str(before))


@fleet_router.post("/drill", status_code=202, responses=documented(400))
async def drill_snapshots(
    body: DrillRequest, principal: Operator, service: CurrentService, response: Response
) -> Operation:
    """Restore the newest snapshots of some tenants to a scratch directory. The operation's result lists each tenant's outcome."""
    principal.check_fleet()
    work = partial(_drilled, service.registry, body.sample)
    return accepted(service.operations.start("drill", None, work, by=principal.name), response)


async def _drilled(registry: TenantRegistry, sample: int) -> DrillOut:
    report = await registry.snapshots.drill(sample=sample)
    return DrillOut(is_ok=report.is_ok, results=report.results)
