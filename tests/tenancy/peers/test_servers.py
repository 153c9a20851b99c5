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

from monitoring import promtool
from registries import config
from tenantry import TenantRegistry
from tenants import stored_contents, until
from worker_servers import (
    SERVERS,
    WORKERS,
    Load,
    WorkerServer,
    celery_worker,
    children,
    run_python,
    running,
    send_tasks,
    wait_until,
)

pytestmark = pytest.mark.unmeasured

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


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, companies_dir: Path) -> Iterator[WorkerServer]:
    """A server with the example's application."""
    with running(companies_dir, request.param) as found:
        yield found


def check_stored(data_dir: Path, load: Load) -> None:
    """Check that each message which was sent is there once."""
    for company, contents in load.sent.items():
        stored = [text for text in stored_contents(data_dir, company) if text.startswith(f"{load.name}-")]
        assert sorted(stored) == sorted(contents)


class TestWebServers:
    """The workers of a web server."""

    @pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.soak)])
    async def test_any_worker_serves_any_company(self, server: WorkerServer, companies_dir: Path, count: int):
        """No request is refused because another worker has the company open, and each message is stored once."""
        load = Load(server.url, COMPANIES, f"load-{server.process.pid}-{count}")
        await load.send(count)
        assert load.dropped == []
        assert len(load.answered) > 1
        check_stored(companies_dir, load)

    async def test_a_scrape_of_any_worker_shows_all(self, server: WorkerServer):
        """Each response has every worker's metrics: a call once, at its owner, and the requests of all workers."""

        def total(name: str, **labels: str) -> float:
            """Return the sum of the samples with this name and these labels, as the next worker tells them."""
            text = httpx.get(f"{server.url}/metrics").text
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

        assert await asyncio.to_thread(total, "tenantry_process_up") == WORKERS
        before = await asyncio.to_thread(totals)
        load = Load(server.url, COMPANIES, f"scraped-{server.process.pid}")
        await load.send(200)
        # A worker reuses its response for a second.
        assert await asyncio.to_thread(wait_until, is_all_counted)

    async def test_a_worker_is_killed(self, server: WorkerServer, companies_dir: Path):
        """Only the requests that are in that worker fail; sent again with their keys, they are stored once."""
        load = Load(server.url, COMPANIES, f"kill-{server.process.pid}")
        sending = asyncio.create_task(load.send(400))
        await until(lambda: load.answered.total() >= 100)
        [(killed, _)] = load.answered.most_common(1)
        os.kill(killed, signal.SIGKILL)
        await sending
        assert set(load.dropped) <= {killed, None}
        check_stored(companies_dir, load)
        wait_until(lambda: len(server.workers() - {killed}) == WORKERS)


async def test_celery_beside_a_web_server(companies_dir: Path):
    """Tasks and requests of the same companies: each message is stored once, and a program of cron counts all of them."""
    with running(companies_dir, "preload") as web, celery_worker(companies_dir) as worker:
        load = Load(web.url, COMPANIES[:4], "beside")
        tasks, _ = await asyncio.gather(
            asyncio.to_thread(send_tasks, companies_dir, COMPANIES[:4], 40), load.send(100)
        )
        assert {task["pid"] for task in tasks} <= children(worker.pid)
        for task in tasks:
            load.sent[task["company"]].append(task["content"])
        report = run_python(companies_dir, "report.py")
    for company in COMPANIES[:4]:
        stored = stored_contents(companies_dir, company)
        assert sorted(text for text in stored if text.startswith(("beside-", "task-"))) == sorted(
            load.sent[company]
        )
        assert f"{company} {len(stored)}" in report.splitlines()
