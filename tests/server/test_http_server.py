"""The HTTP server: what uvicorn leaves to others."""

import asyncio
import contextlib
import json
import socket

import pytest
from starlette.types import Receive, Scope, Send

from http_servers import GET, LARGE_BYTES, LAST_GET, POST, Running, answer_much, answer_ok, running
from tenantry.server.http_server import SOCKET_UNSENT_BYTES_MAX, bound
from tenantry.server.limits import ServerLimits
from tenantry.server.settings import Endpoint, Tls
from tenants import HANG_SECONDS, until


def problem_in(answer: bytes, status: int, kind: str) -> dict[str, str]:
    """Check that an answer is this problem, and return its headers."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in rest)
    assert first.startswith(f"http/1.1 {status} ")
    assert headers["content-type"] == "application/problem+json"
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert json.loads(body)["type"] == f"urn:tenantry:problem:{kind}"
    assert json.loads(body)["status"] == status
    return headers


async def is_ended(server: Running) -> None:
    """Connect, and wait until the server ends the connection."""
    with contextlib.suppress(ConnectionResetError):
        reader, _ = await server.connect()
        assert await reader.read() == b""


@pytest.mark.parametrize("first", [b"", GET, POST + b"x" * 50])
async def test_a_client_that_never_ends_its_head(first: bytes):
    """Whoever sends a head bit by bit is hung up on, also after a first good request."""
    limits = ServerLimits(head_seconds_max=0.05)
    async with running(answer_ok, limits=limits) as server:
        reader, writer = await server.connect(first)
        if first:
            await reader.readuntil(b"ok")
        writer.write(b"GET / HTTP/1.1\r\nX-Slow")
        assert await reader.read() == b""  # ends when the server hangs up


@pytest.mark.parametrize("first", [GET, POST + b"x" * 50])
async def test_a_client_between_two_requests(first: bytes):
    """It has more time than a head, which whoever has just come must send."""
    limits = ServerLimits(head_seconds_max=0.05, idle_seconds_max=HANG_SECONDS)
    async with running(answer_ok, limits=limits) as server:
        reader, writer = await server.connect(first)
        await reader.readuntil(b"ok")
        fresh, _ = await server.connect()
        assert await fresh.read() == b""
        writer.write(first)
        await reader.readuntil(b"ok")


@pytest.mark.parametrize("first", [GET, POST + b"x" * 50, POST])
async def test_a_client_that_never_comes_back(first: bytes):
    """It is hung up on, whether its body was there when it was answered or came later."""
    limits = ServerLimits(idle_seconds_max=0.05)
    async with running(answer_ok, limits=limits) as server:
        reader, writer = await server.connect(first)
        await reader.readuntil(b"ok")
        if first == POST:
            writer.write(b"x" * 50)
        assert await reader.read() == b""


async def test_a_body_that_was_answered_and_does_not_end():
    """It does not go on for good, though it always moves."""
    limits = ServerLimits(head_seconds_max=0.05)
    async with running(answer_ok, limits=limits) as server:
        reader, writer = await server.connect(POST.replace(b"50", b"%d" % 2**40))
        await reader.readuntil(b"ok")
        while server.connections:
            writer.write(b"x")
            await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def test_a_body_that_was_answered_and_moves():
    """A slow client may send all of it, and then hear why it was refused."""
    async with running(answer_ok) as server:
        reader, writer = await server.connect(POST.replace(b"50", b"%d" % LARGE_BYTES))
        await reader.readuntil(b"ok")
        for _ in range(100):
            writer.write(b"x")
            await asyncio.sleep(0)
        writer.write(b"x" * (LARGE_BYTES - 100) + GET)
        await reader.readuntil(b"ok")


async def test_a_body_that_was_answered_and_ends():
    """A client that sends the rest of it can go on with its next request."""
    async with running(answer_ok) as server:
        reader, writer = await server.connect(POST)
        await reader.readuntil(b"ok")
        writer.write(b"x" * 50 + GET)
        await reader.readuntil(b"ok")
        assert server.connections == 1


async def test_who_is_refused_while_it_sends_hears_why():
    """A client in the middle of a large body is not cut off before it has read the answer."""
    async with running(answer_ok) as server:
        reader, writer = await server.connect(POST.replace(b"50", str(LARGE_BYTES).encode()))
        writer.write(b"x" * LARGE_BYTES)
        await writer.drain()
        await reader.readuntil(b"ok")
        writer.write(GET)
        await reader.readuntil(b"ok")


@pytest.mark.parametrize(
    "body",
    [b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", POST],
)
async def test_a_body_that_is_nonsense_after_its_answer(caplog: pytest.LogCaptureFixture, body: bytes):
    """The server hangs up, and nothing has failed."""
    limits = ServerLimits(head_seconds_max=0.05)
    async with running(answer_ok, limits=limits) as server:
        reader, writer = await server.connect(body)
        await reader.readuntil(b"ok")
        writer.write(b"nonsense\r\n")
        assert await reader.read() == b""
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.parametrize("head", [GET * 50, GET.replace(b"Host", b"Connection: close\r\nHost")])
async def test_a_client_that_reads_nothing(tls: Tls, head: bytes, *, is_encrypted: bool):
    """Whoever asks and does not take the answer is cut off, also when the server has nothing more to say."""
    async with running(answer_much, tls if is_encrypted else None, unreceived_seconds_max=0.05) as server:
        _, writer = await server.connect()
        assert isinstance(writer.transport, asyncio.ReadTransport)
        writer.transport.pause_reading()
        writer.write(head)
        await until(lambda: server.connections == 1)
        await until(lambda: server.connections == 0)


@pytest.mark.parametrize(
    ("host", "is_encrypted"), [("127.0.0.1", False), ("127.0.0.1", True), ("::1", False)]
)
async def test_a_response_that_takes_long(tls: Tls, host: str, *, is_encrypted: bool):
    """The limits are the client's: a request may be handled for longer than its head or an idle connection may take."""
    limits = ServerLimits(head_seconds_max=0.1, idle_seconds_max=0.1)

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.25)
        await answer_ok(scope, receive, send)

    async with running(work, tls if is_encrypted else None, host=host, limits=limits) as server:
        reader, _ = await server.connect(GET)
        await reader.readuntil(b"ok")
        assert await reader.read() == b""


