"""A caller's right while a request waits: for its body, for its turn, for the end of a stream.

The races are no matter of time: a body's iterator is asked for its first part after the head was looked at and before the
call is made, and it revokes the key or gives the id away at that moment.
"""

import asyncio
import json
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import Request

from service import Service, check_problem, connected, ended, events, served
from tenantry import RegistryConfig, Scope, TenantRegistry
from tenantry.admin import BodyLimits
from tenantry.admin.http.auth import Principal, authenticate_by_key
from tenantry.errors import KeyRefusedError
from tenantry.events import Event, OperationStepped
from tenants import HANG_SECONDS, HandClock, as_another, make_message, query, until

GZIP = {"content-type": "application/gzip"}
# Operations whose bodies are files, and the types of these.
FILES = {"import_tenant": GZIP, "replace_file": {"content-type": "application/vnd.sqlite3"}}
# Bodies that an operation would take; every other operation takes an empty object.
BODIES: dict[str, Any] = {
    "create_tenant": {"id": "fresh"},
    "update_tenant": {"display_name": "Changed"},
    "rename_tenant": {"new_id": "fresh"},
    "clone_tenant": {"new_id": "fresh"},
    "move_tenant": {"to": "sqlite"},
    "purge_tenant": {"force": True},
    "create_key": {"scopes": ["admin"]},
    "start_job": {"kind": "check"},
}
Act = Callable[[], Awaitable[object]]


def operations(service: Service, *, has_body: bool) -> dict[str, tuple[str, str]]:
    """Return the operations that need a key, with or without a body: the method and an example of the path, by name."""
    found = {}
    for path, item in service.paths.items():
        for method, operation in item.items():
            if path.startswith("/v1/") and ("requestBody" in operation) is has_body:
                example = path.replace("{tenant_id}", "acme").replace("{snapshot_id}", "x")
                found[operation["operationId"]] = (
                    method.upper(),
                    re.sub(r"{\w+}", "0123456789abcdef", example),
                )
    return found


async def elsewhere(act: Act) -> None:
    """Act as another caller does, and not within the right of the request that waits."""

    async def run() -> None:
        await act()

    await as_another(run())


async def race(client: httpx.AsyncClient, name: str, method: str, path: str, act: Act) -> httpx.Response:
    """Call an operation, and act when its head has been looked at and its body is waited for."""
    body = b"no bundle" if name in FILES else json.dumps(BODIES.get(name, {})).encode()
    headers = FILES.get(name, {"content-type": "application/json"})

    async def content() -> AsyncIterator[bytes]:
        await elsewhere(act)
        yield body

    return await client.request(method, path, content=content(), headers=headers)


async def give_away(registry: TenantRegistry) -> str:
    """Give the id ``acme`` to the company that was called ``other`` until then, and the other way round; return its uid."""
    await registry.rename("acme", "before")
    gifted = await registry.rename("other", "acme")
    await registry.rename("before", "other")
    return gifted.uid


def everything(data_dir: Path) -> list[Any]:
    """Return all that an operation could have changed in the catalog, but for keys' times."""
    tables = ("tenants", "api_keys", "fleet_jobs")
    return [query(data_dir / "catalog.db", f"SELECT * FROM {table} ORDER BY 1") for table in tables]


async def test_a_key_that_is_revoked_while_the_body_comes(service: Service, data_dir: Path):
    """Of every operation that has a body: 401, and nothing was changed."""
    registry = service.registry
    await registry.create("acme")
    walked = operations(service, has_body=True)
    assert {"create_key", "import_tenant", "purge_tenant", "start_job", "drill_snapshots"} <= set(walked)
    for name, (method, path) in walked.items():
        made = await registry.keys.create(scopes=[Scope.ADMIN])
        client = await service.client(made.token)
        at_revocation: list[Any] = []

        async def revoke(key_id: str = made.key.id, seen: list[Any] = at_revocation) -> None:
            await registry.keys.revoke(key_id)
            seen += everything(data_dir)

        # An import has a path of its own: its tenant must not be there.
        at = path.replace("acme", "fresh") if name == "import_tenant" else path
        check_problem(await race(client, name, method, at, revoke), 401, "unauthorized")
        assert everything(data_dir) == at_revocation, name


