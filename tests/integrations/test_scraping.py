"""The endpoint of an application that Prometheus scrapes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from monitoring import promtool
from registries import config
from serving import serve
from tenantry import TenantRegistry
from tenantry.integrations import MetricsEndpoint, registry_lifespan
from tenants import say

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@asynccontextmanager
async def scraped(registry: TenantRegistry, endpoint: MetricsEndpoint) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application with this endpoint, whose registry has made a call."""
    registry.measure()
    app = FastAPI(lifespan=registry_lifespan(registry))
    app.add_route("/metrics", endpoint)
    async with serve(app) as client:
        await registry.create("acme")
        await say(registry, "acme", "hello")
        yield client


@pytest.fixture
def collectors() -> CollectorRegistry:
    """An application's own metrics."""
    collectors = CollectorRegistry()
    Counter("orders", "Orders.", registry=collectors).inc()
    return collectors


@pytest.fixture
def closed(data_dir: Path) -> TenantRegistry:
    """A registry that the application opens."""
    return TenantRegistry(config(data_dir))


async def test_text(closed: TenantRegistry, collectors: CollectorRegistry):
    """The classic text has both, and Prometheus' own tool finds nothing to complain of."""
    async with scraped(closed, MetricsEndpoint(collectors=collectors)) as client:
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    saved = 'tenantry_query_duration_seconds_count{backend="sqlite",operation="messages.save",outcome="ok",process="0"} 1.0'
    assert {saved, "orders_total 1.0"} <= set(response.text.splitlines())
    assert promtool("check", "metrics", stdin=response.text) == ""


@pytest.mark.parametrize("has_exemplars", [False, True])
async def test_openmetrics(closed: TenantRegistry, collectors: CollectorRegistry, *, has_exemplars: bool):
    """OpenMetrics is one text with one end, and names tenants only if it may."""
    endpoint = MetricsEndpoint(closed, collectors=collectors, has_exemplars=has_exemplars)
    async with scraped(closed, endpoint) as client, TenantRegistry(closed.config) as beside:
        await say(beside, "acme", "hello")
        response = await client.get("/metrics", headers=OPENMETRICS)
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=")
    assert response.text.count("# EOF") == 1
    families = list(text_string_to_metric_families(response.text))
    assert len({family.name for family in families}) == len(families)
    labels = [sample.exemplar.labels for family in families for sample in family.samples if sample.exemplar]
    assert ({"tenant_id": "acme"} in labels) == has_exemplars
    assert has_exemplars or labels == []


async def test_each_start_of_the_application(data_dir: Path):
    """An application that starts again has another registry, and the endpoint shows that one."""
    app = FastAPI(lifespan=registry_lifespan(config(data_dir)))
    app.add_route("/metrics", MetricsEndpoint(collectors=None))
    for _ in range(2):
        async with serve(app) as client:
            text = (await client.get("/metrics")).text
        assert 'tenantry_process_up{process="0"} 1.0' in text.splitlines()
