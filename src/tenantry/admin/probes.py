"""For machines that look after the service: is it alive, is it ready, and what does it measure. Without a key."""

import shutil
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client import exposition as text
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from pydantic import BaseModel

from tenantry.errors import TenantryError
from tenantry.tenancy.registry import TenantRegistry

PROBE_TIMEOUT_SECONDS: Final = 2.0
DISK_BYTES_MIN: Final = 64 * 2**20
"""Below this the service is not ready: soon every write would be refused."""


class Readiness(BaseModel):
    """Whether the service can do its work, probe by probe: ``ok``, or what is wrong."""

    is_ready: bool
    catalog: str
    pool: str
    disk: str


def make_probes(registry: TenantRegistry, collectors: CollectorRegistry = REGISTRY) -> APIRouter:
    """Return the operations; they look at this registry and at these metrics."""
    router = APIRouter(tags=["probes"])

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Say that the process answers; nothing is looked at."""
        return "ok\n"

    @router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
    async def readyz() -> Readiness:
        """Say whether the catalog can be written, the pool moves, and the disk has space; 503 if not."""
        found = await _look(registry)
        if found.is_ready:
            return found
        return JSONResponse(found.model_dump(), 503)  # type: ignore[return-value]  # as documented above

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Return the metrics, and what ``/readyz`` says: as OpenMetrics, with exemplars, if that is asked for."""
        exposed = _Exposed(collectors, await _look(registry))
        if "application/openmetrics-text" in request.headers.get("accept", ""):
            found = openmetrics.generate_latest(exposed)  # type: ignore[no-untyped-call]
            return Response(found, media_type=openmetrics.CONTENT_TYPE_LATEST)
        return Response(text.generate_latest(exposed), media_type=text.CONTENT_TYPE_LATEST)

    return router


class _Exposed(Collector):
    """The metrics and, beside them, whether the service is ready: Prometheus cannot read ``/readyz``."""

    def __init__(self, collectors: CollectorRegistry, readiness: Readiness) -> None:
        self._collectors = collectors
        self._readiness = readiness

    def collect(self) -> Iterable[Metric]:
        """Return every family."""
        yield from self._collectors.collect()
        ready = GaugeMetricFamily(
            "tenantry_ready", "Whether a probe of /readyz went well.", labels=("probe",)
        )
        for probe, answer in self._readiness.model_dump(exclude={"is_ready"}).items():
            ready.add_metric((probe,), answer == "ok")
        yield ready


async def _look(registry: TenantRegistry) -> Readiness:
    found = Readiness(
        is_ready=False,
        catalog=await _probe(registry.check_catalog),
        pool=_pool(registry),
        disk=await _probe(lambda: _disk(registry)),
    )
    is_ready = found.catalog == found.pool == found.disk == "ok"
    return found.model_copy(update={"is_ready": is_ready})


async def _probe(look: Callable[[], Awaitable[str | None]]) -> str:
    try:
        with anyio.fail_after(PROBE_TIMEOUT_SECONDS):
            return await look() or "ok"
    except TimeoutError:
        return f"no answer within {PROBE_TIMEOUT_SECONDS:g} s"
    except (TenantryError, OSError) as error:
        return type(error).__name__


def _pool(registry: TenantRegistry) -> str:
    pool = registry.statistics().pool
    is_stuck = pool.waiters >= registry.config.pool_waiters_max
    return f"{pool.waiters} callers wait for a place" if is_stuck else "ok"


async def _disk(registry: TenantRegistry) -> str | None:
    usage = await anyio.to_thread.run_sync(shutil.disk_usage, registry.config.data_dir)
    return None if usage.free >= DISK_BYTES_MIN else f"{usage.free} bytes free"
