"""Bodies that are too large, too slow, cut short, or of another type."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from starlette.requests import Request
from starlette.types import Receive

from service import Service, check_problem, served
from tenantry.admin.http.bodies import BodyLimits, LimitedReceive
from tenantry.admin.http.problems import ProblemError
from tenants import HANG_SECONDS, in_virtual_time

BUNDLE = {"content-type": "application/gzip"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/xml", "application/x-www-form-urlencoded", "nonsense"]
)
async def test_a_body_of_another_type(admin: httpx.AsyncClient, content_type: str | None):
    """Where JSON is expected, something else is 415, also where a body may be left out."""
    headers = {} if content_type is None else {"content-type": content_type}
    for path in ("/v1/tenants", "/v1/tenants/acme/suspend"):
        response = await admin.post(path, content=b'{"id": "acme"}', headers=headers)
        check_problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/merge-patch+json"]
)
async def test_json_by_its_other_names(admin: httpx.AsyncClient, content_type: str):
    """Upper case, parameters and types that end in +json are JSON."""
    response = await admin.post(
        "/v1/tenants", content=b'{"id": "acme"}', headers={"content-type": content_type}
    )
    assert response.status_code == 201, response.text


async def test_no_body_where_one_is_needed(admin: httpx.AsyncClient):
    """422, like any other field that is missing."""
    check_problem(await admin.post("/v1/tenants"), 422, "invalid")


async def parts(count: int, size: int) -> AsyncIterator[bytes]:
    """Send a body whose size is not told beforehand."""
    for _ in range(count):
        yield b"x" * size


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize(
    ("path", "headers", "limit"),
    [
        ("/v1/tenants", JSON, 1000),
        ("/v1/tenants/acme/import", BUNDLE, 2000),
        ("/v1/tenants", {**JSON, "idempotency-key": "k"}, 1000),
    ],
)
async def test_a_body_that_is_too_large(
    service: Service, path: str, headers: dict[str, str], limit: int, *, is_declared: bool
):
    """413, by what it says of itself or by what comes; the limit of bundles is another one."""
    limits = BodyLimits(bytes_max=1000, bundle_bytes_max=2000)
    small = Service(service.registry, bodies=limits)
    client = await service.client(await service.token("admin"), app=small.app)
    content = b"x" * (limit + 1) if is_declared else parts(11, limit // 10)
    problem = check_problem(
        await client.post(path, content=content, headers=headers), 413, "content-too-large"
    )
    assert problem["limit_value"] == limit
    assert await service.registry.find("acme") is None


async def test_a_body_at_the_limit(service: Service):
    """The last byte that is allowed is allowed."""
    content = b'{"id": "acme"}'
    small = Service(service.registry, bodies=BodyLimits(bytes_max=len(content)))
    client = await service.client(await service.token("admin"), app=small.app)
    assert (await client.post("/v1/tenants", content=content, headers=JSON)).status_code == 201


async def test_a_length_that_is_no_length(service: Service):
    """More digits than a number may have are too large, and no failure."""
    client = await service.caller("admin")
    headers = {**JSON, "content-length": "9" * 6000}
    check_problem(await client.post("/v1/tenants", content=b"{}", headers=headers), 413, "content-too-large")


def limited(receive: Receive, *, is_streamed: bool = False) -> LimitedReceive:
    """Return a receiver with a limit of 1,000 bytes and 30 seconds."""

    async def allow() -> None:
        """Let every complete body be handled."""

    limits = BodyLimits(bytes_max=1000, bundle_bytes_max=1000, seconds_max=30)
    request = Request({"type": "http", "headers": []}, receive)
    return LimitedReceive(request, limits, is_streamed=is_streamed, on_complete=allow)


async def receive_parts(receive: LimitedReceive, count: int) -> None:
    """Receive so many parts of a body."""
    for _ in range(count):
        await receive()


@in_virtual_time
async def test_a_body_that_trickles():
    """A body has a time for all of its parts together; one that is streamed has it for each part."""

    async def trickle() -> dict[str, object]:
        await anyio.sleep(9)
        return {"type": "http.request", "body": b"x", "more_body": True}

    whole = limited(trickle)
    await receive_parts(whole, 3)
    with pytest.raises(ProblemError) as refused:
        await whole()
    assert refused.value.status_code == 408
    assert anyio.current_time() == 30

    await receive_parts(limited(trickle, is_streamed=True), 50)


@in_virtual_time
async def test_a_pause_in_a_stream():
    """However much came before: nobody waits for ever."""

    async def receive() -> dict[str, object]:
        if anyio.current_time() > 0:
            await anyio.sleep_forever()
        await anyio.sleep(1)
        return {"type": "http.request", "body": bytes(1000), "more_body": True}

    paused = limited(receive, is_streamed=True)
    await paused()
    with pytest.raises(ProblemError) as refused:
        await paused()
    assert refused.value.status_code == 408
    assert anyio.current_time() == 1 + 30


@in_virtual_time
async def test_waiting_for_the_client_to_go_has_no_limit():
    """Once the body is there, what is received next is that the client has gone: an answer may take longer than a body."""
    messages: list[tuple[float, dict[str, object]]] = [
        (1, {"type": "http.request", "body": b"x"}),
        (1000, {"type": "http.disconnect"}),
    ]

    async def receive() -> dict[str, object]:
        seconds, message = messages.pop(0)
        await anyio.sleep(seconds)
        return message

    receiver = limited(receive)
    assert (await receiver())["type"] == "http.request"
    assert (await receiver())["type"] == "http.disconnect"


async def raw_request(url: str, head: str, token: str, body: bytes = b"", *, is_cut: bool = False) -> bytes:
    """Send a request byte by byte as it is given, and return all that comes back."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"{head}\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode() + body)
    try:
        if is_cut:
            writer.write_eof()
        async with asyncio.timeout(HANG_SECONDS):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        "POST /v1/tenants HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 50",
        "POST /v1/tenants HTTP/1.1\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\nContent-Length: 50",
        "POST /v1/tenants/acme/import HTTP/1.1\r\nContent-Type: application/gzip\r\nTransfer-Encoding: chunked",
    ],
)
async def test_a_body_that_stops_coming(service: Service, head: str):
    """The server answers 408 and ends the connection."""
    hasty = Service(service.registry, bodies=BodyLimits(seconds_max=0.05))
    async with served(hasty.app) as url:
        answer = await raw_request(url, head, await service.token("admin"), b'5\r\n{"id"\r\n')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:tenantry:problem:request-timeout" in answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    "head",
    [
        "POST /v1/tenants HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 50",
        "POST /v1/tenants HTTP/1.1\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\nContent-Length: 50",
        "POST /v1/tenants/acme/import HTTP/1.1\r\nContent-Type: application/gzip\r\nContent-Length: 5000",
    ],
)
async def test_a_body_that_is_cut_short(
    service: Service, head: str, caplog: pytest.LogCaptureFixture, data_dir: object
):
    """A client that goes away in the middle of its body creates nothing, and is no failure that anybody reads of."""
    async with served(service.app) as url:
        await raw_request(url, head, await service.token("admin"), b'{"id": "acme"', is_cut=True)
        async with httpx.AsyncClient(base_url=url, timeout=HANG_SECONDS) as other:
            assert (await other.get("/healthz")).status_code == 200
    assert await service.registry.find("acme") is None
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


async def test_headers_that_are_too_large(service: Service):
    """The server refuses them itself, and goes on."""
    async with served(service.app) as url:
        with contextlib.suppress(ConnectionResetError):  # it does not read to the end
            answer = await raw_request(url, f"GET /v1/tenants HTTP/1.1\r\nX-Large: {'x' * 2**20}", "x")
            assert answer.startswith(b"HTTP/1.1 400 ")
        async with httpx.AsyncClient(base_url=url, timeout=HANG_SECONDS) as other:
            assert (await other.get("/healthz")).status_code == 200


async def test_a_key_that_is_too_large(service: Service):
    """A token of half a megabyte is a wrong one like any other."""
    client = await service.client("tnt_" + "x" * 500_000)
    check_problem(await client.get("/v1/tenants"), 401, "unauthorized")
