"""A running HTTP server for its tests, and clients that use as little of the protocol as they like.

Import it by name (``tests`` is on pytest's path): ``from http_servers import running``.
"""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tenantry.server.certificate import Certificate
from tenantry.server.http_server import HttpServer, bound
from tenantry.server.limits import UNRECEIVED_SECONDS_MAX
from tenantry.server.settings import Endpoint, Tls
from tenants import HANG_SECONDS

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n"


LAST_GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""The server closes the connection after its response."""

LARGE_BYTES = 8 * 2**20
"""More of a response than the kernel buffers for a client that does not read."""


async def answer_ok(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond to every request without reading its body."""
    await PlainTextResponse("ok")(scope, receive, send)


async def answer_much(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond to every request with more than the kernel buffers for a client that does not read."""
    await PlainTextResponse("x" * LARGE_BYTES)(scope, receive, send)


class Running:
    """A server that listens at the loopback, and its clients.

    Args:
        server: The server.
        address: Where it listens.
    """

    def __init__(self, server: HttpServer, address: tuple[str, int]) -> None:
        self.server = server
        self.address = address
        self.trust: ssl.SSLContext | None = None
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self.server.connections)

    async def connect(self, *sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect and send."""
        reader, writer = await asyncio.open_connection(*self.address, ssl=self.trust)
        self._writers.append(writer)
        for one in sent:
            writer.write(one)
        return reader, writer

    async def aclose(self) -> None:
        """Close all connections, and stop the server."""
        for writer in self._writers:
            writer.transport.abort()
        self.server.stop(is_urgent=False)


@asynccontextmanager
async def running(
    app: ASGIApp,
    tls: Tls | None = None,
    certificate: Certificate | None = None,
    host: str = "127.0.0.1",
    unreceived_seconds_max: float = UNRECEIVED_SECONDS_MAX,
    **options: Any,
) -> AsyncIterator[Running]:
    """Run a server; a block that hangs raises TimeoutError."""
    used = certificate or (None if tls is None else Certificate(tls))
    server = HttpServer(app, used, closing_seconds=1, **options)
    with bound(Endpoint(host, 0), unreceived_seconds_max=unreceived_seconds_max) as listening:
        serving = asyncio.create_task(server.serve(listening))
        found = Running(server, listening.getsockname()[:2])
        if tls is not None:
            found.trust = ssl.create_default_context(cafile=tls.cert)
        try:
            async with asyncio.timeout(HANG_SECONDS):
                yield found
        finally:
            await found.aclose()
            await serving


@contextmanager
def another_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run another server, which responds as the handler does, and yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
