"""Snapshots, and bundles as streamed bodies."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from tenantry.admin.operations import Operation
from tenantry.admin.problems import documented
from tenantry.admin.routing import (
    Administrator,
    AdminRoute,
    CurrentService,
    Operator,
    Reader,
    accepted,
)
from tenantry.admin.schemas import DisplayName, SnapshotPage, TenantOut
from tenantry.admin.tenants import TenantPath
from tenantry.tenancy.registry import TenantRegistry
from tenantry.tenancy.snapshot import Snapshot

BUNDLE_MEDIA_TYPE = "application/gzip"


class BundleRoute(AdminRoute):
    """An operation whose body is a bundle."""

    body_type = BUNDLE_MEDIA_TYPE
    is_streamed = True


router = APIRouter(prefix="/v1/tenants/{tenant_id}", tags=["snapshots"], route_class=AdminRoute)
bundles = APIRouter(prefix="/v1/tenants/{tenant_id}", tags=["snapshots"], route_class=BundleRoute)

_CHUNK_BYTES = 256 * 1024


@router.post("/snapshots", status_code=202, responses=documented(404))
async def create_snapshot(
    tenant_id: TenantPath,
    _: Operator,
    service: CurrentService,
    response: Response,
) -> Operation:
    """Take a snapshot of the tenant's present state; its calls go on. Its result is the snapshot."""
    await service.registry.get(tenant_id)
    work = partial(service.registry.snapshots.create, tenant_id)
    return accepted(service.operations.start("snapshot", tenant_id, work), response)


@router.get("/snapshots", responses=documented(404))
async def list_snapshots(tenant_id: TenantPath, _: Reader, service: CurrentService) -> SnapshotPage:
    """Return the tenant's snapshots, newest first."""
    return SnapshotPage(items=await service.registry.snapshots.list(tenant_id))


@router.get("/snapshots/{snapshot_id}", responses=documented(404))
async def get_snapshot(
    tenant_id: TenantPath, snapshot_id: str, _: Reader, service: CurrentService
) -> Snapshot:
    """Return one snapshot."""
    return await service.registry.snapshots.get(tenant_id, snapshot_id)


@router.delete("/snapshots/{snapshot_id}", status_code=204, responses=documented(404))
async def delete_snapshot(
    tenant_id: TenantPath, snapshot_id: str, _: Administrator, service: CurrentService
) -> None:
    """Forget a snapshot."""
    await service.registry.snapshots.get(tenant_id, snapshot_id)
    await service.registry.snapshots.delete(tenant_id, snapshot_id)


@router.post("/snapshots/{snapshot_id}/restore", status_code=202, responses=documented(404))
async def restore_snapshot(
    tenant_id: TenantPath,
    snapshot_id: str,
    _: Administrator,
    service: CurrentService,
    response: Response,
) -> Operation:
    """Make the tenant's database what it was in the snapshot; `undo-restore` takes it back. Its result is the tenant."""
    await service.registry.get(tenant_id)
    work = partial(_restored, service.registry, tenant_id, snapshot_id)
    return accepted(service.operations.start("restore", tenant_id, work), response)


@router.post("/undo-restore", status_code=202, responses=documented(404))
async def undo_restore(
    tenant_id: TenantPath,
    _: Administrator,
    service: CurrentService,
    response: Response,
) -> Operation:
    """Bring back what the last restore replaced. Its result is the tenant."""
    await service.registry.get(tenant_id)
    work = partial(_undone, service.registry, tenant_id)
    return accepted(service.operations.start("undo_restore", tenant_id, work), response)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={**documented(404, 409), 200: {"content": {BUNDLE_MEDIA_TYPE: {}}, "description": "A bundle."}},
)
async def export_tenant(tenant_id: TenantPath, _: Operator, service: CurrentService) -> StreamingResponse:
    """Return a bundle of the tenant's present state: an archive with a plain SQLite file in it."""
    async with AsyncExitStack() as stack:
        directory = await stack.enter_async_context(service.registry.scratch_directory())
        path = directory / "bundle.tar.gz"
        await service.registry.export(tenant_id, path)
        size = (await anyio.Path(path).stat()).st_size
        # Kept until it was sent, or the client has gone.
        body = _sent(path, stack.pop_all())
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{tenant_id}.tar.gz"',
    }
    return StreamingResponse(body, headers=headers, media_type=BUNDLE_MEDIA_TYPE)


@bundles.post(
    "/import",
    status_code=201,
    responses=documented(400, 409, 413, 415, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {BUNDLE_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def import_tenant(
    tenant_id: TenantPath,
    _: Operator,
    service: CurrentService,
    request: Request,
    response: Response,
    display_name: Annotated[DisplayName | None, Query()] = None,
) -> TenantOut:
    """Create a tenant of this id from a bundle; all of it is verified before that begins."""
    async with service.registry.scratch_directory() as directory:
        path = directory / "bundle.tar.gz"
        async with await anyio.open_file(path, "wb") as file:
            async for chunk in request.stream():
                await file.write(chunk)
        tenant = await service.registry.import_bundle(tenant_id, path, display_name=display_name)
    response.headers["Location"] = f"/v1/tenants/{tenant.id}"
    return TenantOut.of(tenant)


async def _restored(registry: TenantRegistry, tenant_id: str, snapshot_id: str) -> TenantOut:
    return TenantOut.of(await registry.snapshots.restore(tenant_id, snapshot_id))


async def _undone(registry: TenantRegistry, tenant_id: str) -> TenantOut:
    return TenantOut.of(await registry.snapshots.undo_restore(tenant_id))


async def _sent(path: Path, stack: AsyncExitStack) -> AsyncIterator[bytes]:
    async with stack, await anyio.open_file(path, "rb") as file:
        while chunk := await file.read(_CHUNK_BYTES):
            yield chunk
