"""Tenants over HTTP: created, listed, changed and led through their life, each refusal with its problem."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from bad_ids import BAD_IDS
from service import Service, check_problem, ended
from tenantry.files.lock_file import LockFile
from tenants import make_message


async def test_creating(admin: httpx.AsyncClient):
    """201, where it is, its ETag, and the same as a look at it gives, which names the process that has the tenant open too."""
    response = await admin.post("/v1/tenants", json={"id": "acme", "display_name": "Acme Ltd."})
    assert response.status_code == 201
    assert response.headers["location"] == "/v1/tenants/acme"
    assert (response.json()["state"], response.json()["display_name"]) == ("active", "Acme Ltd.")
    looked_at = await admin.get(response.headers["location"])
    owner = {"pid": os.getpid(), "host": os.uname().nodename}
    assert looked_at.json() == response.json() | {"owner": owner}
    assert looked_at.headers["etag"] == response.headers["etag"] == f'"{response.json()["revision"]}"'


async def test_creating_if_it_does_not_exist(admin: httpx.AsyncClient):
    """201 for a new tenant, 200 for one that exists, with the same document and place; 409 without the field."""
    body = {"id": "acme", "if_not_exists": True}
    made, again = [await admin.post("/v1/tenants", json=body) for _ in range(2)]
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json()
    assert made.headers["location"] == again.headers["location"]
    assert (await admin.post("/v1/tenants", json={"id": "acme"})).status_code == 409


async def test_the_back_end_of_a_new_tenant(admin: httpx.AsyncClient):
    """A tenant says where its database is; a back end that the service does not have is refused with the setting to set."""
    made = await admin.post("/v1/tenants", json={"id": "acme", "backend": "sqlite"})
    assert made.json()["backend"] == "sqlite"
    refused = await admin.post("/v1/tenants", json={"id": "globex", "backend": "east"})
    check_problem(refused, 409, "backend-not-configured")
    assert (refused.json()["backend"], refused.json()["setting"]) == ("east", "TENANTRY_DATABASES__east")
    assert (await admin.get("/v1/tenants/globex")).status_code == 404
    cloned = await admin.post("/v1/tenants/acme/clone", json={"new_id": "globex", "backend": "east"})
    assert (await ended(admin, cloned))["problem"]["type"] == "urn:tenantry:problem:backend-not-configured"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": "acme", "backend": ""},
        {"id": "acme", "backend": "East"},
        {"id": "acme", "backend": "../x"},
        {"id": ""},
        {"id": "ACME"},
        {"id": "1a"},
        {"id": "a-"},
        {"id": "a" * 49},
        {"id": "../x"},
        {"id": "acme\n"},
        {"id": "acme\x00"},
        {"id": "äcme"},
        {"id": 1},
        {"id": None},
        {"id": "acme", "display_name": ""},
        {"id": "acme", "display_name": "  "},
        {"id": "acme", "display_name": "\x1c"},
        {"id": "acme", "display_name": "\u0085"},
        {"id": "acme", "display_name": "\u3000"},
        {"id": "acme", "display_name": "x" * 201},
        {"id": "acme", "display_name": "a\x00"},
        {"id": "acme", "state": "active"},
        [],
        "acme",
        None,
    ],
)
async def test_what_is_no_tenant(admin: httpx.AsyncClient, body: object):
    """422 and where; nothing was made."""
    check_problem(await admin.post("/v1/tenants", json=body), 422, "invalid")
    assert (await admin.get("/v1/tenants")).json()["items"] == []


@pytest.mark.parametrize("text", BAD_IDS.values(), ids=BAD_IDS.keys())
async def test_ids_are_those_of_the_core(admin: httpx.AsyncClient, acme: dict[str, Any], text: str):
    """What it refuses is refused in bodies, paths and queries, and nothing was made or changed."""
    json_headers = {"content-type": "application/json"}
    for path, body in (
        ("/v1/tenants", {"id": text}),
        ("/v1/tenants/acme/rename", {"new_id": text}),
        ("/v1/tenants/acme/clone", {"new_id": text}),
        ("/v1/keys", {"tenants": [text]}),
    ):
        response = await admin.post(path, content=json.dumps(body), headers=json_headers)
        check_problem(response, 422, "invalid")
    # Of what is no text in UTF-8 the bytes, as somebody would send them.
    quoted = quote(text.encode("utf-8", "surrogatepass"), safe="")
    check_problem(await admin.get(f"/v1/audit?tenant_id={quoted}"), 422, "invalid")
    assert (await admin.post(f"/v1/tenants/{quoted}/suspend")).status_code in {404, 405, 422}
    assert (await admin.get("/v1/tenants")).json()["items"] == [acme]


@pytest.mark.parametrize("name", ["ACME", "a%2Fb", "%00", "a%0A", "..", "%2e%2e", "x" * 49, "%F0%9F%98%80"])
@pytest.mark.parametrize("path", ["", "/statistics", "/snapshots", "/export"])
async def test_paths_with_what_is_no_id(admin: httpx.AsyncClient, name: str, path: str):
    """They are refused or lead nowhere, and never to a file."""
    response = await admin.get(f"/v1/tenants/{name}{path}")
    assert response.status_code in {404, 422}
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.usefixtures("acme")
async def test_an_id_that_is_taken(admin: httpx.AsyncClient):
    """409, and which."""
    problem = check_problem(await admin.post("/v1/tenants", json={"id": "acme"}), 409, "tenant-exists")
    assert problem["tenant_id"] == "acme"


MISSING: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "", None),
    ("PATCH", "", {"display_name": "x"}),
    ("DELETE", "", None),
    *(
        ("POST", f"/{name}", None)
        for name in ("suspend", "resume", "archive", "unarchive", "undelete", "purge")
    ),
    *(("POST", f"/{name}", None) for name in ("quarantine", "repair", "undo-restore", "snapshots")),
    ("POST", "/rename", {"new_id": "other"}),
    ("POST", "/clone", {"new_id": "other"}),
    ("POST", "/snapshots/20260101t000000000000z-00000000/restore", None),
    ("DELETE", "/snapshots/20260101t000000000000z-00000000", None),
    ("GET", "/snapshots", None),
    ("GET", "/snapshots/20260101t000000000000z-00000000", None),
    ("GET", "/statistics", None),
    ("GET", "/export", None),
]


@pytest.mark.parametrize(("method", "path", "body"), MISSING)
async def test_a_tenant_that_is_not_there(
    admin: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None
):
    """404 at once, also where the work would be long."""
    response = await admin.request(method, f"/v1/tenants/acme{path}", json=body)
    check_problem(response, 404, "tenant-not-found")


@pytest.mark.usefixtures("acme")
async def test_a_whole_life(service: Service, admin: httpx.AsyncClient):
    """Every step of a tenant's life answers with the tenant as it is then, and leaves its data."""
    await service.registry.tenant("acme").messages.save(make_message())

    async def post(action: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = await admin.post(f"/v1/tenants/acme/{action}", json=body)
        if response.status_code == 202:
            operation = await ended(admin, response)
            assert operation["state"] == "succeeded", operation
            result: dict[str, Any] = operation["result"]
            return result
        assert response.status_code == 200, response.text
        assert response.headers["etag"] == f'"{response.json()["revision"]}"'
        found: dict[str, Any] = response.json()
        return found

    suspended = await post("suspend", {"reason": "unpaid"})
    assert (suspended["state"], suspended["reason"]) == ("suspended", "unpaid")
    assert (await post("suspend"))["state"] == "suspended"
    assert (await post("resume"))["state"] == "active"
    assert (await post("archive", {"reason": "old"}))["reason"] == "old"
    assert (await post("unarchive"))["state"] == "active"
    assert (await post("quarantine"))["reason"] == "quarantined by an operator"
    assert (await post("repair"))["state"] == "active"
    assert len(await service.registry.tenant("acme").messages.get_history("general")) == 1
    deleted = await admin.delete("/v1/tenants/acme")
    assert deleted.json()["state"] == "deleted"
    assert deleted.json()["purge_after"] is not None
    assert (await post("undelete"))["state"] == "active"
    await admin.delete("/v1/tenants/acme")
    assert (await post("purge", {"force": True}))["state"] == "purged"
    check_problem(await admin.get("/v1/tenants/acme"), 404, "tenant-not-found")
    assert (await admin.post("/v1/tenants", json={"id": "acme"})).status_code == 201


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("before", "action", "kind"),
    [
        ([], "unarchive", "tenant-state"),
        (["suspend"], "quarantine", "tenant-suspended"),
        (["suspend"], "unarchive", "tenant-suspended"),
        (["quarantine"], "suspend", "tenant-quarantined"),
        (["delete"], "suspend", "tenant-deleted"),
    ],
)
async def test_a_step_that_is_not_possible(
    admin: httpx.AsyncClient, before: list[str], action: str, kind: str
):
    """409, with the state that the tenant is in and what was asked of it."""
    for step in before:
        path = "/v1/tenants/acme" if step == "delete" else f"/v1/tenants/acme/{step}"
        await admin.request("DELETE" if step == "delete" else "POST", path)
    response = await admin.post(f"/v1/tenants/acme/{action}")
    if (
        action == "unarchive" and not before
    ):  # an active tenant was led there by unarchive: it can be repeated
        assert response.json()["state"] == "active"
        return
    problem = check_problem(response, 409, kind)
    assert problem["event"] == action
    assert problem["tenant_id"] == "acme"