async def test_a_stream_that_is_read():
    """However little it says, it goes on for as long as its client takes it."""
    let_go = asyncio.Event()

    async def say_little(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20):
            await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
            await asyncio.sleep(0.01)
        await let_go.wait()
        await send({"type": "http.response.body", "body": b"data: last\n\n"})

    async with running(say_little, unreceived_seconds_max=0.01) as server:
        reader, _ = await server.connect(GET)
        for _ in range(20):
            await reader.readuntil(b"data: x")
        let_go.set()
        await reader.readuntil(b"data: last")


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_one_client_has_a_share(tls: Tls, *, is_encrypted: bool):
    """Beyond it its connections are ended at once; one that ends makes room."""
    limits = ServerLimits(connections_per_client_max=2)
    async with running(answer_ok, tls if is_encrypted else None, limits=limits) as server:
        first, _ = await server.connect(GET)
        await first.readuntil(b"ok")
        _, second = await server.connect()
        await until(lambda: server.connections == 2)
        await is_ended(server)
        assert server.connections == 2
        second.close()
        await until(lambda: server.connections == 1)
        third, _ = await server.connect(GET)
        await third.readuntil(b"ok")


async def test_clients_behind_a_proxy_have_no_shares():
    """All come from its address: only the limit of all connections holds."""
    limits = ServerLimits(connections_max=2, connections_per_client_max=1)
    async with running(answer_ok, is_behind_proxy=True, limits=limits) as server:
        for _ in range(2):
            reader, _ = await server.connect(GET)
            await reader.readuntil(b"ok")
        await is_ended(server)


async def test_too_many_requests():
    """Requests that are worked on are counted, also when their clients have gone; more are refused with a problem."""
    let_go, is_begun = asyncio.Event(), asyncio.Event()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            is_begun.set()
            await let_go.wait()
        await answer_ok(scope, receive, send)

    async with running(work, limits=ServerLimits(requests_max=1)) as server:
        _, gone = await server.connect(GET)
        await is_begun.wait()
        gone.close()
        await until(lambda: server.connections == 0)
        refused, _ = await server.connect(GET.replace(b"Host", b"Connection: close\r\nHost"))
        assert problem_in(await refused.read(), 503, "too-many-requests")["retry-after"] == "5"
        let_go.set()


async def test_a_request_that_the_end_cuts_off(caplog: pytest.LogCaptureFixture):
    """It is told that the service stops, and the log has no stack trace of it."""
    is_begun = asyncio.Event()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            is_begun.set()
            await asyncio.Event().wait()

    async with running(work) as server:
        reader, _ = await server.connect(GET)
        await is_begun.wait()
        server.server.stop(is_urgent=False)
        assert problem_in(await reader.read(), 503, "stopping")["retry-after"] == "5"
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("request_bytes", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_bytes_that_are_not_a_request(request_bytes: bytes, caplog: pytest.LogCaptureFixture):
    """The response is 400, and the connection ends; nobody can fill the log with it."""
    async with running(answer_ok) as server:
        reader, _ = await server.connect(request_bytes)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    assert caplog.records == []


async def test_nobody_takes_a_connection_over(caplog: pytest.LogCaptureFixture):
    """Who asks for another protocol is answered in this one, and the connection goes on."""
    upgrade = GET.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: websocket\r\nHost")
    async with running(answer_ok) as server:
        reader, writer = await server.connect(upgrade)
        for _ in range(2):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
            writer.write(upgrade)
    assert caplog.records == []


def test_the_kernel_takes_little_ahead():
    """A connection's buffer says that there is room while a slow client still reads, and not only after megabytes."""
    with bound(Endpoint("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert (
                accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == SOCKET_UNSENT_BYTES_MAX
            )


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_an_idle_client_does_not_delay_the_stop(
    caplog: pytest.LogCaptureFixture, tls: Tls, *, is_encrypted: bool
):
    """A server that stops ends the connection, also if the client does not end TLS."""
    limits = ServerLimits(end_seconds_max=0.01)
    async with running(answer_ok, tls if is_encrypted else None, limits=limits) as server:
        reader, writer = await server.connect(GET)
        await reader.readuntil(b"ok")
        assert isinstance(writer.transport, asyncio.ReadTransport)
        writer.transport.pause_reading()
        server.server.stop(is_urgent=False)
        await until(lambda: server.connections == 0)
    assert caplog.records == []


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_the_rest_of_a_response_is_sent(tls: Tls, *, is_encrypted: bool):
    """A slow client receives the whole response, although the server closed the connection when it wrote the end."""
    async with running(answer_much, tls if is_encrypted else None) as server:
        reader, _ = await server.connect(LAST_GET)
        assert (await reader.read()).endswith(b"\r\n\r\n" + b"x" * LARGE_BYTES)
        await until(lambda: server.connections == 0)


async def test_a_stop_while_a_client_connects():
    """A connection that is made when the server stops already is ended."""
    async with running(answer_ok) as server:
        await server.connect(GET)
        await until(lambda: server.connections == 1)
        server.server.stop(is_urgent=False)
        await is_ended(server)
