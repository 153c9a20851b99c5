"""Probes and metrics: without a key, bounded in time, and true."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from monitoring import promtool
from service import Service, served
from stores import small_disk
from tenantry import RegistryConfig, TenantRegistry
from tenantry.admin.routes.probes import KEPT_SECONDS, Probes, make_probes
from tenants import HANG_SECONDS, HandClock, held_writer, make_message, until

OPENMETRICS = {
    "accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
}


@pytest.fixture
async def anyone(service: Service) -> httpx.AsyncClient:
    """A client without a key."""
    return await service.client()


async def test_healthz_is_constant(service: Service, anyone: httpx.AsyncClient):
    """It looks at nothing: whatever the registry does, the process answers."""
    for _ in range(2):
        response = await anyone.get("/healthz")
        assert (response.status_code, response.text) == (200, "ok\n")
        await service.registry.aclose()


async def test_ready(anyone: httpx.AsyncClient):
    """Every probe went well."""
    response = await anyone.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"is_ready": True, "service": "ok", "catalog": "ok", "pool": "ok", "disk": "ok"}


async def test_not_ready_once_it_is_closed(service: Service, anyone: httpx.AsyncClient):
    """A service that stops is sent no more requests."""
    await service.registry.aclose()
    response = await anyone.get("/readyz")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["catalog"] == "RegistryClosedError"


@pytest.mark.parametrize(("is_open", "status"), [(True, 200), (False, 503)])
async def test_asking_for_no_body(service: Service, *, is_open: bool, status: int):
    """Balancers ask with HEAD: the status alone says it."""
    if not is_open:
        await service.registry.aclose()
    async with served(service.app) as url, httpx.AsyncClient(base_url=url, timeout=HANG_SECONDS) as client:
        alive, ready = await client.head("/healthz"), await client.head("/readyz")
    assert (alive.status_code, alive.content) == (200, b"")
    assert (ready.status_code, ready.content) == (status, b"")
    assert ("retry-after" in ready.headers) is not is_open


async def looked(registry: TenantRegistry, probes: Probes) -> httpx.Response:
    """Return what ``/readyz`` answers with these probes."""
    app = FastAPI()
    app.include_router(make_probes(registry, CollectorRegistry(), probes))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        return await client.get("/readyz")


async def test_a_catalog_that_cannot_be_written(registry: TenantRegistry, data_dir: Path):
    """Somebody holds its lock: the probe does not wait longer than it may, however often it is asked."""
    probes = Probes(registry, timeout_seconds=0.05)
    with held_writer(data_dir / "catalog.db"):
        for _ in range(3):
            response = await looked(registry, probes)
            assert (response.status_code, response.json()["catalog"]) == (503, "no answer within 0.05 s")
    async with asyncio.timeout(30):
        while (await looked(registry, Probes(registry))).status_code != 200:
            pass


@pytest.mark.parametrize("size", ["1m", "100m"])
async def test_a_disk_that_is_nearly_full(tmp_path: Path, size: str):
    """Below the headroom the service is not ready, before writes are refused; with space again it is."""
    with small_disk(tmp_path / "disk", size) as disk:
        async with TenantRegistry(RegistryConfig(data_dir=disk / "data")) as registry:
            filler = disk / "filler"
            filler.write_bytes(bytes(50 * 2**20 if size == "100m" else 0))
            response = await looked(registry, Probes(registry))
            assert response.status_code == 503
            assert re.fullmatch(r"\d+ bytes free", response.json()["disk"])
            filler.unlink()
            again = await looked(registry, Probes(registry))
            assert again.json()["is_ready"] is (size == "100m")


async def test_a_disk_that_cannot_be_written(tmp_path: Path):
    """A file system without a file to spare is found out, whatever space it has."""
    with small_disk(tmp_path / "disk", "100m,nr_inodes=40") as disk:
        async with TenantRegistry(RegistryConfig(data_dir=disk / "data")) as registry:
            with contextlib.suppress(OSError):
                for number in range(100):
                    (disk / str(number)).touch()
            response = await looked(registry, Probes(registry))
            assert (response.status_code, response.json()["disk"]) == (503, "ENOSPC")


async def test_a_pool_without_room_for_callers(data_dir: Path):
    """While as many callers wait for a place as may wait, the service is not ready."""
    config = RegistryConfig(data_dir=data_dir, open_tenants_max=1, pool_waiters_max=2)
    async with TenantRegistry(config) as registry:
        await registry.create("holder")
        await registry.create("waiter")
        waiting = []
        async with registry.tenant("holder").transaction():
            for waiters, status, pool in ((1, 200, "ok"), (2, 503, "2 callers wait for a place")):
                waiting.append(asyncio.create_task(registry.tenant("waiter").messages.save(make_message())))
                await until(lambda expected=waiters: registry.statistics().pool.waiters == expected)
                response = await looked(registry, Probes(registry))
                assert (response.status_code, response.json()["pool"]) == (status, pool)
        await asyncio.gather(*waiting)
        assert (await Probes(registry).look()).is_ready


class CountingRegistry(TenantRegistry):
    """A registry that counts how often somebody looks at it."""

    looks = 0

    async def check_catalog(self) -> None:
        """Look."""
        self.looks += 1
        await super().check_catalog()


async def test_anyone_may_ask_often(data_dir: Path):
    """Whoever asks at the same time, or soon after, shares one look; then there is another."""
    clock = HandClock()
    async with CountingRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        probes = Probes(registry, clock=clock)
        found = await asyncio.gather(*(probes.look() for _ in range(20)))
        assert all(one.is_ready for one in found)
        clock.seconds = KEPT_SECONDS - 0.1
        assert (await looked(registry, probes)).status_code == 200
        assert registry.looks == 1
        clock.seconds = KEPT_SECONDS
        await probes.look()
        assert registry.looks == 2


async def test_who_goes_away_takes_no_look_along(data_dir: Path):
    """Others who wait for the same look get what it finds."""
    async with CountingRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        probes = Probes(registry)
        first, second = asyncio.create_task(probes.look()), asyncio.create_task(probes.look())
        await until(lambda: registry.looks == 1)
        first.cancel()
        assert (await second).is_ready
        assert (first.cancelled(), registry.looks) == (True, 1)


class CountingCollector(Collector):
    """Metrics that count how often they are collected."""

    collections = 0

    def collect(self) -> list[Metric]:
        """Collect."""
        self.collections += 1
        return []


async def test_metrics_are_made_once_for_all_who_ask(registry: TenantRegistry):
    """However many ask at the same time, or soon after, there is one exposition for each format; then there is another."""
    collectors, collector, clock = CollectorRegistry(), CountingCollector(), HandClock()
    collectors.register(collector)
    app = FastAPI()
    app.include_router(make_probes(registry, collectors, clock=clock))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        before = collector.collections
        for _ in range(2):
            answers = await asyncio.gather(
                *(client.get("/metrics") for _ in range(10)),
                *(client.get("/metrics", headers=OPENMETRICS) for _ in range(10)),
            )
            assert collector.collections == before + 2
            assert len({answer.content for answer in answers}) == 2
            clock.seconds = KEPT_SECONDS - 0.1
        clock.seconds = KEPT_SECONDS
        await client.get("/metrics")
        assert collector.collections == before + 3


class TurningCollector(Collector):
    """Two families of metrics, and whether others had their turn between them."""

    def __init__(self) -> None:
        self.had_turn = False
        self.found: list[bool] = []

    def collect(self) -> Iterator[Metric]:
        """Collect the first, ask for a turn, and collect the second."""
        yield Metric("first", "The first.", "gauge")
        asyncio.get_running_loop().call_soon(setattr, self, "had_turn", True)  # an attribute's value
        yield Metric("second", "The second.", "gauge")
        self.found.append(self.had_turn)


@pytest.mark.parametrize("headers", [{}, OPENMETRICS])
async def test_calls_go_on_while_metrics_are_made(registry: TenantRegistry, headers: dict[str, str]):
    """An exposition is made in pieces: between two families the event loop does other work, and the pieces are one text."""
    collectors, collector = CollectorRegistry(), TurningCollector()
    app = FastAPI()
    app.include_router(make_probes(registry, collectors))
    collectors.register(collector)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        text = (await client.get("/metrics", headers=headers)).text
    assert collector.found == [True]
    assert (
        text.index("# TYPE first gauge") < text.index("# TYPE second gauge") < text.index("tenantry_ready{")
    )
    assert text.count("# EOF") == (1 if headers else 0)


@asynccontextmanager
async def measuring(registry: TenantRegistry, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of an API whose registry is measured, after some calls."""
    collectors = CollectorRegistry()
    async with Service(registry, collectors=collectors, **options) as service:
        admin = await service.caller("admin")
        await admin.post("/v1/tenants", json={"id": "acme"})
        await registry.tenant("acme").messages.save(make_message())
        yield await service.client()


