"""What the tests of applications share: one that is served, on real sockets or without.

Import it by name (``tests`` is on pytest's path): ``from serving import serve``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.types import ASGIApp

from service import served
from tenants import HANG_SECONDS


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application on a free port of the loopback, its lifespan included; give a client of it."""
    async with served(app) as url, httpx.AsyncClient(base_url=url, timeout=HANG_SECONDS) as client:
        yield client


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    """Return a client that calls an application without a server, and so without its lifespan."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


async def connect_web_socket(
    app: ASGIApp, path: str, headers: dict[str, str], *received: dict[str, Any]
) -> list[dict[str, Any]]:
    """Open a web socket without a server, have the application receive these messages, and return what it sent."""
    sent: list[dict[str, Any]] = []
    coming = iter(({"type": "websocket.connect"}, *received))

    async def receive() -> dict[str, Any]:
        return next(coming, {"type": "websocket.disconnect", "code": 1000})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": path,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "query_string": b"",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    await app(scope, receive, send)
    return sent
