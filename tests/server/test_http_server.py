"""The HTTP server's limits on slow, silent and greedy clients, and how it stops."""

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


def problem_in(response: bytes, status: int, kind: str) -> dict[str, str]:
    """Check that a response is this problem, and return its headers."""
    head, _, body = response.partition(b"\r\n\r\n")
    first, *rest = head.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in rest)
    assert first.startswith(f"http/1.1 {status} ")
    assert headers["content-type"] == "application/problem+json"
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert json.loads(body)["type"] == f"urn:tenantry:problem:{kind}"
    assert json.loads(body)["status"] == status
    return headers


SHORT_SECONDS = 0.3
"""How long a client may be silent. A busy machine does not take so long for what a client sends at once."""

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def check_refuses(server: Running) -> None:
    """Check that the server ends a new connection."""
    with contextlib.suppress(ConnectionError):
        reader, _ = await server.connect()
        assert await reader.read() == b""


@pytest.mark.parametrize("first", [b"", GET, POST + b"x" * 50])
async def test_a_client_that_does_not_finish_a_head(first: bytes):
    """The server closes the connection of a client that does not finish a request's head: the first one or a later one."""
    limits = ServerLimits(head_seconds_max=SHORT_SECONDS)
    async with running(answer_ok, limits=limits) as server:
        reader, writer = await server.connect(first)
        if first:
            await reader.readuntil(b"ok")
        writer.write(b"GET / HTTP/1.1\r\nX-Slow")
        assert await reader.read() == b""


@pytest.mark.parametrize("first", [GET, POST + b"x" * 50])
async def test_a_client_between_two_requests(first: bytes):
    """An idle client has more time after a response than a new client has for its first request."""
    limits = ServerLimits(head_seconds_max=SHORT_SECONDS, idle_seconds_max=HANG_SECONDS)
    async with running(answer_ok, limits=limits) as server:
        reader, writer = await server.connect(first)
        await reader.readuntil(b"ok")
        fresh, _ = await server.connect()
        assert await fresh.read() == b""
        writer.write(first)
        await reader.readuntil(b"ok")


@pytest.mark.parametrize("first", [GET, POST + b"x" * 50, POST])
async def test_a_client_that_stays_idle(first: bytes):
    """The server closes an idle connection, also if the rest of a body arrived after the response."""
    limits = ServerLimits(idle_seconds_max=SHORT_SECONDS)
    async with running(answer_ok, limits=limits) as server:
        reader, writer = await server.connect(first)
        await reader.readuntil(b"ok")
        if first == POST:
            writer.write(b"x" * 50)
        assert await reader.read() == b""


async def test_an_answered_body_that_does_not_end():
    """The server closes the connection of a client that goes on sending a body after the response."""
    limits = ServerLimits(head_seconds_max=SHORT_SECONDS)
    async with running(answer_ok, limits=limits) as server:
        reader, writer = await server.connect(POST.replace(b"50", b"%d" % 2**40))
        await reader.readuntil(b"ok")
        while server.connections:
            writer.write(b"x")
            await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def test_an_answered_body_that_is_sent_slowly():
    """A slow client can send the whole body, and then its next request."""
    async with running(answer_ok) as server:
        reader, writer = await server.connect(POST.replace(b"50", b"%d" % LARGE_BYTES))
        await reader.readuntil(b"ok")
        for _ in range(100):
            writer.write(b"x")
            await asyncio.sleep(0)
        writer.write(b"x" * (LARGE_BYTES - 100) + GET)
        await reader.readuntil(b"ok")


async def test_an_answered_body_that_ends():
    """A client that sends the rest of the body can send its next request on the same connection."""
    async with running(answer_ok) as server:
        reader, writer = await server.connect(POST)
        await reader.readuntil(b"ok")
        writer.write(b"x" * 50 + GET)
        await reader.readuntil(b"ok")
        assert server.connections == 1


async def test_a_refused_client_that_reads_after_it_has_sent():
    """A client that is refused while it sends a large body can send all of it, and then read the response."""
    async with running(answer_ok) as server:
        reader, writer = await server.connect(POST.replace(b"50", str(LARGE_BYTES).encode()))
        writer.write(b"x" * LARGE_BYTES)
        await writer.drain()
        await reader.readuntil(b"ok")
        writer.write(GET)
        await reader.readuntil(b"ok")


