"""API keys: what they open and what they do not, until when, and what is kept of them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import Service, check_problem, ended, files_with
from tenantry import RegistryConfig, TenantRegistry, errors
from tenants import HandClock, query

ADMIN_ONLY = {
    "POST /v1/jobs",
    "POST /v1/jobs/{job_id}/pause",
    "POST /v1/jobs/{job_id}/resume",
    "POST /v1/jobs/{job_id}/cancel",
    "DELETE /v1/tenants/{tenant_id}",
    "POST /v1/snapshots/claim-storage",
    "POST /v1/tenants/{tenant_id}/purge",
    "POST /v1/tenants/{tenant_id}/replace-file",
    "POST /v1/tenants/{tenant_id}/rename",
    "POST /v1/tenants/{tenant_id}/undo-restore",
    "POST /v1/tenants/{tenant_id}/move",
    "DELETE /v1/tenants/{tenant_id}/snapshots/{snapshot_id}",
    "DELETE /v1/tenants/{tenant_id}/restore-points/{point}",
    "POST /v1/tenants/{tenant_id}/snapshots/{snapshot_id}/restore",
    "POST /v1/keys",
    "GET /v1/keys",
    "DELETE /v1/keys/{key_id}",
    "DELETE /v1/schemas/{name}",
}
FOR_READERS = {"GET"}
WRONG = f"tnt_{'0' * 16}_{'0' * 64}"
BODIES: dict[str, Any] = {
    "POST /v1/tenants": {"id": "acme"},
    "PATCH /v1/tenants/{tenant_id}": {},
    "POST /v1/tenants/{tenant_id}/rename": {"new_id": "other"},
    "POST /v1/tenants/{tenant_id}/clone": {"new_id": "other"},
    "POST /v1/tenants/{tenant_id}/move": {"to": "sqlite"},
    "POST /v1/keys": {},
}


def operations(service: Service) -> Iterator[tuple[str, str, str]]:
    """Yield every operation that needs a key: its name, its method, and a path of it."""
    for path, item in service.paths.items():
        for method in item:
            if path.startswith("/v1/"):
                example = path.replace("{tenant_id}", "acme").replace("{snapshot_id}", "x")
                yield (
                    f"{method.upper()} {path}",
                    method.upper(),
                    re.sub(r"{\w+}", "0123456789abcdef", example),
                )


async def call(client: httpx.AsyncClient, name: str, method: str, path: str) -> httpx.Response:
    """Call an operation with a body that it would take."""
    return await client.request(method, path, json=BODIES.get(name), headers={"accept": "*/*"})


async def test_every_operation_needs_a_key(service: Service):
    """Without one it is 401, with how to show one."""
    client = await service.client()
    names = set()
    for name, method, path in operations(service):
        response = await call(client, name, method, path)
        check_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
        names.add(name)
    assert names >= ADMIN_ONLY


async def test_every_operation_needs_a_scope(service: Service):
    """Who may read changes nothing; who may operate destroys nothing, and makes no keys."""
    reader, operator = await service.caller("read"), await service.caller("operate")
    for name, method, path in operations(service):
        if method not in FOR_READERS or name in ADMIN_ONLY:
            problem = check_problem(await call(reader, name, method, path), 403, "scope")
            assert problem["required_scope"] == ("admin" if name in ADMIN_ONLY else "operate"), name
        if name in ADMIN_ONLY:
            check_problem(await call(operator, name, method, path), 403, "scope")
    assert await service.registry.list() == ()


async def test_a_scope_includes_those_below(service: Service, admin: httpx.AsyncClient):
    """An administrator may operate and read, an operator may read."""
    operator = await service.caller("operate")
    assert (await admin.post("/v1/tenants", json={"id": "acme"})).status_code == 201
    assert (await operator.post("/v1/tenants/acme/suspend")).status_code == 200
    assert (await operator.get("/v1/tenants/acme")).status_code == 200


async def test_a_key_for_other_tenants(service: Service, admin: httpx.AsyncClient):
    """Every operation on a tenant is 403 to it, whether there is such a tenant or not."""
    other = await service.caller("admin", tenants=["other"])
    refused = []
    for is_there in (False, True):
        if is_there:
            await admin.post("/v1/tenants", json={"id": "acme"})
        for name, method, path in operations(service):
            if "{tenant_id}" in name:
                refused.append(check_problem(await call(other, name, method, path), 403, "tenant"))
    assert all(one == refused[0] for one in refused)
    assert (await admin.get("/v1/tenants/acme")).json()["state"] == "active"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/statistics/top"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/audit?tenant_id=other"),
        ("GET", "/v1/audit/verification"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/none"),
        ("GET", "/v1/jobs/none/results"),
        ("GET", "/v1/jobs/none/events"),
        ("POST", "/v1/jobs/none/pause"),
        ("POST", "/v1/jobs/none/resume"),
        ("POST", "/v1/jobs/none/cancel"),
        ("POST", "/v1/snapshots/drill"),
        ("POST", "/v1/snapshots/claim-storage"),
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
        ("DELETE", "/v1/keys/0123456789abcdef"),
    ],
)
async def test_what_concerns_all_tenants(service: Service, method: str, path: str):
    """It is not for a key that is for some."""
    some = await service.caller("admin", tenants=["acme"])
    body = {"POST": {"kind": "check"} if path == "/v1/jobs" else {}}.get(method)
    check_problem(await some.request(method, path, json=body), 403, "tenant")


async def test_a_key_for_some_tenants_makes_no_others(service: Service, admin: httpx.AsyncClient):
    """It creates, clones, imports and renames to ids that it is for, and to no others."""
    some = await service.caller("admin", tenants=["acme", "beta", "gamma"])
    assert (await some.post("/v1/tenants", json={"id": "acme"})).status_code == 201
    bundle = (await some.get("/v1/tenants/acme/export")).content
    for path, body in (
        ("/v1/tenants", {"id": "other"}),
        ("/v1/tenants/acme/clone", {"new_id": "other"}),
        ("/v1/tenants/acme/rename", {"new_id": "other"}),
    ):
        check_problem(await some.post(path, json=body), 403, "tenant")
    gzip = {"content-type": "application/gzip"}
    check_problem(await some.post("/v1/tenants/other/import", content=bundle, headers=gzip), 403, "tenant")
    await ended(some, await some.post("/v1/tenants/acme/clone", json={"new_id": "beta"}))
    assert (await some.post("/v1/tenants/gamma/import", content=bundle, headers=gzip)).status_code == 201
    assert (await some.get("/v1/audit?tenant_id=acme")).status_code == 200


async def test_a_key_follows_its_tenant(service: Service, admin: httpx.AsyncClient):
    """To its new id; whoever takes the old one is not its business, nor is a tenant that came after it was purged."""
    for name in ("acme", "other"):
        await admin.post("/v1/tenants", json={"id": name})
    some = await service.caller("admin", tenants=["acme", "early"])
    await admin.post("/v1/tenants/acme/rename", json={"new_id": "zenith"})
    await admin.post("/v1/tenants", json={"id": "acme"})
    check_problem(await some.get("/v1/tenants/acme"), 403, "tenant")
    assert (await some.get("/v1/tenants/zenith")).status_code == 200
    assert (await some.get("/v1/caller")).json()["key"]["tenants"] == ["early", "zenith"]
    await admin.delete("/v1/tenants/zenith")
    await ended(admin, await admin.post("/v1/tenants/zenith/purge", json={"force": True}))
    await admin.post("/v1/tenants", json={"id": "zenith"})
    check_problem(await some.get("/v1/tenants/zenith"), 403, "tenant")
    assert (await some.get("/v1/caller")).json()["key"]["tenants"] == ["early"]


async def test_a_key_for_an_id_that_another_tenant_comes_to_have(service: Service, admin: httpx.AsyncClient):
    """It was made for whoever is created with the id, and not for a company that takes it by a rename."""
    await admin.post("/v1/tenants", json={"id": "beta"})
    some = await service.caller("admin", tenants=["alpha", "free"])
    await admin.post("/v1/tenants/beta/rename", json={"new_id": "free"})
    check_problem(await some.get("/v1/tenants/free"), 403, "tenant")
    await admin.post("/v1/tenants/free/rename", json={"new_id": "beta"})
    assert (await some.get("/v1/caller")).json()["key"]["tenants"] == ["alpha"]


async def test_of_whom_a_tenant_was_cloned(service: Service, admin: httpx.AsyncClient):
    """Only who may see that tenant hears its name."""
    await admin.post("/v1/tenants", json={"id": "secret"})
    await ended(admin, await admin.post("/v1/tenants/secret/clone", json={"new_id": "acme"}))
    both = await service.caller("read", tenants=["acme", "secret"])
    for caller, source in (
        (admin, "secret"),
        (both, "secret"),
        (await service.caller("read", tenants=["acme"]), None),
    ):
        rows = (await caller.get("/v1/audit?tenant_id=acme")).json()["items"]
        assert [row["detail"].get("source") for row in rows if row["action"] == "clone"] == [source]


async def test_a_key_whose_only_tenant_is_purged(service: Service, admin: httpx.AsyncClient):
    """It is for none, and not for all; whoever purged it with that key still hears of it."""
    await admin.post("/v1/tenants", json={"id": "acme"})
    some = await service.caller("admin", tenants=["acme"])
    await some.delete("/v1/tenants/acme")
    purged = await ended(some, await some.post("/v1/tenants/acme/purge", json={"force": True}))
    assert purged["state"] == "succeeded"
    assert (await some.get("/v1/caller")).json()["key"]["tenants"] == []
    assert (await some.get("/v1/tenants")).json()["items"] == []
    check_problem(await some.get("/v1/statistics/top"), 403, "tenant")
    check_problem(await some.post("/v1/tenants", json={"id": "acme"}), 403, "tenant")


async def test_what_a_key_for_some_tenants_sees_of_the_audit(service: Service, admin: httpx.AsyncClient):
    """Its tenant's rows, not those of another company that had the id before; who may see all sees both."""
    await admin.post("/v1/tenants", json={"id": "acme"})
    await admin.delete("/v1/tenants/acme")
    await ended(admin, await admin.post("/v1/tenants/acme/purge", json={"force": True}))
    await admin.post("/v1/tenants", json={"id": "acme"})
    some = await service.caller("read", tenants=["acme", "none"])

    async def actions(caller: httpx.AsyncClient) -> list[str]:
        return [row["action"] for row in (await caller.get("/v1/audit?tenant_id=acme")).json()["items"]]

    assert await actions(some) == ["create"]
    assert await actions(admin) == ["create", "purge", "delete", "create"]
    await admin.post("/v1/tenants/acme/rename", json={"new_id": "zenith"})
    await admin.post("/v1/tenants/zenith/suspend")
    rows = (await some.get("/v1/audit?tenant_id=zenith")).json()["items"]
    assert [row["action"] for row in rows] == ["suspend", "rename", "create"]
    check_problem(await some.get("/v1/audit?tenant_id=none"), 404, "tenant-not-found")


