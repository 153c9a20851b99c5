"""Pages, the audit, statistics and the version."""

import sqlite3

import httpx
import pytest

from service import Service, check_problem
from tenantry import RegistryConfig, TenantRegistry
from tenantry.storage.sqlite.engine.choice import choose
from tenants import make_message


async def walk(client: httpx.AsyncClient, path: str, limit: int) -> list[list[object]]:
    """Return the pages of a list."""
    pages: list[list[object]] = []
    cursor: str | None = ""
    while cursor is not None:
        query = f"?limit={limit}" + (f"&cursor={cursor}" if cursor else "")
        response = await client.get(path + query)
        assert response.status_code == 200, response.text
        pages.append(response.json()["items"])
        cursor = response.json()["next_cursor"]
    return pages


@pytest.fixture
async def some(service: Service, admin: httpx.AsyncClient) -> None:
    """Some tenants and keys."""
    for name in ("a", "b", "c", "d", "e"):
        await admin.post("/v1/tenants", json={"id": name})
        await service.token("read")


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize("path", ["/v1/tenants", "/v1/audit", "/v1/keys"])
async def test_pages(admin: httpx.AsyncClient, path: str):
    """Together the pages are the list, in its order, whatever their size; the last one has no cursor."""
    (everything,) = await walk(admin, path, 1000)
    assert len(everything) >= 5
    for limit in (1, 2, len(everything)):
        pages = await walk(admin, path, limit)
        assert [item for page in pages for item in page] == everything
        assert {len(page) for page in pages[:-1]} <= {limit}


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize("path", ["/v1/tenants", "/v1/audit", "/v1/keys"])
async def test_cursors_that_were_tampered_with(admin: httpx.AsyncClient, path: str):
    """Another digest is refused. Another key is refused, or begins the page elsewhere; it never causes an error of the service."""
    cursor = (await admin.get(f"{path}?limit=1")).json()["next_cursor"]
    key_at = cursor.index(".") + 1
    for at, character in enumerate(cursor):
        for other in {chr(ord(character) ^ 1), "A", "=", "é", " ", "%00"} - {character}:
            params = {"limit": 1, "cursor": cursor[:at] + other + cursor[at + 1 :]}
            response = await admin.get(path, params=params)
            if at < key_at:
                check_problem(response, 400, "cursor")
            assert response.status_code in {200, 400}
    for tampered in ("", ".", cursor[key_at:], cursor[:-3], cursor + "A", cursor + "\n", cursor * 2):
        response = await admin.get(path, params={"limit": 1, "cursor": tampered})
        assert response.status_code == 400


@pytest.mark.usefixtures("some")
async def test_cursors_of_another_query(admin: httpx.AsyncClient):
    """A cursor continues the query that it came from, with its filters and in pages of any size, and no other query."""
    tenants = (await admin.get("/v1/tenants?state=active&limit=1")).json()["next_cursor"]
    for other in ("/v1/audit?", "/v1/keys?", "/v1/tenants?", "/v1/tenants?state=suspended&"):
        check_problem(await admin.get(f"{other}limit=1&cursor={tenants}"), 400, "cursor")
    reordered = await admin.get(f"/v1/tenants?limit=2&cursor={tenants}&state=active")
    assert [tenant["id"] for tenant in reordered.json()["items"]] == ["b", "c"]


@pytest.mark.usefixtures("some")
async def test_a_cursor_goes_on_in_another_process(
    service: Service, admin: httpx.AsyncClient, data_dir: object
):
    """Whoever serves the same data directory, also after a restart, takes it."""
    cursor = (await admin.get("/v1/tenants?limit=2")).json()["next_cursor"]
    await service.registry.aclose()
    assert isinstance(service.registry.config, RegistryConfig)
    async with TenantRegistry(service.registry.config) as registry, Service(registry) as again:
        client = await again.caller("read")
        page = (await client.get(f"/v1/tenants?limit=2&cursor={cursor}")).json()
    assert [tenant["id"] for tenant in page["items"]] == ["c", "d"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=1.5", "state=nonsense", "cursor=" + "x" * 5000]
)
async def test_queries_that_are_none(admin: httpx.AsyncClient, query: str):
    """422 and which part of it."""
    problem = check_problem(await admin.get(f"/v1/tenants?{query}"), 422, "invalid")
    assert problem["errors"][0]["at"] == f"query/{query.partition('=')[0]}"


@pytest.mark.usefixtures("some")
async def test_listing_by_state(admin: httpx.AsyncClient):
    """Only tenants in that state."""
    await admin.post("/v1/tenants/b/suspend")
    suspended = (await admin.get("/v1/tenants?state=suspended")).json()["items"]
    assert [tenant["id"] for tenant in suspended] == ["b"]


async def test_the_audit_names_the_key(service: Service, admin: httpx.AsyncClient):
    """Who did what, with which outcome, refusals too; and that nobody changed it since."""
    token = await service.token("operate")
    operator = await service.client(token)
    await operator.post("/v1/tenants", json={"id": "acme"})
    await operator.post("/v1/tenants", json={"id": "acme"})
    entries = (await admin.get("/v1/audit?tenant_id=acme")).json()["items"]
    assert [(entry["action"], entry["outcome"]) for entry in entries] == [
        ("create", "exists"),
        ("create", "ok"),
    ]
    assert {entry["principal"] for entry in entries} == {f"key:{token.split('_')[1]}"}
    verification = (await admin.get("/v1/audit/verification")).json()
    assert (verification["is_intact"], verification["problem"]) == (True, None)
    assert verification["rows"] == entries[0]["seq"]


async def test_statistics(service: Service, admin: httpx.AsyncClient):
    """A tenant's size, and its counters while it is open; the busiest first."""
    for name, calls in (("quiet", 1), ("busy", 5)):
        await admin.post("/v1/tenants", json={"id": name})
        for _ in range(calls):
            await service.registry.tenant(name).messages.save(make_message())
    found = (await admin.get("/v1/tenants/busy/statistics")).json()
    assert (found["is_open"], found["write"]["calls"]) == (True, 5)
    assert found["database_bytes"] > 0
    top = (await admin.get("/v1/statistics/top?limit=1")).json()["items"]
    assert [one["tenant_id"] for one in top] == ["busy"]
    await admin.post("/v1/tenants/busy/suspend")
    closed = (await admin.get("/v1/tenants/busy/statistics")).json()
    assert (closed["is_open"], closed["write"], closed["read"]) == (False, None, None)
    assert closed["database_bytes"] > 0


async def test_the_version(admin: httpx.AsyncClient, service: Service):
    """What runs, and its settings with their units; not where its data lies."""
    response = await admin.get("/v1/version")
    found = response.json()
    assert (found["backend"], found["backend_version"]) == ("sqlite", sqlite3.sqlite_version)
    assert found["backends"] == [
        {
            "name": "sqlite",
            "dialect": "sqlite",
            "version": sqlite3.sqlite_version,
            "details": {},
            "problem": None,
        }
    ]
    assert found["catalog_backend"] == "sqlite"
    choice = choose("auto")
    assert found["engine"] == {
        "name": choice.name,
        "reason": choice.reason,
        "sqlite_version": sqlite3.sqlite_version,
    }
    assert (found["settings"]["open_tenants_max"], found["settings"]["engine"]) == (4, "auto")
    assert not {"database", "databases"} & set(found["settings"])
    assert str(service.registry.config.data_dir) not in response.text
