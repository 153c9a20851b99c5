"""Long work: accepted, followed by polling or as a stream of events, and what becomes of it when nobody looks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import structlog
from structlog.testing import capture_logs

from service import Service, check_problem, connected, ended, events, is_registry, served
from tenantry import RegistryConfig, TenantRegistry
from tenantry.admin.http.operations import (
    KEPT_MAX,
    RUNNING_MAX,
    RUNNING_PER_TENANT_MAX,
    Operations,
    OperationState,
)
from tenantry.admin.http.problems import ProblemError
from tenantry.storage.objects.protocol import LocalStorage
from tenants import HandClock, until


@asynccontextmanager
async def long_archiving(service: Service, client: httpx.AsyncClient) -> AsyncIterator[httpx.Response]:
    """Begin to archive a tenant, which lasts until the block ends: it waits for a transaction of the tenant's."""
    async with service.registry.tenant("acme").transaction():
        yield await client.post("/v1/tenants/acme/archive")


@pytest.fixture
async def acme(admin: httpx.AsyncClient) -> None:
    """A tenant."""
    assert (await admin.post("/v1/tenants", json={"id": "acme"})).status_code == 201


@pytest.mark.usefixtures("acme")
async def test_an_operation_from_its_beginning_to_its_end(service: Service, admin: httpx.AsyncClient):
    """202 says where to follow it and when to look; while it runs the same is said again; at its end there is a result."""
    async with long_archiving(service, admin) as accepted:
        assert accepted.status_code == 202
        assert accepted.headers["retry-after"] == "1"
        found = await admin.get(accepted.headers["location"])
        assert found.headers["retry-after"] == "1"
        assert (found.json()["action"], found.json()["tenant_id"]) == ("archive", "acme")
        assert (found.json()["state"], found.json()["finished_at"]) == ("running", None)
    operation = await ended(admin, accepted)
    assert operation["state"] == "succeeded"
    assert operation["result"]["state"] == "archived"
    assert operation["finished_at"] > operation["started_at"]
    assert "retry-after" not in (await admin.get(accepted.headers["location"])).headers


@pytest.mark.usefixtures("acme")
async def test_an_operation_that_is_refused(admin: httpx.AsyncClient):
    """An operation that fails has the problem that its request would have had."""
    accepted = await admin.post("/v1/tenants/acme/clone", json={"new_id": "acme"})
    operation = await ended(admin, accepted)
    assert operation["state"] == "failed"
    assert operation["result"] is None
    assert operation["problem"]["type"] == "urn:tenantry:problem:tenant-exists"
    assert operation["problem"]["status"] == 409


class BrokenStorage(LocalStorage):
    """A storage with a defect."""

    async def put(self, key: str, path: Path) -> None:  # noqa: ARG002  # that is the port
        raise ValueError("s3cret")


