"""Where to go from the API's root: for people who look what answers there. Without a key."""

from fastapi import APIRouter, Request
from pydantic import BaseModel


class Index(BaseModel):
    """What is where."""

    name: str
    links: dict[str, str]


def make_index(*, has_probes: bool, has_console: bool) -> APIRouter:
    """Return the operation. It is not in the document: whoever reads that is past it.

    Args:
        has_probes: Whether there are probes and metrics.
        has_console: Whether there is a console.
    """
    router = APIRouter(include_in_schema=False)
    links = {"document": "/openapi.json", "tenants": "/v1/tenants", "jobs": "/v1/jobs", "audit": "/v1/audit"}
    if has_console:
        links = {"console": "/console/", **links}
    if has_probes:
        links |= {"health": "/healthz", "readiness": "/readyz", "metrics": "/metrics"}

    @router.get("/")
    async def get_index(request: Request) -> Index:
        # Where the API is mounted.
        root = request.scope.get("root_path", "")
        return Index(name="tenantry", links={name: f"{root}{path}" for name, path in links.items()})

    return router