@pytest.fixture
async def measured(registry: TenantRegistry) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that is measured."""
    async with measuring(registry) as client:
        yield client


async def test_metrics_as_text(measured: httpx.AsyncClient):
    """Prometheus' own tool finds nothing to complain of."""
    response = await measured.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "tenantry_query_duration_seconds_bucket" in response.text
    assert "tenant_id" not in response.text
    assert promtool("check", "metrics", stdin=response.text) == ""


async def test_metrics_as_openmetrics(measured: httpx.AsyncClient):
    """If asked for: it can be parsed, ends with its end, and its exemplars name the tenant."""
    response = await measured.get("/metrics", headers=OPENMETRICS)
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=")
    assert response.text.endswith("# EOF\n")
    samples = [
        sample for family in text_string_to_metric_families(response.text) for sample in family.samples
    ]
    exemplars = [sample.exemplar.labels for sample in samples if sample.exemplar is not None]
    assert {"tenant_id": "acme"} in exemplars
    assert not any("tenant_id" in sample.labels for sample in samples)


async def test_metrics_for_strangers(registry: TenantRegistry):
    """Where everybody may ask, nothing names a tenant, and all else is there."""
    async with measuring(registry, has_exemplars=False) as client:
        response = await client.get("/metrics", headers=OPENMETRICS)
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=")
    assert "tenantry_query_duration_seconds_bucket" in response.text
    assert "acme" not in response.text
    families = list(text_string_to_metric_families(response.text))
    assert not any(sample.exemplar for family in families for sample in family.samples)


async def test_probes_on_a_port_of_their_own(service: Service):
    """An API without them has none of them."""
    bare = Service(service.registry, has_probes=False)
    client = await service.client(app=bare.app)
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await client.get(path)).status_code == 404
