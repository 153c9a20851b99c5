"""Endpoints that list and forget the schema packs of the tenants."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from tenantry.admin.http.routing import Administrator, AdminRoute, CurrentService, Reader
from tenantry.admin.openapi.responses import documented
from tenantry.tenancy.catalog.recorded_schemas import RecordedSchema
from tenantry.texts import SchemaName

router = APIRouter(prefix="/v1/schemas", tags=["schemas"], route_class=AdminRoute)


class SchemaList(BaseModel):
    """The schema packs of the tenants, ordered by name."""

    items: Sequence[RecordedSchema]


@router.get("", responses=documented())
async def list_schemas(principal: Reader, service: CurrentService) -> SchemaList:
    """Return the schema packs of the tenants, and mark packs that the service was started without."""
    principal.check_fleet()
    return SchemaList(items=await service.registry.recorded_schemas.list())


@router.delete("/{name}", responses=documented(404, 409))
async def forget_schema(
    name: Annotated[SchemaName, Path(examples=["invoices"])],
    principal: Administrator,
    service: CurrentService,
) -> RecordedSchema:
    """Forget a schema pack, so that a service without the pack can create and migrate tenants again. The pack's tables stay."""
    principal.check_fleet()
    return await service.registry.recorded_schemas.forget(name, by=principal.name)
