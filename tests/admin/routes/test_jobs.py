"""Fleet jobs over HTTP: started, looked at, steered, followed, and what is no job."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from fleets import Held, holding, nested
from service import Service, check_problem, connected, events, is_registry, served
from tenantry.admin import end_streams
from tenants import until


@pytest.fixture
async def acme(admin: httpx.AsyncClient) -> None:
    """A tenant."""
    assert (await admin.post("/v1/tenants", json={"id": "acme"})).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": ""},
        {"kind": "\ud800"},
        {"states": []},
        {"states": ["nowhere"]},
        {"tenant_ids": ["ACME"]},
        {"id_prefix": "a/"},
        {"below": {}},
        {"below": {"company": "2"}},
        {"below": {"company": True}},
        {"below": {"company": 0}},
        {"below": {"company": 2**63}},
        {"below": {"No Schema": 1}},
        {"canary": 0},
        {"canary": True},
        {"canary": "5"},
        {"canary": "0.00%"},
        {"canary": "100.01%"},
        {"concurrency": 0},
        {"concurrency": "8"},
        {"failures_max": -1},
        {"failures_max": 1.5},
        {"failures_max": True},
        {"snapshot_before": 1},
        {"return_on_failure": 0},
        {"arguments": {"x": "\ud800"}},
        {"arguments": {"\ud800": 1}},
        {"arguments": {"x": float("nan")}},
        {"arguments": {"x": nested(40)}},
        {"arguments": {"x": nested(300)}},
        {"arguments": {"x": "x" * 70_000}},
        {"tenant_ids": ["acme"] * 10_001},
        {"unknown": 1},
    ],
    ids=lambda body: str(body)[:40],
)
@pytest.mark.usefixtures("acme")
async def test_what_is_no_job(admin: httpx.AsyncClient, body: dict[str, Any]):
    """422 and where; no job was started."""
    content = json.dumps({"kind": "check", **body} if body else body)
    response = await admin.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
    check_problem(response, 422, "invalid")
    assert (await admin.get("/v1/jobs")).json()["items"] == []


@pytest.mark.parametrize("canary", [1, 5.0, "0.01%", "0.1%", "5%", "12.5%", "99.99%", "100%", "100.00%"])
@pytest.mark.usefixtures("acme")
async def test_who_goes_first(admin: httpx.AsyncClient, canary: object):
    """A number of tenants, or any share of them above nothing."""
    started = await admin.post("/v1/jobs", json={"kind": "check", "canary": canary})
    assert started.status_code == 202, started.text
    assert started.json()["options"]["canary"] == canary


@pytest.mark.usefixtures("acme")
async def test_jobs_that_make_no_sense(admin: httpx.AsyncClient):
    """What no function does, or not to such tenants, is 409; a tenant that is not there is 404."""
    check_problem(await admin.post("/v1/jobs", json={"kind": "nonsense"}), 409, "job")
    check_problem(await admin.post("/v1/jobs", json={"kind": "check", "states": ["deleted"]}), 409, "job")
    missing = {"kind": "check", "tenant_ids": ["acme", "globex"]}
    check_problem(await admin.post("/v1/jobs", json=missing), 404, "tenant-not-found")


async def test_arguments_come_back(service: Service, admin: httpx.AsyncClient):
    """What the work is given is told as it was given, however it looks."""
    service.registry.fleet.register("look", _look)
    arguments = {"text": "é\x00\U0001f600", "nested": nested(31), "number": 10**30, "": None}
    started = await admin.post("/v1/jobs", json={"kind": "look", "arguments": arguments})
    assert started.headers["location"] == f"/v1/jobs/{started.json()['id']}"
    assert started.json()["options"]["arguments"] == arguments
    assert (await admin.get("/v1/jobs")).json()["items"][0]["options"]["arguments"] == arguments


async def _look(*_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("", "/results", "/events")),
        *(("POST", path) for path in ("/pause", "/resume", "/cancel")),
    ],
)
async def test_a_job_that_is_not_there(admin: httpx.AsyncClient, method: str, path: str):
    """It is not found, also as a stream: not a stream that is empty."""
    response = await admin.request(method, f"/v1/jobs/20260101-120000-000000-00ff00ff{path}")
    check_problem(response, 404, "job-not-found")


@pytest.mark.usefixtures("acme")
async def test_cursors_of_jobs(service: Service, admin: httpx.AsyncClient):
    """Those that were changed, and those of another list, are 400."""
    service.registry.fleet.register("look", _look)
    await admin.post("/v1/tenants", json={"id": "globex"})
    for _ in range(2):
        started = await admin.post("/v1/jobs", json={"kind": "look"})
        await service.registry.fleet.wait(started.json()["id"])
    jobs, results = "/v1/jobs", f"{started.headers['location']}/results"
    cursors = {path: (await admin.get(f"{path}?limit=1")).json()["next_cursor"] for path in (jobs, results)}
    for path, other in ((jobs, results), (results, jobs)):
        assert (await admin.get(path, params={"cursor": cursors[path]})).status_code == 200
        tampered = cursors[path] + "A"
        assert (await admin.get(path, params={"cursor": tampered})).status_code == 400
        check_problem(await admin.get(path, params={"cursor": cursors[other]}), 400, "cursor")


@pytest.fixture
def held() -> Held:
    """A function that waits until it is let go."""
    return Held()


@pytest.fixture
async def job(service: Service, data_dir: Path, held: Held) -> AsyncIterator[str]:
    """A job over two tenants, one after the other, that has begun in another process's registry."""
    for name in ("acme", "globex"):
        await service.registry.create(name)
    async with holding(data_dir, held) as elsewhere:
        started = await elsewhere.fleet.start("held", concurrency=1)
        await held.begun(1)
        yield started.id
        await held.let_go()