async def test_the_audit_of_one_company(service: Service, admin: httpx.AsyncClient):
    """By its uid a tenant's rows are listed under all of its ids, without those of another one that has its former id."""
    uid = (await admin.post("/v1/tenants", json={"id": "acme"})).json()["uid"]
    await admin.post("/v1/tenants/acme/rename", json={"new_id": "acme2"})
    other = (await admin.post("/v1/tenants", json={"id": "acme"})).json()["uid"]

    async def actions(query: str) -> list[str]:
        return [row["action"] for row in (await admin.get(f"/v1/audit?{query}")).json()["items"]]

    assert await actions("tenant_id=acme") == ["create", "rename", "create"]
    assert await actions(f"tenant_uid={uid}") == ["rename", "create"]
    assert await actions(f"tenant_id=acme&tenant_uid={other}") == ["create"]
    check_problem(await admin.get("/v1/audit?tenant_uid=acme"), 422, "invalid")
    some = await service.caller("read", tenants=["acme"])
    assert (await some.get(f"/v1/audit?tenant_id=acme&tenant_uid={other}")).status_code == 200
    check_problem(await some.get(f"/v1/audit?tenant_id=acme&tenant_uid={uid}"), 403, "tenant")
    check_problem(await some.get(f"/v1/audit?tenant_uid={other}"), 403, "tenant")