async def test_an_operation_that_fails_as_nobody_expected(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """It has ended and says nothing of why; one event in the log says which error it was and where."""
    registry = TenantRegistry(
        RegistryConfig(data_dir=data_dir), snapshot_storage=BrokenStorage(tmp_path / "snapshots")
    )
    structlog.configure()
    with capture_logs() as logs:
        async with registry, Service(registry) as service:
            client = await service.caller("operate")
            await client.post("/v1/tenants", json={"id": "acme"})
            operation = await ended(client, await client.post("/v1/tenants/acme/snapshots"))
    assert operation["problem"]["type"] == "urn:tenantry:problem:internal"
    (event,) = [log for log in logs if log["event"] == "tenantry.request.failed"]
    assert (event["error_type"], event["action"], event["tenant_id"]) == ("ValueError", "snapshot", "acme")
    assert "s3cret" not in f"{operation}{logs}{caplog.text}"
    assert "Traceback" not in f"{operation}{logs}{caplog.text}"


@pytest.mark.parametrize("path", ["", "/events"])
async def test_an_operation_that_is_not_there(admin: httpx.AsyncClient, path: str):
    """It is not found, also as a stream: not a stream that is empty."""
    check_problem(await admin.get(f"/v1/operations/0123456789abcdef{path}"), 404, "operation-not-found")


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("path", ["", "/events"])
async def test_an_operation_of_another_tenant(service: Service, admin: httpx.AsyncClient, path: str):
    """A key for other tenants does not see it, also not as a stream."""
    accepted = await admin.post("/v1/tenants/acme/snapshots")
    await ended(admin, accepted)
    other = await service.caller("admin", tenants=["other"])
    check_problem(await other.get(accepted.headers["location"] + path), 403, "tenant")


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("path", ["", "/events"])
async def test_an_operation_follows_its_tenant(service: Service, admin: httpx.AsyncClient, path: str):
    """A key for the tenant sees it also when both have another id; one for the next tenant of that id does not."""
    own = await service.caller("read", tenants=["acme"])
    accepted = await admin.post("/v1/tenants/acme/snapshots")
    await ended(admin, accepted)
    await admin.post("/v1/tenants/acme/rename", json={"new_id": "umbrella"})
    await admin.post("/v1/tenants", json={"id": "acme"})
    later = await service.caller("read", tenants=["acme"])
    where = accepted.headers["location"] + path
    assert (await own.get(where)).status_code == 200
    check_problem(await later.get(where), 403, "tenant")


@pytest.mark.usefixtures("acme")
async def test_too_many_operations_of_a_tenant(service: Service, admin: httpx.AsyncClient):
    """One tenant has its share of what may run at once; others are not kept waiting, and it goes on when one has ended."""
    await admin.post("/v1/tenants", json={"id": "globex"})
    async with long_archiving(service, admin) as first:
        others = [await admin.post("/v1/tenants/acme/archive") for _ in range(RUNNING_PER_TENANT_MAX - 1)]
        refused = await admin.post("/v1/tenants/acme/archive")
        check_problem(refused, 429, "too-many-operations")
        await ended(admin, await admin.post("/v1/tenants/globex/archive"))
    for accepted in (first, *others):
        assert (await ended(admin, accepted))["state"] == "succeeded"
    assert (await ended(admin, await admin.post("/v1/tenants/acme/archive")))["state"] == "succeeded"


async def test_too_many_operations():
    """There is a limit to how many run at once; beyond it, the answer is when to come again."""
    operations, released = Operations(HandClock()), asyncio.Event()

    async def wait() -> None:
        await released.wait()

    for _ in range(RUNNING_MAX):
        operations.start("long", None, wait, by="ada")
    with pytest.raises(ProblemError) as refused:
        operations.start("long", None, wait, by="ada")
    assert refused.value.status_code == 503
    assert refused.value.content["type"] == "urn:tenantry:problem:too-many-operations"
    assert refused.value.content["retry_after_seconds"] == 1
    released.set()
    await operations.aclose()


async def test_old_operations_are_forgotten():
    """So that memory does not grow; those that run are kept whatever their number is."""
    operations = Operations(HandClock())
    released = asyncio.Event()

    async def wait() -> None:
        await released.wait()

    async def do_nothing() -> None:
        return None

    running = operations.start("long", None, wait, by="ada")
    first = operations.start("short", None, do_nothing, by="ada")
    for _ in range(KEPT_MAX):
        operations.start("short", None, do_nothing, by="ada")
        await asyncio.sleep(0)
    with pytest.raises(Exception, match="in the audit"):
        operations.get(first.id)
    assert operations.get(running.id).state is OperationState.RUNNING
    released.set()
    await operations.aclose()
    assert operations.get(running.id).state is OperationState.SUCCEEDED


@pytest.mark.usefixtures("acme")
async def test_following_an_operation(service: Service):
    """Events come while it runs and when it has ended, and then the stream ends."""
    async with (
        served(service.app) as url,
        connected(url, await service.token("admin")) as client,
    ):
        async with service.registry.tenant("acme").transaction():
            accepted = await client.post("/v1/tenants/acme/archive")
            request = client.build_request("GET", f"{accepted.headers['location']}/events")
            response = await client.send(request, stream=True)
            assert response.headers["content-type"].startswith("text/event-stream")
            seen = events(response)
            first = await anext(seen)
            assert first["state"] == "running"
        last = [event async for event in seen][-1]
        assert (last["state"], last["result"]["state"]) == ("succeeded", "archived")
        await response.aclose()


@pytest.mark.usefixtures("acme")
async def test_a_client_that_goes_away_from_a_stream(service: Service, caplog: pytest.LogCaptureFixture):
    """Nothing of its request is left, no failure is logged, and the operation goes on to its end."""
    async with served(service.app) as url, connected(url, await service.token("admin")) as client:
        async with service.registry.tenant("acme").transaction():
            accepted = await client.post("/v1/tenants/acme/archive")
            before = asyncio.all_tasks()
            for _ in range(3):
                async with client.stream("GET", f"{accepted.headers['location']}/events") as response:
                    await anext(events(response))
            await until(lambda: all(map(is_registry, asyncio.all_tasks() - before)))
        assert (await ended(client, accepted))["state"] == "succeeded"
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


@pytest.mark.usefixtures("acme")
async def test_a_stream_does_not_outlive_its_key(service: Service):
    """When the key is revoked the stream ends, though the operation goes on; other keys' streams go on with it."""
    checking = Service(service.registry, authorization_seconds=0.01)
    made = await service.registry.keys.create()
    async with served(checking.app) as url, connected(url, await service.token("admin")) as client:
        async with service.registry.tenant("acme").transaction():
            accepted = await client.post("/v1/tenants/acme/archive")
            path = f"{accepted.headers['location']}/events"
            async with (
                connected(url, made.token) as holder,
                holder.stream("GET", path) as revoked,
                client.stream("GET", path) as other,
            ):
                seen, others = events(revoked), events(other)
                assert (await anext(seen))["state"] == (await anext(others))["state"] == "running"
                await service.registry.keys.revoke(made.key.id)
                with capture_logs() as logs:
                    assert {event["state"] async for event in seen} <= {"running"}
                assert [log for log in logs if log["log_level"] == "error"] == []
                assert (await client.get(accepted.headers["location"])).json()["state"] == "running"
        assert (await ended(client, accepted))["state"] == "succeeded"