@pytest.mark.parametrize(
    ("tenants", "status", "kind"), [(None, 404, "tenant-not-found"), (["acme"], 403, "tenant")]
)
async def test_an_id_that_is_given_away_while_the_body_comes(
    service: Service, data_dir: Path, tenants: list[str] | None, status: int, kind: str
):
    """A call on a tenant does nothing to the company that has its id by then, whatever the key is for."""
    registry = service.registry
    walked = {
        name: (method, path)
        for name, (method, path) in operations(service, has_body=True).items()
        if "/acme" in path and name != "import_tenant"
    }
    assert {"update_tenant", "rename_tenant", "clone_tenant", "suspend_tenant", "purge_tenant"} <= set(walked)
    await registry.create("acme")
    await registry.create("other")
    for name, (method, path) in walked.items():
        client = await service.caller("admin", tenants=tenants)
        at_gift: list[Any] = []

        async def give(seen: list[Any] = at_gift) -> None:
            await give_away(registry)
            seen.append(everything(data_dir))

        response = await race(client, name, method, path, give)
        if response.status_code == 202:  # it is refused where it has its turn
            operation = await ended(await service.caller("admin"), response)
            assert operation["problem"]["status"] == status, name
            continue
        check_problem(response, status, kind)
        assert [everything(data_dir)] == at_gift, name


async def test_an_import_whose_id_is_taken_while_the_bundle_comes(service: Service):
    """It is refused like one whose id was taken before, and the tenant that took it stays as it is."""
    client = await service.caller("admin", tenants=["acme"])

    async def take() -> None:
        await service.registry.create("acme", display_name="Another company")

    response = await race(client, "import_tenant", "POST", "/v1/tenants/acme/import", take)
    assert response.status_code in {409, 422}, response.text
    assert (await service.registry.get("acme")).display_name == "Another company"


class Meddler:
    """Finds out who calls, and then acts: after the key was read for the given time."""

    def __init__(self, registry: TenantRegistry) -> None:
        self._authenticate = authenticate_by_key(registry.keys)
        self.acts: list[Act | None] = []

    async def __call__(self, request: Request) -> Principal:
        """Return who makes the request."""
        principal = await self._authenticate(request)
        act = self.acts.pop(0) if self.acts else None
        if act is not None:
            await elsewhere(act)
        return principal


@pytest.mark.parametrize("reads_before", [0, 1, 2])
async def test_an_id_that_is_given_away_between_a_check_and_the_call(
    registry: TenantRegistry, data_dir: Path, reads_before: int
):
    """Whenever it comes, a key for some tenants reaches no other company, to read or to change, by any operation without a body."""
    meddler = Meddler(registry)
    await registry.create("acme")
    await registry.create("other")
    async with Service(registry, authenticate=meddler) as service:
        walked = {
            name: (method, path)
            for name, (method, path) in operations(service, has_body=False).items()
            # What changes a tenant has its turn by the third time: then nobody gives the id away.
            if "/acme" in path and (reads_before < 2 or method == "GET")
        } | {
            "list_audit": ("GET", "/v1/audit?tenant_id=acme"),
            "plan_move": ("GET", "/v1/tenants/acme/move?to=sqlite"),
            "list_statistics": ("GET", "/v1/statistics?tenant_id=acme"),
            "list_tenants": ("GET", "/v1/tenants"),
        }
        assert {"get_tenant", "export_tenant", "get_statistics", "list_snapshots"} <= set(walked)
        for name, (method, path) in walked.items():
            client = await service.caller("admin", tenants=["acme"])
            others: list[str] = []
            at_gift: list[Any] = []

            async def give(uids: list[str] = others, seen: list[Any] = at_gift) -> None:
                uids.append(await give_away(registry))
                seen.append(everything(data_dir))

            meddler.acts = [None] * reads_before + [give]
            response = await client.request(method, path)
            meddler.acts = []
            assert response.status_code < 500, (name, response.text)
            for other in others:
                assert other not in response.text, (name, response.text)
            if name == "list_tenants":
                tenant = await registry.get("other" if others else "acme")
                assert [one["uid"] for one in response.json()["items"]] == [tenant.uid]
            elif others and reads_before < 2:
                assert response.status_code in {403, 404}, (name, response.text)
            if others:
                assert [everything(data_dir)] == at_gift, name


async def test_an_operation_whose_key_is_revoked_before_its_turn(service: Service):
    """Long work that waits for other work of its tenant is not begun, and says why; what has begun is finished."""
    registry = service.registry
    await registry.create("acme")
    admin = await service.caller("admin")
    made = await registry.keys.create(scopes=[Scope.ADMIN])
    client = await service.client(made.token)
    seen: list[Event] = []
    registry.add_hook(seen.append)
    async with registry.tenant("acme").transaction():
        first = await client.post("/v1/tenants/acme/archive")
        second = await client.post("/v1/tenants/acme/repair")
        await until(lambda: any(isinstance(event, OperationStepped) for event in seen))
        await registry.keys.revoke(made.key.id)
    assert (await ended(admin, first))["state"] == "succeeded"
    operation = await ended(admin, second)
    assert (operation["state"], operation["problem"]["status"]) == ("failed", 401)


