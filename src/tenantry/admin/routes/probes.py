"""Endpoints for liveness, readiness and metrics, which need no key."""

import errno
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from pydantic import BaseModel

from tenantry.admin.http.single_flight import SingleFlight
from tenantry.clock import Clock
from tenantry.errors import TenantryError
from tenantry.files.disk_space import DISK_BYTES_MIN
from tenantry.observability import Exposition, accepts_openmetrics, expose_all_processes
from tenantry.tenancy.registry import TenantRegistry
from tenantry.threads import run_in_thread

PROBE_TIMEOUT_SECONDS: Final = 2.0
KEPT_SECONDS: Final = 1.0
"""The time for which a result is reused, because a client without a key may send any number of requests."""

NOT_READY_RETRY_AFTER_SECONDS: Final = 5

_WRITTEN_BYTES: Final = 4096


class Readiness(BaseModel):
    """The readiness of the service; for each part ``ok`` or the cause of a failure."""

    is_ready: bool
    service: str
    catalog: str
    pool: str
    disk: str


class Probes:
    """Checks whether a registry is ready; concurrent callers share the checks.

    Args:
        clock: The clock that measures how long a result is reused.
        timeout_seconds: The timeout of each check.
        is_draining: Returns whether the service is about to stop.
    """

    def __init__(
        self,
        registry: TenantRegistry,
        *,
        clock: Clock | None = None,
        timeout_seconds: float = PROBE_TIMEOUT_SECONDS,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._registry = registry
        self._timeout_seconds = timeout_seconds
        self._is_draining = is_draining
        self._look = SingleFlight(self._look_at_all, kept_seconds=KEPT_SECONDS, clock=clock)
        # The disk check has its own single flight, so that only one thread ever waits for an unresponsive disk.
        self._disk = SingleFlight(lambda: run_in_thread(partial(_disk, registry.config.data_dir)))

    async def look(self) -> Readiness:
        """Return the readiness."""
        found = await self._look()
        if self._is_draining():  # a reused result may be older than the drain
            return found.model_copy(update={"is_ready": False, "service": "stops"})
        return found

    async def _look_at_all(self) -> Readiness:
        catalog = await self._bounded(self._registry.check_catalog)
        waiters = self._registry.statistics().pool.waiters
        is_full = waiters >= self._registry.config.pool_waiters_max
        pool = f"{waiters} callers wait for a place" if is_full else "ok"
        disk = await self._bounded(self._disk)
        is_ready = catalog == pool == disk == "ok"
        return Readiness(is_ready=is_ready, service="ok", catalog=catalog, pool=pool, disk=disk)

    async def _bounded(self, look: Callable[[], Awaitable[str | None]]) -> str:
        try:
            with anyio.fail_after(self._timeout_seconds):
                return await look() or "ok"
        except TimeoutError:
            return f"no answer within {self._timeout_seconds:g} s"
        except TenantryError as error:
            return type(error).__name__


def make_probes(
    registry: TenantRegistry,
    collectors: CollectorRegistry = REGISTRY,
    probes: Probes | None = None,
    *,
    has_exemplars: bool = True,
    clock: Clock | None = None,
) -> APIRouter:
    """Return the router.

    Args:
        registry: The registry to check.
        collectors: The metrics of this process that ``/metrics`` exposes beside tenantry's own.
        probes: The readiness checks; by default `Probes` with default settings.
        has_exemplars: Whether to expose OpenMetrics exemplars, which reveal tenants and therefore must not be public.
        clock: The clock that measures how long an exposition is reused.
    """
    router = APIRouter(tags=["probes"])
    probes = probes or Probes(registry)

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Respond with `ok`, without any check; a response means that the process is alive."""
        return "ok\n"

    @router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
    async def readyz(response: Response) -> Readiness:
        """Return the readiness. The status is 503 if the service stops, or the catalog, the pool or the disk fails its check."""
        found = await probes.look()
        if not found.is_ready:
            response.status_code = 503
            response.headers["Retry-After"] = str(NOT_READY_RETRY_AFTER_SECONDS)
        return found

    # Load balancers send HEAD requests. The OpenAPI document omits HEAD, because an operation's name must be unique.
    for path, answer in (("/healthz", healthz), ("/readyz", readyz)):
        router.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)

    # Other processes are asked for their metrics at each scrape, so this one counts from the start.
    registry.measure()

    def exposed(*, is_openmetrics: bool) -> SingleFlight[Exposition]:
        async def expose() -> Exposition:
            return await expose_all_processes(
                registry,
                collectors=collectors,
                more=(_ready(await probes.look()),),
                is_openmetrics=is_openmetrics,
                has_exemplars=has_exemplars,
            )

        return SingleFlight(expose, kept_seconds=KEPT_SECONDS, clock=clock)

    as_text, as_openmetrics = exposed(is_openmetrics=False), exposed(is_openmetrics=True)
    openmetrics_text = {"content": {"application/openmetrics-text": {"schema": {"type": "string"}}}}

    @router.get("/metrics", response_class=PlainTextResponse, responses={200: openmetrics_text})
    async def metrics(request: Request) -> Response:
        """Return the metrics of all processes that have the data directory open, and the readiness of this process.

        The format is Prometheus text, or OpenMetrics if the client accepts OpenMetrics.
        """
        is_openmetrics = accepts_openmetrics(request.headers.get("accept", ""))
        body, media_type = await (as_openmetrics if is_openmetrics else as_text)()
        return Response(body, media_type=media_type)

    return router


def _ready(readiness: Readiness) -> Metric:
    """Return the readiness as a gauge, because Prometheus cannot read ``/readyz``."""
    ready = GaugeMetricFamily("tenantry_ready", "Whether a probe of /readyz went well.", labels=("probe",))
    for probe, answer in readiness.model_dump(exclude={"is_ready"}).items():
        ready.add_metric((probe,), answer == "ok")
    return ready


def _disk(data_dir: Path) -> str | None:
    try:
        free_bytes = shutil.disk_usage(data_dir).free
        if free_bytes < DISK_BYTES_MIN:
            return f"{free_bytes} bytes free"
        # Write a file, because a read-only file system still reports free space, and the catalog check writes nothing.
        with tempfile.TemporaryFile(dir=data_dir) as file:
            file.write(bytes(_WRITTEN_BYTES))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "OSError")
    return None