@pytest.mark.parametrize(
    "body",
    [CHUNKED, POST],
)
async def test_an_answered_body_that_is_malformed(caplog: pytest.LogCaptureFixture, body: bytes):
    """The server closes the connection, and logs no error."""
    limits = ServerLimits(head_seconds_max=SHORT_SECONDS)
    async with running(answer_ok, limits=limits) as server:
        reader, writer = await server.connect(body)
        await reader.readuntil(b"ok")
        writer.write(b"nonsense\r\n")
        assert await reader.read() == b""
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_malformed_body(
    tls: Tls, caplog: pytest.LogCaptureFixture, *, has_begun: bool, is_read: bool, is_encrypted: bool
):
    """An application that reads a malformed body, or responds to it, learns that the client is gone, and no error is logged."""
    is_begun, is_gone = asyncio.Event(), asyncio.Event()

    async def respond(_: Scope, receive: Receive, send: Send) -> None:
        is_begun.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok", "more_body": True})
        while is_read and (await receive())["type"] != "http.disconnect":
            pass
        is_gone.set()
        await send({"type": "http.response.body", "body": b"more"})

    limits = ServerLimits(end_seconds_max=0.01)
    async with running(respond, tls if is_encrypted else None, limits=limits) as server:
        _, writer = await server.connect(CHUNKED)
        assert isinstance(writer.transport, asyncio.ReadTransport)
        writer.transport.pause_reading()
        if has_begun:
            await is_begun.wait()
        writer.write(b"nonsense\r\n")
        await until(lambda: server.connections == 0)
        if has_begun:
            await is_gone.wait()
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.parametrize("head", [GET * 50, GET.replace(b"Host", b"Connection: close\r\nHost")])
async def test_a_client_that_does_not_read(tls: Tls, head: bytes, *, is_encrypted: bool):
    """The server ends the connection of a client that does not read its response, also if all of it has been written."""
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
    """A request may be handled for longer than a client may take for a head, or be idle."""
    limits = ServerLimits(head_seconds_max=SHORT_SECONDS, idle_seconds_max=SHORT_SECONDS)

    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun.set()
        await may_end.wait()
        await answer_ok(scope, receive, send)

    async with running(work, tls if is_encrypted else None, host=host, limits=limits) as server:
        reader, _ = await server.connect(GET)
        await has_begun.wait()
        # A client that sends nothing and connects later has used up its time.
        silent, _ = await server.connect()
        assert await silent.read() == b""
        may_end.set()
        await reader.readuntil(b"ok")
        assert await reader.read() == b""


async def test_a_stream_that_is_read():
    """A slow stream is not ended while its client reads it."""
    may_end = asyncio.Event()

    async def send_slowly(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20):
            await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
            await asyncio.sleep(0.01)
        await may_end.wait()
        await send({"type": "http.response.body", "body": b"data: last\n\n"})

    async with running(send_slowly, unreceived_seconds_max=0.01) as server:
        reader, _ = await server.connect(GET)
        for _ in range(20):
            await reader.readuntil(b"data: x")
        may_end.set()
        await reader.readuntil(b"data: last")


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_the_share_of_one_client(tls: Tls, *, is_encrypted: bool):
    """One client cannot have more connections than its share, and can open one again after it has closed one."""
    limits = ServerLimits(connections_per_client_max=2)
    async with running(answer_ok, tls if is_encrypted else None, limits=limits) as server:
        first, _ = await server.connect(GET)
        await first.readuntil(b"ok")
        _, second = await server.connect()
        await until(lambda: server.connections == 2)
        await check_refuses(server)
        assert server.connections == 2
        second.close()
        await until(lambda: server.connections == 1)
        third, _ = await server.connect(GET)
        await third.readuntil(b"ok")


async def test_clients_behind_a_proxy_have_no_shares():
    """Clients behind a proxy share its address, so only the limit of all connections applies to them."""
    limits = ServerLimits(connections_max=2, connections_per_client_max=1)
    async with running(answer_ok, is_behind_proxy=True, limits=limits) as server:
        for _ in range(2):
            reader, _ = await server.connect(GET)
            await reader.readuntil(b"ok")
        await check_refuses(server)


async def test_too_many_requests():
    """Requests beyond the limit get 503; a request counts until it has been handled, even if its client has disconnected."""
    may_end, is_begun = asyncio.Event(), asyncio.Event()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        is_begun.set()
        await may_end.wait()
        await answer_ok(scope, receive, send)

    async with running(work, limits=ServerLimits(requests_max=1)) as server:
        _, gone = await server.connect(GET)
        await is_begun.wait()
        gone.close()
        await until(lambda: server.connections == 0)
        refused, _ = await server.connect(GET.replace(b"Host", b"Connection: close\r\nHost"))
        assert problem_in(await refused.read(), 503, "too-many-requests")["retry-after"] == "5"
        may_end.set()


async def test_a_request_that_the_stop_interrupts(caplog: pytest.LogCaptureFixture):
    """An interrupted request gets 503, and the log has no stack trace."""
    is_begun = asyncio.Event()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
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
    """The response to malformed requests is 400, and they are not logged, so that clients cannot fill the log."""
    async with running(answer_ok) as server:
        reader, _ = await server.connect(request_bytes)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    assert caplog.records == []


async def test_requests_for_another_protocol(caplog: pytest.LogCaptureFixture):
    """A request to upgrade the connection gets an ordinary response, and the connection stays open."""
    upgrade = GET.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: websocket\r\nHost")
    async with running(answer_ok) as server:
        reader, writer = await server.connect(upgrade)
        for _ in range(2):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
            writer.write(upgrade)
    assert caplog.records == []


def test_the_kernel_buffers_little():
    """The kernel buffers only a little of a response, so that the server sees the progress of a slow client."""
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
    """A server that stops ends an idle connection, also if the client does not end TLS."""
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
    """A client receives the whole response, although the server closes the connection after it has written the end."""
    limits = ServerLimits(end_seconds_max=0.001)
    async with running(answer_much, tls if is_encrypted else None, limits=limits) as server:
        reader, _ = await server.connect(LAST_GET)
        assert (await reader.read()).endswith(b"\r\n\r\n" + b"x" * LARGE_BYTES)
        await until(lambda: server.connections == 0)


async def test_a_stop_while_a_client_connects():
    """A server that stops refuses new connections."""
    async with running(answer_ok) as server:
        await server.connect(GET)
        await until(lambda: server.connections == 1)
        server.server.stop(is_urgent=False)
        await check_refuses(server)
