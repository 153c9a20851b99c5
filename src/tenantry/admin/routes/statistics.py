"""Endpoints for the size and load of tenants, and for the tenants with the most calls."""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Query

from tenantry.admin.http.routing import AdminRoute, CurrentService, Reader, Service
from tenantry.admin.openapi.responses import documented
from tenantry.admin.routes.tenants import TenantPath
from tenantry.admin.schemas import (
    ChannelLoad,
    StatisticsList,
    TenantIdText,
    TenantStatisticsOut,
    TopTenantsOut,
)
from tenantry.errors import TenantNotFoundError

router = APIRouter(prefix="/v1", tags=["statistics"], route_class=AdminRoute)

STATISTICS_TENANTS_MAX: Final = 100


@router.get("/tenants/{tenant_id}/statistics", responses=documented(404))
async def get_statistics(tenant_id: TenantPath, _: Reader, service: CurrentService) -> TenantStatisticsOut:
    """Return a tenant's size, and its counters since it was opened, in any process."""
    return await _statistics(service, tenant_id)


@router.get("/statistics", responses=documented())
async def list_statistics(
    principal: Reader,
    service: CurrentService,
    tenant_id: Annotated[list[TenantIdText], Query(min_length=1, max_length=STATISTICS_TENANTS_MAX)],
) -> StatisticsList:
    """Return the statistics of several tenants; tenants that do not exist are left out."""
    for one in tenant_id:
        principal.check_tenant(one)
    # All at the same time, because the owner of each tenant may be a process that does not answer.
    found = await asyncio.gather(*(_find_statistics(service, one) for one in tenant_id))
    return StatisticsList(items=[one for one in found if one is not None])


@router.get("/statistics/top", responses=documented())
async def get_top_tenants(
    principal: Reader, service: CurrentService, limit: Annotated[int, Query(ge=1, le=100)] = 10
) -> TopTenantsOut:
    """Return the tenants with the most calls in this process."""
    principal.check_fleet()
    return TopTenantsOut(items=service.top_tenants.top(limit))


async def _find_statistics(service: Service, tenant_id: str) -> TenantStatisticsOut | None:
    try:
        return await _statistics(service, tenant_id)
    except TenantNotFoundError:
        return None


async def _statistics(service: Service, tenant_id: str) -> TenantStatisticsOut:
    statistics = await service.registry.tenant_statistics(tenant_id)
    actor = statistics.actor
    return TenantStatisticsOut(
        tenant_id=tenant_id,
        is_open=actor is not None,
        database_bytes=statistics.database_bytes,
        write=actor and ChannelLoad.model_validate(actor.write, from_attributes=True),
        read=actor and ChannelLoad.model_validate(actor.read, from_attributes=True),
    )
