"""The endpoint of a FastAPI or Starlette application that Prometheus scrapes, for an application of any number of workers.

    app = FastAPI(lifespan=registry_lifespan("data"))
    app.add_route("/metrics", MetricsEndpoint())

This module needs the extra ``service``.
"""

from functools import partial

from prometheus_client import REGISTRY, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tenantry.admin.http.single_flight import SingleFlight
from tenantry.admin.routes.probes import KEPT_SECONDS
from tenantry.integrations.fastapi import RegistryOf, opened_registry
from tenantry.observability import Exposition, accepts_openmetrics, expose_all_processes
from tenantry.tenancy.registry import TenantRegistry


class MetricsEndpoint:
    """An ASGI application that responds with the metrics of all processes that have the data directory open, whichever worker is asked.

    Make the path reachable only for Prometheus. An exposition is reused for `KEPT_SECONDS`.

    Args:
        registry: The registry, or a function that returns the registry for a request.
        collectors: The application's own metrics, which have no label ``process``. With several workers, pass a registry with
            prometheus_client's ``MultiProcessCollector``; otherwise these metrics are those of the worker that gets the request.
        has_exemplars: Whether to include OpenMetrics exemplars, which reveal tenants and therefore must not be public.
    """

    def __init__(
        self,
        registry: TenantRegistry | RegistryOf = opened_registry,
        *,
        collectors: CollectorRegistry | None = REGISTRY,
        has_exemplars: bool = False,
    ) -> None:
        self._registry = registry
        self._collectors = collectors
        self._has_exemplars = has_exemplars
        self._exposed: TenantRegistry | None = None
        self._formats: dict[bool, SingleFlight[Exposition]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a scrape."""
        request = Request(scope, receive)
        registry = self._registry if isinstance(self._registry, TenantRegistry) else self._registry(request)
        if registry is not self._exposed:  # each start of an application may create a new registry
            self._exposed = registry
            self._formats = {
                is_openmetrics: self._format(registry, is_openmetrics=is_openmetrics)
                for is_openmetrics in (False, True)
            }
        body, media_type = await self._formats[accepts_openmetrics(request.headers.get("accept", ""))]()
        await Response(body, media_type=media_type)(scope, receive, send)

    def _format(self, registry: TenantRegistry, *, is_openmetrics: bool) -> SingleFlight[Exposition]:
        expose = partial(
            expose_all_processes,
            registry,
            collectors=self._collectors,
            is_openmetrics=is_openmetrics,
            has_exemplars=self._has_exemplars,
        )
        return SingleFlight(expose, kept_seconds=KEPT_SECONDS)