async def test_what_a_key_for_some_tenants_lists(service: Service, admin: httpx.AsyncClient):
    """Only those, in the order of ids, in pages like everyone's."""
    for name in ("a", "b", "c", "d", "e"):
        await admin.post("/v1/tenants", json={"id": name})
    await admin.post("/v1/tenants/d/suspend")
    some = await service.caller("read", tenants=["d", "missing", "b", "e", "b"])

    async def names(query: str) -> tuple[list[str], str | None]:
        page = (await some.get(f"/v1/tenants{query}")).json()
        return [tenant["id"] for tenant in page["items"]], page["next_cursor"]

    assert await names("") == (["b", "d", "e"], None)
    assert await names("?state=suspended") == (["d"], None)
    assert await names("?id_prefix=d") == (["d"], None)
    assert await names("?id_prefix=a") == ([], None)
    first, cursor = await names("?limit=2")
    assert (first, await names(f"?limit=2&cursor={cursor}")) == (["b", "d"], (["e"], None))
    check_problem(await some.get("/v1/tenants?cursor=bogus"), 400, "cursor")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  ",
        "Basic dXNlcjpwYXNz",
        "tnt_0123456789abcdef_" + "0" * 64,
    ],
)
async def test_what_shows_no_key(service: Service, header: str):
    """It is 401, and counts as no failure."""
    client = await service.client()
    response = await client.get("/v1/tenants", headers={"Authorization": header})
    check_problem(response, 401, "unauthorized")


