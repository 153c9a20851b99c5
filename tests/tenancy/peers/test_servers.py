"""Real servers of several processes on one data directory: uvicorn, gunicorn and Celery, with the example that the documentation shows."""

import asyncio
import operator
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from commands import tenantry
from monitoring import promtool
from registries import config
from tenantry import TenantRegistry
from tenants import HANG_SECONDS, stored_contents
from worker_servers import (
    CLIENTS,
    OPEN_TENANTS_MAX,
    SERVERS,
    Load,
    WorkerServer,
    celery_worker,
    children,
    replaced,
    run_python,
    running,
    send_tasks,
    started,
    wait_until,
)

pytestmark = pytest.mark.unmeasured

SOAK = pytest.mark.soak
EACH_SERVER = pytest.mark.parametrize(
    "server", ["uvicorn", "preload", pytest.param("gunicorn", marks=SOAK)], indirect=True
)
PRELOAD = pytest.mark.parametrize(
    "server",
    ["preload", *(pytest.param(name, marks=SOAK) for name in ("uvicorn", "gunicorn"))],
    indirect=True,
)
"""One server in `make test`, because its processes take seconds to start; all of them in `make soak`."""

COMPANIES = [f"company-{number}" for number in range(8)]


@pytest.fixture(scope="module")
def companies_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with companies, for all servers."""
    data_dir = tmp_path_factory.mktemp("servers") / "data"

    async def make() -> None:
        async with TenantRegistry(config(data_dir)) as registry:
            for company in COMPANIES:
                await registry.create(company)

    asyncio.run(make())
    return data_dir


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, companies_dir: Path) -> Iterator[WorkerServer]:
    """A server with the example's application."""
    with running(companies_dir, request.param) as found:
        yield found


class TestWebServers:
    """The workers of a web server."""

    @EACH_SERVER
    @pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=SOAK)])
    async def test_any_worker_serves_any_company(self, server: WorkerServer, companies_dir: Path, count: int):
        """No request is refused because another worker has the company open, and each message is stored once."""
        load = Load(server.url, COMPANIES, f"load-{server.process.pid}-{count}")
        await load.send(count)
        assert load.dropped == []
        assert len(load.answered) == server.workers_max if count == 10_000 else len(load.answered) > 1
        load.check_stored(companies_dir)
        by_worker = sorted(load.answered.values())
        print(f"{count} requests, each stored once, answered by workers: {by_worker}")  # noqa: T201  # the figures of a soak

    @EACH_SERVER
    async def test_a_scrape_of_any_worker_shows_all(self, server: WorkerServer):
        """Each response has every worker's metrics: a call once, at its owner, and the requests of all workers."""

        def total(name: str, **labels: str) -> float:
            """Return the sum of the samples with this name and these labels, as the next worker tells them."""
            text = httpx.get(f"{server.url}/metrics", timeout=HANG_SECONDS).text
            assert promtool("check", "metrics", stdin=text) == ""
            return sum(
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )

        def totals() -> list[float]:
            """Return the sums of each number that the load below changes."""
            return [
                total("tenantry_query_duration_seconds_count", operation="messages.save", outcome="ok"),
                total("messages_received_total"),
                total("tenantry_forwarded_calls_total", direction="in", outcome="ok"),
                total("tenantry_forwarded_calls_total", direction="out", outcome="ok"),
            ]

        def is_all_counted() -> bool:
            saved, received, served, sent = map(operator.sub, totals(), before)
            return saved == received == 200 and 0 < served == sent

        assert await asyncio.to_thread(total, "tenantry_process_up") == server.workers_max
        capacity = await asyncio.to_thread(total, "tenantry_pool_capacity_tenants")
        assert capacity == server.workers_max * OPEN_TENANTS_MAX  # the workers read the settings
        before = await asyncio.to_thread(totals)
        load = Load(server.url, COMPANIES, f"scraped-{server.process.pid}")
        await load.send(200)
        # A worker reuses its response for a second.
        assert await asyncio.to_thread(wait_until, is_all_counted)

    @PRELOAD
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    async def test_a_worker_ends(self, server: WorkerServer, companies_dir: Path, number: signal.Signals):
        """Only requests in that worker are dropped; sent again with their keys, they are stored once."""
        load = Load(server.url, COMPANIES, f"{number.name}-{server.process.pid}")
        async with load.sending():
            [(ended, _)] = load.answered.most_common(1)
            os.kill(ended, number)
            await replaced(server, {ended})
        assert len(load.dropped) <= CLIENTS
        assert set(load.dropped) <= {ended, None}
        load.check_stored(companies_dir)

    @PRELOAD
    async def test_all_workers_are_replaced(self, server: WorkerServer, companies_dir: Path):
        """SIGHUP replaces the workers under load, and no request is refused."""
        load = Load(server.url, COMPANIES, f"replaced-{server.process.pid}")
        before = server.workers()
        async with load.sending():
            server.process.send_signal(signal.SIGHUP)
            await replaced(server, before)
        load.check_stored(companies_dir)

    @PRELOAD
    async def test_commands_on_the_live_directory(self, server: WorkerServer, companies_dir: Path):
        """Commands that need the tenants' files work beside the workers, which have these tenants open."""
        bundle = companies_dir.with_name(f"bundle-{server.process.pid}")
        load = Load(server.url, COMPANIES, f"live-{server.process.pid}")
        await load.send(len(COMPANIES))
        load.companies = COMPANIES[1:]
        async with load.sending():
            for line in (
                ["snapshot", "create", COMPANIES[1]],
                ["tenant", "export", COMPANIES[1], bundle],
                ["tenant", "archive", COMPANIES[0]],
                ["tenant", "unarchive", COMPANIES[0]],
            ):
                done = await asyncio.to_thread(tenantry, *line, "--data-dir", companies_dir)
                assert (done.returncode, done.stderr) == (0, "")
            report = await asyncio.to_thread(run_python, companies_dir, "report.py")
        assert len(report.splitlines()) == len(COMPANIES)
        load.check_stored(companies_dir)


