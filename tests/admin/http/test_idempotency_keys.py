"""Idempotency-Key: the same request takes effect once, whoever sends it again hears the first answer."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request

from service import Service, check_problem, ended, files_with
from tenantry import RegistryConfig, TenantRegistry
from tenantry.admin.http.auth import Principal
from tenantry.admin.http.idempotency import renewing
from tenantry.tenancy.catalog.recorded_responses import PendingRequest, RecordedResponse
from tenants import HandClock, query, until

UNDER_WAY = RecordedResponse("the same", None, {}, b"")
ACME = {"id": "acme"}
JSON = {"content-type": "application/json"}


def keyed(key: str = "k-1") -> dict[str, str]:
    """Return the header."""
    return {"Idempotency-Key": key}


async def test_a_request_that_is_sent_again(service: Service, admin: httpx.AsyncClient):
    """The second answer is the first one, to the byte, and says that it is; nothing is done a second time."""
    first = await admin.post("/v1/tenants", json=ACME, headers=keyed())
    second = await admin.post("/v1/tenants", json=ACME, headers=keyed())
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    for name in ("content-type", "location", "etag"):
        assert first.headers[name] == second.headers[name]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert [entry.action for entry in await service.registry.audit.list()].count("create") == 1


async def test_an_operation_that_is_asked_for_again(admin: httpx.AsyncClient):
    """Whoever asks again follows the operation that was begun, and no other is."""
    await admin.post("/v1/tenants", json=ACME)
    first = await admin.post("/v1/tenants/acme/snapshots", headers=keyed())
    second = await admin.post("/v1/tenants/acme/snapshots", headers=keyed())
    operation = await ended(admin, second)
    assert operation["id"] == first.json()["id"]
    third = await admin.post("/v1/tenants/acme/snapshots", headers=keyed())
    assert third.headers["idempotency-replayed"] == "true"
    assert len((await admin.get("/v1/tenants/acme/snapshots")).json()["items"]) == 1


@pytest.mark.parametrize(("path", "body"), [("/v1/tenants", {"id": "other"}), ("/v1/tenants?x=1", ACME)])
async def test_a_key_for_another_request(admin: httpx.AsyncClient, path: str, body: dict[str, str]):
    """A key that was used for something else is refused: the caller has mixed something up."""
    await admin.post("/v1/tenants", json=ACME, headers=keyed())
    check_problem(await admin.post(path, json=body, headers=keyed()), 422, "idempotency-conflict")


async def test_a_key_with_another_condition(admin: httpx.AsyncClient):
    """What must hold is a part of the request: an answer that was given without it says nothing of it."""
    await admin.post("/v1/tenants", json=ACME)
    await admin.post("/v1/tenants/acme/suspend", headers=keyed())
    stricter = {**keyed(), "If-Match": '"1"'}
    check_problem(await admin.post("/v1/tenants/acme/suspend", headers=stricter), 422, "idempotency-conflict")


async def test_an_answer_tells_how_an_operation_ended(service: Service, admin: httpx.AsyncClient):
    """Whoever asks again later hears what came of it, also from a service that was started anew."""
    await admin.post("/v1/tenants", json=ACME)
    first = await admin.post("/v1/tenants/acme/archive", headers=keyed())
    operation = await ended(admin, first)
    await service.app.state.service.operations.aclose()
    async with Service(service.registry) as restarted:
        token = admin.headers["authorization"].removeprefix("Bearer ")
        again = await (await restarted.client(token)).post("/v1/tenants/acme/archive", headers=keyed())
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    assert again.json() == operation


async def test_while_the_first_is_under_way(service: Service, admin: httpx.AsyncClient):
    """Whoever asks again while the first request runs is told to wait; then it hears the answer."""
    await admin.post("/v1/tenants", json=ACME)
    async with service.registry.tenant("acme").transaction():  # suspending waits for it
        both = [
            asyncio.create_task(admin.post("/v1/tenants/acme/suspend", headers=keyed())) for _ in range(2)
        ]
        answered, waiting = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        problem = check_problem(answered.pop().result(), 409, "request-under-way")
        assert problem["retry_after_seconds"] == 1
    assert (await waiting.pop()).status_code == 200
    again = await admin.post("/v1/tenants/acme/suspend", headers=keyed())
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")


async def test_many_at_once(admin: httpx.AsyncClient):
    """Of many that ask at once with one key, one is heard; the others wait for it or hear what it heard."""
    await admin.post("/v1/tenants", json=ACME)
    answers = await asyncio.gather(
        *(admin.post("/v1/tenants/acme/snapshots", headers=keyed()) for _ in range(20))
    )
    assert set(Counter(answer.status_code for answer in answers)) <= {202, 409}
    begun = [answer for answer in answers if answer.status_code == 202]
    assert len({answer.json()["id"] for answer in begun}) == 1
    assert len([answer for answer in begun if "idempotency-replayed" not in answer.headers]) == 1


@pytest.mark.parametrize("refused", ["not-found", "invalid", "scope"])
async def test_what_was_refused_frees_its_key(service: Service, admin: httpx.AsyncClient, refused: str):
    """A refused request had no effect: with the same key it can be put right."""
    caller = await service.caller("operate")
    if refused == "not-found":
        check_problem(await caller.post("/v1/tenants/acme/suspend", headers=keyed()), 404, "tenant-not-found")
    elif refused == "invalid":
        check_problem(await caller.post("/v1/tenants", json={}, headers=keyed()), 422, "invalid")
    else:
        check_problem(await caller.post("/v1/keys", json={}, headers=keyed()), 403, "scope")
    assert (await caller.post("/v1/tenants", json=ACME, headers=keyed())).status_code == 201


async def test_a_secret_is_not_kept(service: Service, admin: httpx.AsyncClient, data_dir: Path):
    """The token of a key that was made is in no file, and the second answer is that it was shown."""
    first = await admin.post("/v1/keys", json={}, headers=keyed())
    token = first.json()["token"]
    check_problem(await admin.post("/v1/keys", json={}, headers=keyed()), 409, "shown-once")
    assert len(await service.registry.keys.list()) == 2
    assert files_with(data_dir, token.rpartition("_")[2]) == []


async def test_two_callers_with_the_same_key(service: Service, admin: httpx.AsyncClient):
    """One caller never hears what another one was told."""
    other = await service.caller("operate")
    await admin.post("/v1/tenants", json=ACME, headers=keyed())
    check_problem(await other.post("/v1/tenants", json=ACME, headers=keyed()), 409, "tenant-exists")


async def test_two_callers_without_api_keys(registry: TenantRegistry):
    """The same where an application of its own says who calls: its callers are told apart by their names."""

    async def by_header(request: Request) -> Principal:
        return Principal(request.headers["x-user"], None)

    async with Service(registry, authenticate=by_header) as service:
        client = await service.client()
        ada = await client.post("/v1/tenants", json=ACME, headers={**keyed(), "x-user": "ada"})
        bob = await client.post("/v1/tenants", json=ACME, headers={**keyed(), "x-user": "bob"})
    assert ada.status_code == 201
    check_problem(bob, 409, "tenant-exists")


@pytest.mark.parametrize("key", [b"", b"x" * 256, "é".encode(), b"a\tb"])
async def test_what_is_no_key(admin: httpx.AsyncClient, key: bytes):
    """It is refused, and nothing is done."""
    response = await admin.post("/v1/tenants", json=ACME, headers=[(b"Idempotency-Key", key)])
    check_problem(response, 422, "idempotency-key")
    assert (await admin.get("/v1/tenants/acme")).status_code == 404


async def test_a_request_whose_process_died(data_dir: Path):
    """Its key is not lost for a day: after a minute whoever asks again is heard."""
    clock = HandClock()
    async with (
        TenantRegistry(RegistryConfig(data_dir=data_dir), clock=clock) as registry,
        Service(registry) as service,
    ):
        made = await registry.keys.create(scopes=["operate"])
        client = await service.client(made.token)
        died = await begun(registry, made.key.id)
        clock.seconds = 59
        check_problem(
            await client.post("/v1/tenants", json=ACME, headers=keyed()), 422, "idempotency-conflict"
        )
        clock.seconds = 61
        first = await client.post("/v1/tenants", json=ACME, headers=keyed())
        assert first.status_code == 201
        # It had not died, but stood still: what it does now is nothing to whoever has the key.
        await died.renew()
        await died.forget()
        await died.record(200, {}, b"too late")
        assert (await client.post("/v1/tenants", json=ACME, headers=keyed())).content == first.content


async def test_an_operation_whose_process_died(data_dir: Path):
    """Its key is not taken for work that nobody does: after a minute whoever asks again has it done."""
    clock = HandClock()
    async with (
        TenantRegistry(RegistryConfig(data_dir=data_dir), clock=clock) as registry,
        Service(registry) as died,
        Service(registry) as restarted,
    ):
        token = await died.token("operate")
        before, after = await died.client(token), await restarted.client(token)
        await before.post("/v1/tenants", json=ACME)
        async with registry.tenant("acme").transaction():  # archiving waits for it
            first = await before.post("/v1/tenants/acme/archive", headers=keyed())
            clock.seconds = 59
            again = await after.post("/v1/tenants/acme/archive", headers=keyed())
            assert (again.status_code, again.json()) == (202, first.json())
            clock.seconds = 61
            second = await after.post("/v1/tenants/acme/archive", headers=keyed())
        assert "idempotency-replayed" not in second.headers
        assert (await ended(after, second))["state"] == "succeeded"


async def test_a_request_that_takes_very_long(data_dir: Path):
    """It keeps its key for as long as it is under way, and its answer is kept."""
    clock = HandClock()
    async with TenantRegistry(RegistryConfig(data_dir=data_dir), clock=clock) as registry:
        pending = await begun(registry, "caller")

        def renewed_at() -> str:
            ((text,),) = query(data_dir / "catalog.db", "SELECT created_at FROM idempotent_requests")
            return str(text)

        async with renewing(pending, interval_seconds=0):
            for seconds in (50, 100, 150):
                before, clock.seconds = renewed_at(), seconds
                await until(lambda before=before: renewed_at() != before)
                assert await registry.recorded_responses.begin("caller", "k-1", "the same") == UNDER_WAY
        await pending.record(201, {}, b"at last")
        assert await registry.recorded_responses.begin("caller", "k-1", "the same") == RecordedResponse(
            "the same", 201, {}, b"at last"
        )


async def begun(registry: TenantRegistry, caller: str) -> PendingRequest:
    """Return a request that has begun."""
    pending = await registry.recorded_responses.begin(caller, "k-1", "the same")
    assert isinstance(pending, PendingRequest)
    return pending


async def test_after_a_day(data_dir: Path):
    """An answer is kept for a day; then the key is free."""
    clock = HandClock()
    async with (
        TenantRegistry(RegistryConfig(data_dir=data_dir), clock=clock) as registry,
        Service(registry) as service,
    ):
        client = await service.caller("operate")
        await client.post("/v1/tenants", json=ACME, headers=keyed())
        clock.seconds = 86_399
        again = await client.post("/v1/tenants", json=ACME, headers=keyed())
        assert again.headers["idempotency-replayed"] == "true"
        clock.seconds = 86_401
        check_problem(await client.post("/v1/tenants", json=ACME, headers=keyed()), 409, "tenant-exists")


async def test_a_bundle_that_is_sent_again(admin: httpx.AsyncClient):
    """A bundle is not read into memory to be compared: its length is; and nothing of it is needed to answer again."""
    await admin.post("/v1/tenants", json=ACME)
    bundle = (await admin.get("/v1/tenants/acme/export")).content
    headers = {**keyed(), "content-type": "application/gzip"}
    first = await admin.post("/v1/tenants/copy/import", content=bundle, headers=headers)
    assert first.status_code == 201, first.text

    async def nothing() -> AsyncIterator[bytes]:
        pytest.fail("it was asked for the bundle")
        yield b""

    check_problem(
        await admin.post("/v1/tenants/other/import", content=nothing(), headers=headers),
        411,
        "length-required",
    )
    declared = {**headers, "content-length": str(len(bundle))}
    second = await admin.post("/v1/tenants/copy/import", content=nothing(), headers=declared)
    assert (second.status_code, second.content) == (201, first.content)
    check_problem(
        await admin.post("/v1/tenants/copy/import", content=bundle + b"x", headers=headers),
        422,
        "idempotency-conflict",
    )
