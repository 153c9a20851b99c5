"""The endpoint for the versions and settings of the service."""

from importlib.metadata import version

from fastapi import APIRouter

from tenantry.admin.http.routing import AdminRoute, CurrentService, Reader
from tenantry.admin.openapi.responses import documented
from tenantry.admin.schemas import VersionOut, states_out

router = APIRouter(prefix="/v1", tags=["service"], route_class=AdminRoute)


@router.get("/version", responses=documented())
async def get_version(_: Reader, service: CurrentService) -> VersionOut:
    """Return the versions and settings of the service."""
    report = await service.registry.backend_report()
    settings = service.registry.config.model_dump(mode="json", exclude={"data_dir"})
    return VersionOut(
        tenantry=version("tenantry"),
        backend=report.backend,
        backend_version=report.version,
        settings=settings,
        states=states_out(),
    )