async def test_a_job_is_followed_to_its_end(service: Service, job: str, held: Held):
    """An event tells how far it is, another one that a tenant is finished; when the job has ended the stream ends."""
    async with served(service.app) as url, connected(url, await service.token("read")) as client:
        async with client.stream("GET", f"/v1/jobs/{job}/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            seen = events(response)
            first = await anext(seen)
            assert (first["state"], first["done"], first["left"]) == ("running", 0, 2)
            await held.let_go(1)
            second = await anext(seen)
            assert (second["state"], second["done"], second["left"]) == ("running", 1, 1)
            await held.let_go()
            last = [event async for event in seen][-1]
        assert (last["state"], last["done"], last["left"]) == ("done", 2, 0)
        assert (await client.get(f"/v1/jobs/{job}")).json() == last


async def test_a_client_goes_away_from_a_job(service: Service, job: str, caplog: pytest.LogCaptureFixture):
    """Nothing of its request is left, no failure is logged, and the job goes on."""
    async with served(service.app) as url, connected(url, await service.token("read")) as client:
        before = asyncio.all_tasks()
        for _ in range(3):
            async with client.stream("GET", f"/v1/jobs/{job}/events") as response:
                await anext(events(response))
        await until(lambda: all(map(is_registry, asyncio.all_tasks() - before)))
        assert (await client.get(f"/v1/jobs/{job}")).json()["state"] == "running"
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


@pytest.mark.parametrize("how", ["its server stops", "the registry closes"])
async def test_a_job_outlives_its_streams(
    service: Service, job: str, how: str, caplog: pytest.LogCaptureFixture
):
    """Whatever the stream comes from can stop: the stream ends as it should, before the job, and nothing has failed."""
    async with (
        served(service.app) as url,
        connected(url, await service.token("read")) as client,
        client.stream("GET", f"/v1/jobs/{job}/events") as response,
    ):
        seen = events(response)
        assert (await anext(seen))["state"] == "running"
        if how == "its server stops":
            end_streams(service.app)
        else:
            await service.registry.aclose()
        assert [event async for event in seen] == []
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


async def test_a_stream_does_not_outlive_its_key(service: Service, job: str):
    """When the key is not good any more the stream ends as it should, and the job goes on."""
    checking = Service(service.registry, authorization_seconds=0.01)
    made = await service.registry.keys.create()
    async with served(checking.app) as url, connected(url, made.token) as client:
        async with client.stream("GET", f"/v1/jobs/{job}/events") as response:
            seen = events(response)
            assert (await anext(seen))["state"] == "running"
            await service.registry.keys.revoke(made.key.id)
            with capture_logs() as logs:
                assert [event async for event in seen] == []
            assert [log for log in logs if log["log_level"] == "error"] == []
        check_problem(await client.get(f"/v1/jobs/{job}"), 401, "unauthorized")
    assert (await service.registry.fleet.get(job)).state == "running"
