"""Fleet jobs over HTTP: started, looked at, steered, followed, and what is no job."""

import json
from typing import Any

import httpx
import pytest

from fleets import nested
from service import Service, check_problem


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
        {"arguments": {"x": nested(900)}},
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
    assert started.json()["options"]["arguments"] == arguments
    assert (await admin.get("/v1/jobs")).json()["items"][0]["options"]["arguments"] == arguments


async def _look(*_: object) -> None:
    return None