@pytest.mark.parametrize("app", ["app", "app_with_lifespan"])
async def test_a_registry_that_is_opened_before_the_fork(companies_dir: Path, app: str):
    """Each worker says what to do, whether the application opens the registry again or not."""
    advice = "open a registry in each process after the fork (gunicorn: in the application's lifespan"
    if app == "app":
        with running(companies_dir, "preload", f"opened_early:{app}") as web:
            async with httpx.AsyncClient(base_url=web.url, timeout=HANG_SECONDS) as client:
                assert (await client.get("/")).status_code == 503
            assert advice in web.log()
        return
    with started(companies_dir, app, *SERVERS["preload"], f"opened_early:{app}") as (process, log_path):
        assert process.wait(HANG_SECONDS) != 0
        assert advice in log_path.read_text()


# Celery waits for ten seconds before it runs the task of a killed process again.
@pytest.mark.parametrize("is_killed", [False, pytest.param(True, marks=SOAK)])
async def test_celery_beside_a_web_server(companies_dir: Path, *, is_killed: bool):
    """Tasks and requests of the same companies, also while a process of Celery's pool is killed: each message is stored once."""
    with running(companies_dir, "gunicorn") as web, celery_worker(companies_dir) as (worker, log_path):
        load = Load(web.url, COMPANIES[:4], f"beside-{worker.pid}")
        pool = children(worker.pid)

        def kill_one() -> None:
            wait_until(lambda: "succeeded" in log_path.read_text())
            if is_killed:
                os.kill(min(pool), signal.SIGKILL)

        tasks, _, _ = await asyncio.gather(
            asyncio.to_thread(send_tasks, companies_dir, COMPANIES[:4], f"{load.name}-task", 80),
            asyncio.to_thread(kill_one),
            load.send(100),
        )
        assert {task["pid"] for task in tasks} <= pool | children(worker.pid)
        for task in tasks:
            load.sent[task["company"]].append(task["content"])
        report = run_python(companies_dir, "report.py")
    load.check_stored(companies_dir)
    for company in COMPANIES:
        assert f"{company} {len(stored_contents(companies_dir, company))}" in report.splitlines()