async def test_a_key_that_is_revoked_where_a_key_is_made(registry: TenantRegistry):
    """A key that is revoked, expired or for some tenants makes and revokes no key, however late that becomes known."""
    admin = await registry.keys.create(scopes=[Scope.ADMIN])
    victim = await registry.keys.create()
    some = await registry.keys.create(scopes=[Scope.ADMIN], tenants=["acme"])
    operator = await registry.keys.create(scopes=[Scope.OPERATE])
    await registry.keys.revoke(admin.key.id)
    before = await registry.keys.list()
    for made in (admin, some, operator):
        with pytest.raises(KeyRefusedError):
            await registry.keys.create(scopes=[Scope.READ], made_by=made.key)
        with pytest.raises(KeyRefusedError):
            await registry.keys.revoke(victim.key.id, revoked_by=made.key)
    assert await registry.keys.list() == before
    assert len(await registry.audit.list()) == 5


async def test_a_key_that_expires_where_a_key_is_made(data_dir: Path):
    """The moment of writing counts, not that of asking."""
    clock = HandClock()
    async with TenantRegistry(RegistryConfig(data_dir=data_dir), clock=clock) as registry:
        admin = await registry.keys.create(scopes=[Scope.ADMIN], expires_in_seconds=60)
        await registry.keys.create(made_by=admin.key)
        clock.seconds = 60
        with pytest.raises(KeyRefusedError):
            await registry.keys.create(made_by=admin.key)


async def test_a_key_that_revokes_itself(service: Service):
    """It may: that is its last act."""
    made = await service.registry.keys.create(scopes=[Scope.ADMIN])
    client = await service.client(made.token)
    assert (await client.delete(f"/v1/keys/{made.key.id}")).status_code == 200
    check_problem(await client.delete(f"/v1/keys/{made.key.id}"), 401, "unauthorized")


async def test_a_bundle_that_comes_with_a_key_that_is_revoked(service: Service, data_dir: Path):
    """The upload is refused within the interval of the watch, although its sender pauses; no tenant is made."""
    checking = Service(service.registry, authorization_seconds=0.01)
    made = await service.registry.keys.create(scopes=[Scope.ADMIN])

    head = f"POST /v1/tenants/acme/import HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {made.token}\r\n"
    async with served(checking.app) as url, asyncio.timeout(HANG_SECONDS):
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(f"{head}Content-Type: application/gzip\r\nContent-Length: 1000\r\n\r\nx".encode())
        await until(lambda: any((data_dir / "scratch").glob("*/*/bundle.tar.gz")))
        await service.registry.keys.revoke(made.key.id)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert answer.startswith(b"HTTP/1.1 401 "), answer
    assert await service.registry.find("acme") is None


async def test_a_key_that_is_revoked_while_an_export_goes_out(service: Service, data_dir: Path):
    """The answer is cut off, although its receiver takes nothing at that moment; the bundle's file is removed."""
    await service.registry.create("acme")
    for number in range(12):
        content = random.Random(number).randbytes(512 * 1024).hex()
        await service.registry.tenant("acme").messages.save(make_message(content))
    made = await service.registry.keys.create(scopes=[Scope.OPERATE])
    patient = Service(service.registry, bodies=BodyLimits(seconds_max=3600), authorization_seconds=0.01)
    async with served(patient.app) as url, asyncio.timeout(HANG_SECONDS):
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as client:
            # What the kernel buffers is less than the bundle, so the server waits for its client.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = f"GET /v1/tenants/acme/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {made.token}\r\n\r\n"
            client.sendall(head.encode())
            begun = await asyncio.get_running_loop().run_in_executor(None, client.recv, 12)
            assert begun == b"HTTP/1.1 200"
            await service.registry.keys.revoke(made.key.id)
            await until(lambda: not any((data_dir / "scratch").glob("*/*/bundle.tar.gz")))


async def test_a_stream_of_a_tenant_that_the_key_loses(service: Service):
    """A stream about an operation ends when the operation's tenant is another company's."""
    checking = Service(service.registry, authorization_seconds=0.01)
    await service.registry.create("acme")
    await service.registry.create("beta")
    admin = await service.caller("admin", app=checking.app)
    token = await service.token("read", tenants=["acme", "beta"])
    async with served(checking.app) as url, connected(url, token) as client:
        async with service.registry.tenant("acme").transaction():
            accepted = await admin.post("/v1/tenants/acme/archive")
            async with client.stream("GET", f"{accepted.headers['location']}/events") as response:
                seen = events(response)
                assert (await anext(seen))["state"] == "running"
                await service.registry.delete("beta")
                await service.registry.purge("beta", force=True)
                assert {event["state"] async for event in seen} <= {"running"}
        assert (await ended(admin, accepted))["state"] == "succeeded"
