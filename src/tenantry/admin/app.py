"""The admin API as an ASGI application."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.exceptions import HTTPException

from tenantry.admin.http.auth import Authenticate, Principal, authenticate_by_key
from tenantry.admin.http.bodies import BODY_LIMITS, BodyLimits
from tenantry.admin.http.headers import SafeHeaders
from tenantry.admin.http.operations import Operations
from tenantry.admin.http.problems import (
    ProblemError,
    answer_http,
    answer_invalid,
    answer_problem,
    answer_tenantry_error,
)
from tenantry.admin.http.request_checks import RequestChecks
from tenantry.admin.http.routing import Service
from tenantry.admin.http.strangers import STRANGER_RATE, StrangerRate, Strangers
from tenantry.admin.http.stream_authorization import AUTHORIZATION_SECONDS
from tenantry.admin.http.unexpected_errors import UnexpectedErrors
from tenantry.admin.openapi.route import make_document_route
from tenantry.admin.routes import (
    audit,
    bundles,
    jobs,
    keys,
    operations,
    schema_packs,
    snapshots,
    statistics,
    tenants,
    version,
)
from tenantry.admin.routes.console import make_console
from tenantry.admin.routes.index import make_index
from tenantry.admin.routes.probes import Probes, make_probes
from tenantry.admin.top_tenants import TopTenants
from tenantry.clock import SystemClock
from tenantry.errors import TenantryError
from tenantry.tenancy.catalog.audit import principal_of
from tenantry.tenancy.registry import TenantRegistry

_EVENTS: Final = ("/v1/operations/{operation_id}/events", "/v1/jobs/{job_id}/events")
_DESCRIPTION: Final = """
Every request below `/v1` needs a key: `Authorization: Bearer tnt_…`.

Refusals and failures are problem details (RFC 9457). Programs should compare their `type`, which is stable. If waiting helps,
a problem has `retry_after_seconds`, and the response the header `Retry-After`. Long work responds with 202 and an operation,
which can be read at `Location` or followed as a stream of events at `…/events`.
"""

_ROUTERS: Final = (
    tenants.router,
    snapshots.router,
    snapshots.fleet_router,
    bundles.router,
    bundles.database_router,
    jobs.router,
    statistics.router,
    operations.router,
    audit.router,
    keys.router,
    schema_packs.router,
    version.router,
)


def _operation_id(route: APIRoute) -> str:
    return route.name


# Of the process: FastAPI works out an included router at its first request, which takes longer than most requests.
_API: Final = APIRouter(generate_unique_id_function=_operation_id)
for _router in _ROUTERS:
    _API.include_router(_router)


class _AdminApp(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        document = super().openapi()
        for path in _EVENTS:
            # FastAPI describes events with a keyword that only OpenAPI 3.2 has.
            document["paths"][path]["get"]["responses"]["200"]["content"] = {"text/event-stream": {}}
        return document


def create_admin_app(
    registry: TenantRegistry,
    *,
    authenticate: Authenticate | None = None,
    collectors: CollectorRegistry = REGISTRY,
    has_probes: bool = True,
    has_exemplars: bool = True,
    bodies: BodyLimits = BODY_LIMITS,
    has_console: bool = True,
    allowed_hosts: Collection[str] | None = None,
    strangers: StrangerRate = STRANGER_RATE,
    authorization_seconds: float = AUTHORIZATION_SECONDS,
) -> FastAPI:
    """Return the admin API of a registry, to be served alone or mounted into an application of your own.

    The caller opens and closes the registry. Closing it waits for the API's operations, so the lifespan, which waits for them
    too, may be left out: Starlette does not run the lifespan of a mounted application. ``Location`` and the document follow the
    prefix of a mounted application. To stop, see `begin_drain` and `end_streams`.

    Args:
        registry: The tenants.
        authenticate: Identifies the caller; by API key if left out. Called again every `authorization_seconds` while a stream runs.
        collectors: The metrics that ``/metrics`` exposes.
        has_probes: Whether ``/healthz``, ``/readyz`` and ``/metrics`` are served; they need no key.
        has_exemplars: Whether OpenMetrics of ``/metrics`` have exemplars, which name tenants to callers without a key.
        bodies: The limits of request bodies.
        has_console: Whether ``/console`` is served, a web page that asks its user for a key.
        allowed_hosts: The names that requests may be addressed to, beside IP addresses and ``localhost``; ``*.example.com``
            for all names below one. Other names get 421. None for all names, if the surrounding application checks them.
        strangers: How often each client may send requests without a valid key.
        authorization_seconds: How often the key of a stream is checked: a stream outlives its key by at most this.
    """
    clock = SystemClock()
    service = Service(
        registry,
        authenticate or authenticate_by_key(registry.keys),
        Operations(clock),
        TopTenants(),
        bodies,
        authorization_seconds,
    )
    registry.add_hook(service.top_tenants)
    registry.add_hook(service.operations.observe)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.operations.aclose()

    app = _AdminApp(
        title="tenantry",
        summary="The tenants of a runtime: their life, their snapshots, their load.",
        description=_DESCRIPTION.strip(),
        version=metadata.version("tenantry"),
        lifespan=lifespan,
        openapi_url=None,  # `make_document_route` has it
        # A redirect to the same path with or without a slash would go where the Host header says.
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        exception_handlers={
            TenantryError: answer_tenantry_error,
            ProblemError: answer_problem,
            RequestValidationError: answer_invalid,
            HTTPException: answer_http,
        },
    )
    app.state.service = service
    app.router.routes.extend(_API.routes)
    app.include_router(make_document_route(app.openapi))
    app.include_router(make_index(has_probes=has_probes, has_console=has_console))
    if has_probes:
        probes = Probes(registry, is_draining=service.draining.is_set)
        app.include_router(make_probes(registry, collectors, probes, has_exemplars=has_exemplars))
    if has_console:
        app.include_router(make_console())
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(RequestChecks, allowed_hosts=allowed_hosts)
    app.add_middleware(Strangers, rate=strangers)
    app.add_middleware(SafeHeaders)  # the last one is the outermost
    return app


def begin_drain(app: FastAPI) -> None:
    """Make ``/readyz`` of an admin API report that the service is about to stop; other requests are handled as before.

    Call it before the server stops, so that balancers send requests elsewhere.
    """
    service: Service = app.state.service
    service.draining.set()


def is_draining(app: FastAPI) -> Callable[[], bool]:
    """Return a function that tells whether the drain of an admin API has begun, for probes on another port."""
    service: Service = app.state.service
    return service.draining.is_set


def end_streams(app: FastAPI) -> None:
    """End the streams of an admin API that follow fleet jobs, which could otherwise run for hours.

    Call it when the server stops and waits for its requests.
    """
    service: Service = app.state.service
    service.stopping.set()


async def as_process(_: object) -> Principal:
    """Allow everything, as the user that runs the process: for an application that no other process can reach."""
    return Principal(principal_of(None), None)
