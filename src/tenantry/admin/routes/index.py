"""The index at the API's root: a list of links for people, which needs no key."""

from typing import Any

from fastapi import APIRouter, Request


def make_index(*, has_probes: bool, has_console: bool) -> APIRouter:
    """Return the router for `/`, the list of links. The OpenAPI document omits this route, as its readers need no index."""
    router = APIRouter(include_in_schema=False)
    links = {"document": "/openapi.json", "tenants": "/v1/tenants", "jobs": "/v1/jobs", "audit": "/v1/audit"}
    if has_console:
        links = {"console": "/console/", **links}
    if has_probes:
        links |= {"health": "/healthz", "readiness": "/readyz", "metrics": "/metrics"}

    @router.get("/")
    async def get_index(request: Request) -> dict[str, Any]:
        root = request.scope.get("root_path", "")
        return {"name": "tenantry", "links": {name: f"{root}{path}" for name, path in links.items()}}

    return router
