"""What callers without a good key may cost: a rate for each client, a document and an exposition that are made once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service import Service, check_problem
from tenantry import TenantRegistry
from tenantry.admin import StrangerRate
from tenantry.admin.http.strangers import STRANGER_RATE, Strangers, Turns
from tenantry.admin.openapi.route import make_document_route
from tenants import HANG_SECONDS, HandClock, make_message

CODINGS = [("gzip, deflate", "gzip"), ("identity", None), ("gzip;q=0", None), ("br, gzip;q=0.5", "gzip")]
ADDRESS, ANOTHER = "192.0.2.1", "192.0.2.2"


def test_turns_come_at_their_rate():
    """A burst is answered at once, then each request waits for its turn. A turn too far ahead is refused. Each client has its own turns."""
    clock = HandClock()
    turns = Turns(StrangerRate(requests_per_second=2, burst_requests_max=3, wait_seconds_max=1), clock)
    assert [turns.take(ADDRESS) for _ in range(7)] == [0, 0, 0, 0.5, 1, None, None]
    assert turns.take(ANOTHER) == 0
    clock.seconds = 1
    assert [turns.take(ADDRESS) for _ in range(3)] == [0.5, 1, None]
    clock.seconds = 100
    assert [turns.take(ADDRESS) for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_page_of_the_console_and_a_scrape_are_within_the_rate():
    """A burst of a page's files and a scrape of each second never wait."""
    clock = HandClock()
    turns = Turns(STRANGER_RATE, clock)
    for second in range(100):
        clock.seconds = second
        assert [turns.take(ADDRESS) for _ in range(40)] == [0] * 40


@pytest.fixture
async def strict(registry: TenantRegistry) -> AsyncIterator[Service]:
    """An API where a client without a key may ask three times."""
    rate = StrangerRate(requests_per_second=0.001, burst_requests_max=3, wait_seconds_max=0.01)
    async with Service(registry, strangers=rate) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/metrics", "/openapi.json", "/console/", "/v1/tenants", "/no"]
)
async def test_who_shows_no_key_has_a_rate(strict: Service, path: str):
    """Whatever a client without a key asks for counts; beyond the rate it is told to come later, and other addresses are not."""
    client = await strict.client(address=ADDRESS)
    statuses = [(await client.get(path)).status_code for _ in range(3)]
    assert 429 not in statuses
    refused = check_problem(await client.get(path), 429, "too-many-requests")
    assert refused["retry_after_seconds"] == 1
    another = await strict.client(address=ANOTHER)
    assert (await another.get("/healthz")).status_code == 200


async def test_a_wrong_key_is_no_way_around_it(strict: Service):
    """Answers to a wrong key count for its client's rate, also where no key is asked for."""
    wrong = await strict.client("wrong", address=ADDRESS)
    assert [(await wrong.get("/v1/tenants")).status_code for _ in range(2)] == [401, 401]
    assert (await wrong.get("/openapi.json")).status_code == 200
    anyone = await strict.client(address=ADDRESS)
    check_problem(await anyone.get("/openapi.json"), 429, "too-many-requests")


async def test_an_address_is_a_network_in_ipv6(strict: Service):
    """All addresses of an IPv6 /64 network have one rate. A mapped IPv4 address has that address's rate."""
    for address, same, other in [
        ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"),
        ("::ffff:10.0.0.1", "10.0.0.1", "::ffff:10.0.0.2"),
        ("::1", "::1", "127.0.0.1"),
    ]:
        client = await strict.client(address=address)
        while (await client.get("/")).status_code != 429:
            pass
        check_problem(await (await strict.client(address=same)).get("/"), 429, "too-many-requests")
        assert (await (await strict.client(address=other)).get("/")).status_code == 200


async def test_probes_are_answered_where_others_use_up_the_rate(strict: Service):
    """A kubelet that has the address of other clients is answered, whatever they ask for, and so is a Prometheus."""
    anyone = await strict.client(address=ADDRESS)
    for path in ("/openapi.json", "/metrics", "/readyz", "/healthz"):
        assert (await anyone.get(path)).status_code == 200
        while (await anyone.get(path)).status_code != 429:
            pass


async def test_a_good_key_has_no_such_rate(strict: Service):
    """Who shows a good key is answered, also from an address whose rate is used up."""
    anyone = await strict.client(address=ADDRESS)
    while (await anyone.get("/healthz")).status_code != 429:
        pass
    operator = await strict.client(await strict.token("read"), address=ADDRESS)
    for _ in range(10):
        assert (await operator.get("/v1/tenants")).status_code == 200


async def asking(client: httpx.AsyncClient, path: str, answers: list[int]) -> None:
    """Ask without a pause, and note the answers' statuses."""
    while True:
        answers.append((await client.get(path)).status_code)


async def test_who_asks_without_a_pause_does_not_slow_calls(service: Service):
    """Eight clients of an address that ask without a pause get as many answers as the rate allows, however long calls go on."""
    rate = StrangerRate(requests_per_second=0.001, burst_requests_max=3, wait_seconds_max=HANG_SECONDS)
    client = await service.client(address=ADDRESS, app=Strangers(service.app, rate, HandClock()))
    await service.registry.create("acme")
    answers: list[int] = []
    tasks = [asyncio.create_task(asking(client, "/metrics", answers)) for _ in range(8)]
    for _ in range(100):
        await service.registry.tenant("acme").messages.save(make_message())
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert answers == [200] * 3


async def test_a_probe_has_its_turn_among_those_who_ask_without_a_pause(service: Service):
    """A probe is answered though eight others of its address ask without a pause."""
    rate = StrangerRate(requests_per_second=200, burst_requests_max=1, wait_seconds_max=HANG_SECONDS)
    client = await service.client(address=ADDRESS, app=Strangers(service.app, rate))
    answers: list[int] = []
    tasks = [asyncio.create_task(asking(client, "/healthz", answers)) for _ in range(8)]
    for _ in range(3):
        assert (await client.get("/readyz")).status_code == 200
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert set(answers) == {200}


DOCUMENT: dict[str, Any] = {"openapi": "3.1.0", "info": {"title": "ä"}}


async def test_the_document_is_made_once():
    """However many ask for the document, it is made once; a client that takes gzip gets the same, compressed."""
    made: list[dict[str, Any]] = []

    def make() -> dict[str, Any]:
        made.append(DOCUMENT)
        return DOCUMENT

    app = FastAPI(openapi_url=None)
    app.include_router(make_document_route(make))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        for accepted, coding in CODINGS:
            asked = [client.get("/openapi.json", headers={"Accept-Encoding": accepted}) for _ in range(10)]
            for answer in await asyncio.gather(*asked):
                assert answer.json() == DOCUMENT
                assert answer.headers.get("content-encoding") == coding
                assert answer.headers["vary"] == "Accept-Encoding"
    assert made == [DOCUMENT]
