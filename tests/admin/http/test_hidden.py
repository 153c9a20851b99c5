"""What a key for some tenants is not shown: where the service's files lie, and other tenants in what was done to its own."""

import io
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import Service, check_problem, connected, ended, events, served
from tenantry import errors
from tenantry.admin.http.hidden_paths import without_paths
from tenantry.admin.http.problems import public_answer
from tenantry.storage.sqlite.database_files.layout import tenant_paths

GZIP = {"content-type": "application/gzip"}


def bundles() -> dict[str, bytes]:
    """Return bundles that cannot be imported, by what is wrong with them."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"), io.BytesIO())
    return {"nothing": b"", "no archive": b"x" * 1000, "an empty manifest": archive.getvalue()}


@pytest.mark.parametrize("what", bundles())
async def test_a_bundle_that_cannot_be_imported(service: Service, data_dir: Path, what: str):
    """The error speaks of the bundle and of no path."""
    some = await service.caller("operate", tenants=["acme"])
    response = await some.post("/v1/tenants/acme/import", content=bundles()[what], headers=GZIP)
    assert response.status_code in {400, 409, 422}, response.text
    assert str(data_dir) not in response.text


async def test_an_import_over_a_directory_that_is_in_the_way(
    service: Service, admin: httpx.AsyncClient, data_dir: Path
):
    """Somebody who may see all tenants is told which directory it is; others that there is one."""
    await admin.post("/v1/tenants", json={"id": "other"})
    bundle = (await admin.get("/v1/tenants/other/export")).content
    tenant_paths(data_dir, "acme").directory.mkdir(parents=True)
    some = await service.caller("operate", tenants=["acme"])
    for caller, is_told in ((admin, True), (some, False)):
        response = await caller.post("/v1/tenants/acme/import", content=bundle, headers=GZIP)
        problem = check_problem(response, 409, "data-directory")
        assert (str(data_dir) in problem["detail"]) is is_told
        assert "acme" in problem["detail"]


async def test_a_tenant_that_is_damaged(service: Service, admin: httpx.AsyncClient, data_dir: Path):
    """Why it was quarantined, in its entry, its audit and its operations, names no directory to a key for some tenants."""
    await admin.post("/v1/tenants", json={"id": "acme"})
    await admin.post("/v1/tenants/acme/suspend")
    [database] = (data_dir / "tenants").glob("*/acme/tenant.db")
    database.write_bytes(b"no database" * 1000)
    await admin.post("/v1/tenants/acme/resume")
    repair = await admin.post("/v1/tenants/acme/snapshots")
    await ended(admin, repair)
    some = await service.caller("operate", tenants=["acme"])
    paths = ("/v1/tenants/acme", "/v1/tenants", "/v1/audit?tenant_id=acme", repair.headers["location"])
    told = []
    for path in paths:
        told.append(str(data_dir) in (await admin.get(path)).text)
        assert str(data_dir) not in (await some.get(path)).text
    assert any(told)


async def test_a_clone_that_the_key_may_not_see(service: Service, admin: httpx.AsyncClient):
    """A key for the source sees that it was cloned, and not the clone; one for both sees it, also as events."""
    await admin.post("/v1/tenants", json={"id": "acme"})
    accepted = await admin.post(
        "/v1/tenants/acme/clone", json={"new_id": "secret", "display_name": "Secret Ltd."}
    )
    whole = await ended(admin, accepted)
    refused = await admin.post("/v1/tenants/acme/clone", json={"new_id": "secret"})
    assert (await ended(admin, refused))["problem"]["status"] == 409
    where = accepted.headers["location"]

    async def seen(token: str, path: str) -> list[dict[str, Any]]:
        async with connected(url, token) as client:
            found: dict[str, Any] = (await client.get(path)).json()
            async with client.stream("GET", f"{path}/events") as response:
                return [found, *[event async for event in events(response)]]

    async with served(service.app) as url:
        some = await service.token("read", tenants=["acme"])
        both = await service.token("read", tenants=["acme", "secret"])
        for found in await seen(some, where):
            assert (found["state"], found["result"]) == ("succeeded", None)
        for found in await seen(some, refused.headers["location"]):
            assert found["problem"]["type"] == "urn:tenantry:problem:tenant-exists"
            assert "secret" not in str(found).lower()
        for found in await seen(both, where):
            assert found["result"] == whole["result"]
        # Its id is another company's now.
        await service.registry.rename("secret", "moved")
        await service.registry.create("secret")
        other = await service.token("read", tenants=["acme", "secret"])
        assert [found["result"] for found in await seen(other, where)] == [None, None]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "cannot read /srv/data dir/tenants/82/acme/tenant.db: EIO",
            "cannot read …/tenants/82/acme/tenant.db: EIO",
        ),
        ("in '/srv/data dir'", "in 'the data directory'"),
        ("cannot open /var/lib/x/y.db", "cannot open …/y.db"),
        (
            "read/write of either/or, 1/2; see /v1/operations/x",
            "read/write of either/or, 1/2; see /v1/operations/x",
        ),
        ("https://example.org/a/b/c", "https://example.org/a/b/c"),
    ],
)
def test_what_is_a_path(text: str, shown: str):
    """The last part of an absolute path is shown; other words with slashes stay."""
    assert without_paths(text, Path("/srv/data dir")) == shown


def test_when_to_come_again_is_said_twice():
    """An answer whose body says when to come again has the header too, also where nobody knows how long it takes."""
    error = errors.PersistenceConnectionError("down")
    response = public_answer(error)
    assert b'"retry_after_seconds":1.0' in response.body
    assert response.headers["retry-after"] == "1"
    busy = errors.TenantBusyError("busy", tenant_id="acme", action="restore", retry_after_seconds=1.5)
    assert public_answer(busy).headers["retry-after"] == "2"
