"""Whom the API answers: requests that are addressed to it, and whose end is in one place only."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from service import Service, check_problem, served
from tenantry import TenantRegistry

NAMES = ("tenantry.example", "*.internal.example")
ALLOWED = [
    "127.0.0.1",
    "127.0.0.1:8321",
    "10.1.2.3:8321",
    "[::1]",
    "[::1]:8321",
    "[fe80::1%25eth0]:8321",
    "localhost",
    "LocalHost:8321",
    "tenantry.example",
    "Tenantry.Example.:8321",
    "a.internal.example",
    "b.a.internal.example:1",
]
REFUSED = [
    "evil.example",
    "evil.example:8321",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "tenantry.example.evil.example",
    "nottenantry.example",
    "internal.example",
    "evilinternal.example",
    "[::1].evil.example",
    "",
]


@pytest.fixture
async def checking(registry: TenantRegistry) -> AsyncIterator[Service]:
    """An API that answers to some names."""
    async with Service(registry, allowed_hosts=NAMES) as running:
        yield running


@pytest.mark.parametrize("host", ALLOWED)
async def test_addresses_and_given_names_are_answered(checking: Service, host: str):
    """An IP address, as of a probe, ``localhost`` and the given names are answered, with any port and in any case."""
    client = await checking.client()
    assert (await client.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", REFUSED)
@pytest.mark.parametrize("path", ["/metrics", "/console/", "/v1/tenants", "/openapi.json", "/nothing"])
async def test_other_names_are_refused(checking: Service, path: str, host: str):
    """A page whose name was made to lead here reads nothing, whatever it asks for."""
    response = await (await checking.caller("admin")).get(path, headers={"Host": host})
    assert "--allowed-host" in check_problem(response, 421, "misdirected-request")["detail"]
    assert (response.headers["cache-control"], response.headers["connection"]) == ("no-store", "close")


async def test_every_name_may_be_allowed(registry: TenantRegistry):
    """``*`` allows all names."""
    async with Service(registry, allowed_hosts=["*"]) as running:
        client = await running.client()
        assert (await client.get("/healthz", headers={"Host": "any.example"})).status_code == 200


async def test_a_mounted_api_answers_to_the_names_of_its_application(service: Service):
    """Without names of its own the API answers to all of them."""
    client = await service.client()
    assert (await client.get("/healthz", headers={"Host": "any.example"})).status_code == 200


async def raw(url: str, sent: bytes) -> bytes:
    """Send bytes to a server, and return all that it answers until it hangs up."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(sent)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_request_without_a_host_is_answered(checking: Service):
    """A balancer that probes with HTTP/1.0 names no host."""
    async with served(checking.app) as url:
        assert (await raw(url, b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_two_lengths_of_a_body(service: Service):
    """A body with two lengths is refused, and what follows it on the connection is not taken for a request."""
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    head = (
        b"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
        % (5 + len(smuggled))
    )
    async with served(service.app) as url:
        answer = await raw(url, head + b"0\r\n\r\n" + smuggled)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"urn:tenantry:problem:malformed-request" in answer


async def test_one_length_of_a_body(service: Service):
    """A body with either of the two is taken."""
    client = await service.caller("admin")

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"id": "acme"}'

    sent = {"Content-Type": "application/json"}
    assert (await client.post("/v1/tenants", content=chunks(), headers=sent)).status_code == 201
    created = await client.post("/v1/tenants", json={"id": "globex"})
    assert created.status_code == 201