async def test_keys_that_are_not_good(data_dir: Path):
    """Unknown, wrong, expired and revoked keys get one and the same answer: it does not tell which ids exist."""
    clock = HandClock()
    async with (
        TenantRegistry(RegistryConfig(data_dir=data_dir), clock=clock) as registry,
        Service(registry) as service,
    ):
        good = await registry.keys.create(expires_in_seconds=60)
        revoked = await registry.keys.create()
        await registry.keys.revoke(revoked.key.id)
        caller = await service.client(good.token)
        assert (await caller.get("/v1/tenants")).status_code == 200
        clock.seconds = 60
        tokens = [
            good.token,
            revoked.token,
            WRONG,
            f"{good.token[:-1]}{'0' if good.token[-1] != '0' else '1'}",
            "tnt_",
            "x" * 1000,
            good.token.upper(),
        ]
        answers = set()
        for number, token in enumerate(tokens):
            client = await service.client(token, address=f"10.0.0.{number}")
            response = await client.get("/v1/tenants")
            check_problem(response, 401, "unauthorized")
            answers.add((response.content, response.headers["www-authenticate"]))
        assert len(answers) == 1


async def test_a_key_is_revoked_at_once(service: Service, admin: httpx.AsyncClient):
    """Its next request is refused; revoking it again changes nothing; a key that nobody has is not found."""
    made = (await admin.post("/v1/keys", json={"name": "ci", "scopes": ["read"]})).json()
    holder = await service.client(made["token"])
    assert (await holder.get("/v1/tenants")).status_code == 200
    revoked = await admin.delete(f"/v1/keys/{made['id']}")
    assert revoked.status_code == 200
    assert revoked.json()["revoked_at"] is not None
    check_problem(await holder.get("/v1/tenants"), 401, "unauthorized")
    assert (await admin.delete(f"/v1/keys/{made['id']}")).json() == revoked.json()
    check_problem(await admin.delete("/v1/keys/none"), 404, "record-not-found")


async def test_what_is_kept_of_a_key(service: Service, admin: httpx.AsyncClient, data_dir: Path):
    """The token is in one answer, which is not to be stored, and nowhere else; the audit says what the key is good for."""
    body = {"name": "ci", "scopes": ["read", "operate"], "tenants": ["b", "a", "b"], "expires_in_seconds": 60}
    response = await admin.post("/v1/keys", json=body)
    assert response.headers["cache-control"] == "no-store"
    made = response.json()
    assert re.fullmatch(r"tnt_[0-9a-f]{16}_[0-9a-f]{64}", made["token"])
    assert (made["scopes"], made["tenants"]) == (["read", "operate"], ["a", "b"])
    listed = await admin.get("/v1/keys")
    secret = made["token"].rpartition("_")[2]
    assert secret not in listed.text
    assert made["id"] in listed.text
    assert files_with(data_dir, secret) == []
    entry = (await admin.get("/v1/audit")).json()["items"][0]
    assert (entry["action"], entry["detail"]["tenants"]) == ("key.create", ["a", "b"])
    assert entry["detail"]["expires_at"] == made["expires_at"]


@pytest.mark.parametrize(
    "body",
    [
        {"scopes": []},
        {"scopes": ["root"]},
        {"tenants": []},
        {"tenants": ["../x"]},
        {"expires_in_seconds": 0},
        {"expires_in_seconds": -1},
        {"expires_in_seconds": 1e300},
        {"name": "x" * 201},
        {"name": "a\x00b"},
        {"token": "mine"},
    ],
)
async def test_what_no_key_is_made_of(admin: httpx.AsyncClient, body: dict[str, Any]):
    """It is refused, and no key is made."""
    check_problem(await admin.post("/v1/keys", json=body), 422, "invalid")
    assert len((await admin.get("/v1/keys")).json()["items"]) == 1


@pytest.mark.parametrize(
    "options", [{"name": "\ud800"}, {"tenants": []}, {"scopes": []}, {"expires_in_seconds": float("nan")}]
)
async def test_what_the_registry_makes_no_key_of(registry: TenantRegistry, options: dict[str, Any]):
    """The same is refused to who calls the registry itself."""
    with pytest.raises(errors.QueryError):
        await registry.keys.create(**options)


async def test_a_key_of_a_newer_tenantry(registry: TenantRegistry, data_dir: Path):
    """A key whose scope is not known here opens nothing, and is an error that says so."""
    made = await registry.keys.create()
    query(data_dir / "catalog.db", "UPDATE api_keys SET scopes = '[\"everything\"]'")
    with pytest.raises(errors.MalformedRowError, match=made.key.id):
        await registry.keys.authenticate(made.token)


async def test_wrong_keys_are_not_counted(service: Service):
    """However many wrong keys come from an address, each gets 401, and a valid key from there is accepted."""
    wrong = await service.client(WRONG, address="10.0.0.1")
    for _ in range(20):
        check_problem(await wrong.get("/v1/tenants"), 401, "unauthorized")
    good = await service.client(await service.token("read"), address="10.0.0.1")
    assert (await good.get("/v1/tenants")).status_code == 200
