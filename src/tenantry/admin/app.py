"""The admin API as an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

import anyio
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tenantry.admin import jobs, oversight, snapshots, tenants
from tenantry.admin.auth import Authenticate, KeyAuthenticator, Principal
from tenantry.admin.failures import Failures
from tenantry.admin.load import LoadBoard
from tenantry.admin.operations import Operations
from tenantry.admin.probes import make_probes
from tenantry.admin.problems import (
    ProblemError,
    answer_http,
    answer_invalid,
    answer_problem,
    answer_tenantry_error,
)
from tenantry.admin.routing import Service
from tenantry.clock import SystemClock
from tenantry.errors import TenantryError
from tenantry.tenancy.registry import TenantRegistry

BODY_BYTES_MAX: Final = 1024 * 1024
BODY_SECONDS_MAX: Final = 30.0
"""How long a client may pause while it sends a body."""


def create_admin_app(
    registry: TenantRegistry,
    *,
    authenticate: Authenticate | None = None,
    collectors: CollectorRegistry = REGISTRY,
    has_probes: bool = True,
) -> FastAPI:
    """Return the admin API of a registry, to be served alone or mounted into an application of your own.

    The registry is opened and closed by whoever made it.

    Args:
        registry: The tenants.
        authenticate: Finds out who calls; by API keys if left out.
        collectors: The metrics that ``/metrics`` gives.
        has_probes: Whether ``/healthz``, ``/readyz`` and ``/metrics`` are here too: they need no key.
    """
    clock = SystemClock()
    operations = Operations(clock)
    service = Service(
        registry, authenticate or KeyAuthenticator(registry.keys, clock), operations, LoadBoard()
    )
    registry.add_hook(service.board)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await operations.aclose()

    app = FastAPI(
        title="tenantry",
        summary="The tenants of a runtime: their life, their snapshots, their load.",
        version=version("tenantry"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # A redirect to the same path with or without a slash would go where the Host header says.
        redirect_slashes=False,
        max_body_size=BODY_BYTES_MAX,
    )
    app.state.service = service
    for router in (tenants.router, snapshots.router, jobs.router, oversight.router):
        app.include_router(router)
    if has_probes:
        app.include_router(make_probes(registry, collectors))
    app.add_exception_handler(TenantryError, answer_tenantry_error)
    app.add_exception_handler(ProblemError, answer_problem)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_middleware(SlowBodies)
    app.add_middleware(Failures)
    return app


async def as_process(_: object) -> Principal:
    """Let everyone do everything: for an application that no other process can reach."""
    return Principal("local", None)


class SlowBodies:
    """Ends requests whose body does not come.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_complete = False

        async def receive_in_time() -> Message:
            nonlocal is_complete
            if is_complete:  # what comes now is that the client has gone
                return await receive()
            try:
                with anyio.fail_after(BODY_SECONDS_MAX):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, "the body did not come in time") from error
            is_complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)