@pytest.mark.usefixtures("acme")
async def test_what_is_refused_once_it_has_begun(admin: httpx.AsyncClient):
    """Long work that is not possible is accepted, and fails with the problem; purging says when it will be possible."""
    operation = await ended(admin, await admin.post("/v1/tenants/acme/purge"))
    assert operation["problem"]["type"] == "urn:tenantry:problem:tenant-state"
    await admin.delete("/v1/tenants/acme")
    operation = await ended(admin, await admin.post("/v1/tenants/acme/purge"))
    assert operation["problem"]["type"] == "urn:tenantry:problem:grace-period"
    assert operation["problem"]["retry_after_seconds"] > 86_400
    operation = await ended(admin, await admin.post("/v1/tenants/acme/undo-restore"))
    assert operation["problem"]["status"] == 404


async def test_changing_settings(admin: httpx.AsyncClient, acme: dict[str, Any]):
    """What is left out stays; limits are given all at once; the ETag moves with each change."""
    response = await admin.patch("/v1/tenants/acme", json={"limits": {"calls_per_second_max": 5}})
    assert response.status_code == 200, response.text
    changed = response.json()
    assert changed["display_name"] == "Acme Ltd."
    assert changed["limits"]["calls_per_second_max"] == 5
    assert changed["revision"] > acme["revision"]
    assert response.headers["etag"] == f'"{changed["revision"]}"'
    response = await admin.patch("/v1/tenants/acme", json={"display_name": "B", "deletion_protected": True})
    assert response.json()["limits"]["calls_per_second_max"] == 5
    assert (response.json()["display_name"], response.json()["deletion_protected"]) == ("B", True)
    check_problem(await admin.delete("/v1/tenants/acme"), 409, "deletion-protected")
    response = await admin.patch("/v1/tenants/acme", json={"limits": {}})
    assert response.json()["limits"]["calls_per_second_max"] is None


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    "body",
    [
        {"display_name": ""},
        {"deletion_protected": "true"},
        {"deletion_protected": 0},
        {"limits": {"calls_in_flight_max": "5"}},
        {"limits": {"calls_in_flight_max": True}},
        {"limits": {"calls_per_second_max": True}},
        {"limits": {"calls_in_flight_max": 1.5}},
        {"limits": {"database_bytes_max": 2**48 + 1}},
        {"limits": {"calls_burst_max": 5}},
        {"limits": {"database_bytes_max": 1}},
        {"limits": {"calls_per_second_max": 0}},
        {"limits": {"unknown": 1}},
        {"state": "deleted"},
    ],
)
async def test_settings_that_are_none(admin: httpx.AsyncClient, body: dict[str, Any]):
    """422, and nothing was changed."""
    before = (await admin.get("/v1/tenants/acme")).json()
    check_problem(await admin.patch("/v1/tenants/acme", json=body), 422, "invalid")
    assert (await admin.get("/v1/tenants/acme")).json() == before


