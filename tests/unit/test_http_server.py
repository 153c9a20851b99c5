"""The HTTP server: what uvicorn leaves to others."""

import asyncio
import socket

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tenantry.cli import http_server
from tenantry.cli.http_server import ForwardedClient, HttpServer


async def answer_ok(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request."""
    await PlainTextResponse("ok")(scope, receive, send)


async def test_a_client_that_never_ends_its_head_is_hung_up_on(monkeypatch: pytest.MonkeyPatch):
    """Whoever sends a head bit by bit is not waited for, also after a first good request; whoever sends it whole is answered."""
    monkeypatch.setattr(http_server, "HEAD_SECONDS_MAX", 0.05)
    server = HttpServer(answer_ok, None, closing_seconds=1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve([listening]))
        await server.answers.wait()
        for first in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            if first:
                writer.write(first)
                await reader.readuntil(b"ok")
            writer.write(b"GET / HTTP/1.1\r\nX-Slow")
            assert await reader.read() == b""  # ends when the server hangs up
            writer.close()
        server.stop(is_urgent=False)
        await serving


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], ("127.0.0.1", 1)),
        ([(b"x-forwarded-for", b"192.0.2.1")], ("192.0.2.1", 0)),
        ([(b"x-forwarded-for", b"198.51.100.1, 192.0.2.1")], ("192.0.2.1", 0)),
        ([(b"x-forwarded-for", b"198.51.100.1"), (b"x-forwarded-for", b"192.0.2.1")], ("192.0.2.1", 0)),
        ([(b"x-forwarded-for", b"")], ("127.0.0.1", 1)),
    ],
)
async def test_the_last_address_that_was_forwarded(
    headers: list[tuple[bytes, bytes]], expected: tuple[str, int]
):
    """The proxy's own entry counts, and not those that came with the request."""
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["client"])

    scope = {"type": "http", "client": ("127.0.0.1", 1), "headers": headers}
    await ForwardedClient(app)(scope, None, None)  # type: ignore[arg-type]
    assert seen == [expected]
