"""What the tests of tenantry in an application share.

Import it by name (``tests/support`` is on pytest's path): ``from hosts import make_app``.
"""

from typing import Any

import httpx
from fastapi.responses import JSONResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from tenantry.integrations.fastapi import (
    Source,
    TenantDependency,
    install_error_handlers,
)

ACME = {"X-Tenant": "acme"}


PROBLEM = "urn:tenantry:problem:"


def starlette_app(registry: Any, source: Source, **options: Any) -> Starlette:
    """Return a plain Starlette application that says which tenant it is asked about."""
    tenant = TenantDependency(registry, source=source)

    async def whoami(request: Request) -> JSONResponse:
        return JSONResponse((await tenant.resolve(request)).id)

    app = Starlette(routes=[Route("/whoami", whoami)], **options)
    install_error_handlers(app)
    return app


def check_refused(answer: httpx.Response, status: int, slug: str, *, has_detail: bool = False) -> None:
    """Check that an answer is this problem, and says no more than it should."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert problem["type"] == PROBLEM + slug
    assert problem["status"] == status
    known = {"type", "title", "status", "retry_after_seconds"} | ({"detail"} if has_detail else set())
    assert set(problem) <= known
    assert ("retry-after" in answer.headers) == ("retry_after_seconds" in problem)
