"""The endpoint for the versions and settings of the service."""

from importlib.metadata import version

from fastapi import APIRouter

from tenantry.admin.http.routing import AdminRoute, CurrentService, Reader
from tenantry.admin.openapi.responses import documented
from tenantry.admin.schemas import BackendOut, EngineOut, VersionOut, states_out

router = APIRouter(prefix="/v1", tags=["service"], route_class=AdminRoute)


@router.get("/version", responses=documented())
async def get_version(_: Reader, service: CurrentService) -> VersionOut:
    """Return the versions and settings of the service."""
    registry = service.registry
    backends = [BackendOut.of(asked) for asked in await registry.backend_reports()]
    return VersionOut(
        tenantry=version("tenantry"),
        backend=backends[0].dialect,
        backend_version=backends[0].version,
        backends=backends,
        catalog_backend=registry.config.catalog_backend,
        engine=EngineOut.of(registry.statistics().engine),
        settings=registry.config.model_dump(mode="json", exclude={"data_dir", "database", "databases"}),
        states=states_out(),
    )
