"""Snapshots over HTTP: taken, listed, looked at, restored, undone, forgotten."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from service import Service, check_problem, ended
from tenants import make_message

UNKNOWN = "20260101t000000000000z-00000000"


@pytest.fixture
async def snapshot(service: Service, admin: httpx.AsyncClient) -> dict[str, Any]:
    """A snapshot of a tenant with one message, which has a second one by now."""
    await admin.post("/v1/tenants", json={"id": "acme"})
    messages = service.registry.tenant("acme").messages
    await messages.save(make_message("before"))
    operation = await ended(admin, await admin.post("/v1/tenants/acme/snapshots"))
    assert operation["state"] == "succeeded", operation
    await messages.save(make_message("after"))
    taken: dict[str, Any] = operation["result"]
    return taken


async def contents(service: Service) -> list[str]:
    """Return what the tenant's messages say."""
    return [
        message.content for message in await service.registry.tenant("acme").messages.get_history("general")
    ]


async def test_looking_at_snapshots(admin: httpx.AsyncClient, snapshot: dict[str, Any]):
    """The list and a look at one give what the operation gave."""
    assert snapshot["row_counts"]["messages"] == 1
    assert snapshot["trigger"] == "manual"
    assert (await admin.get("/v1/tenants/acme/snapshots")).json() == {"items": [snapshot], "damaged": []}
    assert (await admin.get(f"/v1/tenants/acme/snapshots/{snapshot['id']}")).json() == snapshot


async def test_restoring_and_undoing(service: Service, admin: httpx.AsyncClient, snapshot: dict[str, Any]):
    """The tenant is as it was, then as it was before that; what a restore replaced can be restored by its name too."""
    restored = await ended(admin, await admin.post(f"/v1/tenants/acme/snapshots/{snapshot['id']}/restore"))
    assert restored["result"]["state"] == "active"
    assert await contents(service) == ["before"]
    undone = await ended(admin, await admin.post("/v1/tenants/acme/undo-restore"))
    assert undone["state"] == "succeeded"
    assert await contents(service) == ["after", "before"]
    points = (await admin.get("/v1/tenants/acme/restore-points")).json()["items"]
    point = points[-1]["id"]
    assert len(points) == 2
    again = await ended(admin, await admin.post(f"/v1/tenants/acme/snapshots/{point}/restore"))
    assert again["state"] == "succeeded", again
    assert await contents(service) == ["before"]


async def test_forgetting(admin: httpx.AsyncClient, snapshot: dict[str, Any]):
    """204 without a body; then it is not found, by whatever operation."""
    path = f"/v1/tenants/acme/snapshots/{snapshot['id']}"
    forgotten = await admin.delete(path)
    assert (forgotten.status_code, forgotten.content) == (204, b"")
    for response in (
        await admin.get(path),
        await admin.delete(path),
        await admin.post(f"{path}/restore"),
    ):
        check_problem(response, 404, "snapshot-not-found")


async def test_a_damaged_snapshot(admin: httpx.AsyncClient, snapshot: dict[str, Any], data_dir: Path):
    """It is named among the others, and can be forgotten, and nothing else."""
    path = next((data_dir / "snapshots").rglob(f"{snapshot['id']}.json"))
    path.write_bytes(path.read_bytes()[:-1])
    listed = (await admin.get("/v1/tenants/acme/snapshots")).json()
    assert listed == {"items": [], "damaged": [snapshot["id"]]}
    problem = check_problem(
        await admin.get(f"/v1/tenants/acme/snapshots/{snapshot['id']}"), 422, "snapshot-corrupt"
    )
    assert snapshot["id"] in problem["detail"]
    assert (await admin.delete(f"/v1/tenants/acme/snapshots/{snapshot['id']}")).status_code == 204
    assert (await admin.get("/v1/tenants/acme/snapshots")).json()["damaged"] == []


@pytest.mark.usefixtures("snapshot")
@pytest.mark.parametrize("name", [UNKNOWN, "x", "before-x", f"before-{UNKNOWN}", "%00", "..%00", "x" * 500])
async def test_a_snapshot_that_is_not_there(admin: httpx.AsyncClient, name: str):
    """404 at once, whatever was asked of it."""
    path = f"/v1/tenants/acme/snapshots/{name}"
    for response in (
        await admin.get(path),
        await admin.delete(path),
        await admin.post(f"{path}/restore"),
    ):
        check_problem(response, 404, "snapshot-not-found")


async def test_a_snapshot_of_another_tenant(admin: httpx.AsyncClient, snapshot: dict[str, Any]):
    """It is none of this tenant's."""
    await admin.post("/v1/tenants", json={"id": "other"})
    path = f"/v1/tenants/other/snapshots/{snapshot['id']}"
    check_problem(await admin.get(path), 404, "snapshot-not-found")
    check_problem(await admin.post(f"{path}/restore"), 404, "snapshot-not-found")


async def test_a_restore_that_was_decided_on_something_else(admin: httpx.AsyncClient):
    """With the ETag of an older tenant it is 412, and nothing is replaced."""
    created = await admin.post("/v1/tenants", json={"id": "acme"})
    snapshot = (await ended(admin, await admin.post("/v1/tenants/acme/snapshots")))["result"]
    await admin.patch("/v1/tenants/acme", json={"display_name": "changed"})
    path = f"/v1/tenants/acme/snapshots/{snapshot['id']}/restore"
    stale = await admin.post(path, headers={"If-Match": created.headers["etag"]})
    check_problem(stale, 412, "revision")
    current = (await admin.get("/v1/tenants/acme")).headers["etag"]
    assert (await ended(admin, await admin.post(path, headers={"If-Match": current})))["state"] == "succeeded"
