"""What the tests of the admin API share: an application on a registry, clients with keys, a real server.

Import it by name (``tests`` is on pytest's path): ``from service import caller``.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import uvicorn
from starlette.types import ASGIApp

from tenantry import Scope, TenantRegistry
from tenantry.admin import create_admin_app
from tenants import HANG_SECONDS

if TYPE_CHECKING:
    from fastapi import FastAPI

PROBLEM = "application/problem+json"
_POLL_SECONDS = 0.005
_PATHS: dict[str, Any] = {}


class Service:
    """An admin API without a network, and clients for it.

    Args:
        registry: The tenants.
        options: For `create_admin_app`.
    """

    def __init__(self, registry: TenantRegistry, **options: Any) -> None:
        self.registry = registry
        self.app: FastAPI = create_admin_app(registry, **options)
        self._stack = contextlib.AsyncExitStack()

    @property
    def paths(self) -> dict[str, Any]:
        """What the OpenAPI document says of each path; it is made once, because that takes as long as some tests."""
        if not _PATHS:
            _PATHS.update(self.app.openapi()["paths"])
        return _PATHS

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.app.router.lifespan_context(self.app))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def token(self, *scopes: str, tenants: Sequence[str] | None = None) -> str:
        """Make a key and return its token."""
        made = await self.registry.keys.create(scopes=[Scope(scope) for scope in scopes], tenants=tenants)
        return made.token

    async def caller(
        self, *scopes: str, tenants: Sequence[str] | None = None, **options: Any
    ) -> httpx.AsyncClient:
        """Return a client with a key of its own."""
        return await self.client(await self.token(*scopes, tenants=tenants), **options)

    async def client(
        self, token: str | None = None, *, address: str = "127.0.0.1", app: ASGIApp | None = None
    ) -> httpx.AsyncClient:
        """Return a client with this token, or without any; what the application raises is raised to it."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(app or self.app, client=(address, 5))
        client = httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers)
        return await self._stack.enter_async_context(client)


def check_problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Check that the answer is this problem, as RFC 9457 has it, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    content: dict[str, Any] = response.json()
    assert content["type"] == f"urn:tenantry:problem:{kind}"
    assert content["status"] == status
    assert content["title"]
    assert content["detail"]
    if "retry_after_seconds" in content:
        assert int(response.headers["retry-after"]) >= content["retry_after_seconds"] > 0
    else:
        assert "retry-after" not in response.headers
    return content


async def ended(client: httpx.AsyncClient, response: httpx.Response) -> dict[str, Any]:
    """Follow an operation that was accepted, and return it as it is at its end."""
    assert response.status_code == 202, response.text
    assert response.headers["location"].endswith(f"/v1/operations/{response.json()['id']}")
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            found = await client.get(response.headers["location"])
            assert found.status_code == 200, found.text
            operation: dict[str, Any] = found.json()
            if operation["state"] != "running":
                return operation
            await asyncio.sleep(_POLL_SECONDS)


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yield what server-sent events tell."""
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def is_registry(task: "asyncio.Task[object]") -> bool:
    """Return whether a task is a registry's own."""
    return task.get_name().startswith("tenantry ")


def files_with(directory: Path, text: str) -> list[Path]:
    """Return the files below a directory that have this text in them, whatever they are."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an application on a port of the loopback device, and give its URL."""
    bound = socket.create_server(("127.0.0.1", 0))
    # asyncio sets it on sockets that it makes itself; without it each answer waits 40 ms for an acknowledgement.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(app, lifespan="on", ws="none", log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]  # they are pytest's
    serving = asyncio.create_task(server.serve([bound]))
    try:
        async with asyncio.timeout(HANG_SECONDS):
            while not server.started:  # noqa: ASYNC110  # it tells in no other way
                await asyncio.sleep(0)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def connected(url: str, token: str) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client with this token of a server; the block ends in good time."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, headers=headers) as client, asyncio.timeout(HANG_SECONDS):
        yield client
