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

An error response has problem details (RFC 9457). Programs should compare the stable field `type`. If waiting helps, the problem
has `retry_after_seconds`, and the response has the header `Retry-After`. A request for long work responds with 202 and an operation.
The operation can be read at `Location`, or followed as a stream of events at `…/events`.
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


# All apps of a process share one router, because FastAPI takes longer to prepare a router than to handle most requests.
_API: Final = APIRouter(generate_unique_id_function=_operation_id)
for _router in _ROUTERS:
    _API.include_router(_router)


class _AdminApp(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        for path in _EVENTS:
            # FastAPI describes server-sent events with a keyword that OpenAPI 3.1 lacks.
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
    """Return the admin API of a registry, to be served alone or mounted in another ASGI application.

    The caller opens and closes the registry. Starlette does not run the lifespan of a mounted application, and the API does not
    need its lifespan, because closing the registry also waits for the API's operations. ``Location`` headers and the OpenAPI
    document include the prefix of a mounted application. To stop the API, see `begin_drain` and `end_streams`.

    Args:
        registry: The registry of the tenants.
        authenticate: Identifies the caller, by default by API key. A stream calls `authenticate` every `authorization_seconds`.
        collectors: The metrics of this process that ``/metrics`` exposes beside tenantry's own.
        has_probes: Whether to serve ``/healthz``, ``/readyz`` and ``/metrics``, which need no key.
        has_exemplars: Whether ``/metrics`` includes OpenMetrics exemplars, which reveal tenants to callers without a key.
        bodies: The limits of request bodies.
        has_console: Whether to serve the web page ``/console``, which asks its user for a key.
        allowed_hosts: The allowed host names of requests beside IP addresses and ``localhost``; ``*.example.com`` for all
            subdomains. Other names get 421. None allows all names; pass None if an outer application checks the names.
        strangers: The rate limit of each client's requests without a valid key.
        authorization_seconds: The interval between two checks of a stream's key. A stream outlives its key by at most this time.
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
        summary="Manages the tenants of a runtime, their lifecycle, snapshots and load.",
        description=_DESCRIPTION.strip(),
        version=metadata.version("tenantry"),
        lifespan=lifespan,
        openapi_url=None,  # `make_document_route` serves the document.
        # A redirect that adds or removes a trailing slash would go to the host in the Host header.
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
    app.add_middleware(SafeHeaders)  # the middleware that is added last is the outermost
    return app


def begin_drain(app: FastAPI) -> None:
    """Make ``/readyz`` report that the service is about to stop, so that load balancers send requests elsewhere.

    Other requests are still handled. Call this function before the server stops.
    """
    service: Service = app.state.service
    service.draining.set()


def is_draining(app: FastAPI) -> Callable[[], bool]:
    """Return a function that returns whether an admin API's drain has begun, for the probes on another port."""
    service: Service = app.state.service
    return service.draining.is_set


def end_streams(app: FastAPI) -> None:
    """End an admin API's event streams of fleet jobs, which could otherwise run for hours.

    Call this function when the server stops and waits for its requests.
    """
    service: Service = app.state.service
    service.stopping.set()


async def as_process(_: object) -> Principal:
    """Authenticate every caller as the user of the process, for an application that no other process can reach."""
    return Principal(principal_of(None), None)