@pytest.mark.usefixtures("acme")
async def test_renaming(admin: httpx.AsyncClient):
    """The tenant has its new id, its old one is free, and one that is taken is refused."""
    await admin.post("/v1/tenants", json={"id": "taken"})
    renamed = await admin.post("/v1/tenants/acme/rename", json={"new_id": "beta"})
    assert (renamed.json()["id"], renamed.json()["previous_id"]) == ("beta", "acme")
    check_problem(await admin.get("/v1/tenants/acme"), 404, "tenant-not-found")
    check_problem(await admin.post("/v1/tenants/beta/rename", json={"new_id": "taken"}), 409, "tenant-exists")
    check_problem(await admin.post("/v1/tenants/beta/rename", json={"new_id": "B"}), 422, "invalid")


@pytest.mark.usefixtures("acme")
async def test_cloning(service: Service, admin: httpx.AsyncClient):
    """The new tenant has the data of now, or of a snapshot; a snapshot that is not there is 404 at once."""
    messages = service.registry.tenant("acme").messages
    await messages.save(make_message("before"))
    snapshot = await ended(admin, await admin.post("/v1/tenants/acme/snapshots"))
    await messages.save(make_message("after"))
    for body, count in (
        ({"new_id": "now"}, 2),
        ({"new_id": "then", "snapshot_id": snapshot["result"]["id"]}, 1),
    ):
        operation = await ended(admin, await admin.post("/v1/tenants/acme/clone", json=body))
        assert operation["result"]["id"] == body["new_id"]
        clone = service.registry.tenant(body["new_id"])
        assert len(await clone.messages.get_history("general")) == count
    check_problem(
        await admin.post("/v1/tenants/acme/clone", json={"new_id": "x", "snapshot_id": "none"}),
        404,
        "snapshot-not-found",
    )


@pytest.mark.usefixtures("acme")
async def test_a_tenant_that_is_busy(service: Service, admin: httpx.AsyncClient, data_dir: Path):
    """While another process is at a long call of it, the problem says so, and when to come again."""
    lock = LockFile(data_dir / "operations" / (await service.registry.get("acme")).uid)
    lock.acquire()
    try:
        operation = await ended(admin, await admin.post("/v1/tenants/acme/archive"))
    finally:
        lock.remove()
    assert operation["problem"]["type"] == "urn:tenantry:problem:tenant-busy"
    assert operation["problem"]["retry_after_seconds"] == 1
    assert (await admin.get("/v1/tenants/acme")).json()["state"] == "active"
