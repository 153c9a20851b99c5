"""Requests to an ASGI application in this process. It needs the extra ``service``."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, TypeAlias

import httpx
from anyio import EndOfStream, create_memory_object_stream
from starlette.types import ASGIApp

Message: TypeAlias = MutableMapping[str, Any]


class InProcessTransport(httpx.AsyncBaseTransport):
    """Streams the application's response; httpx's own transport keeps the whole body in memory, and bundles are large.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Begin a request, and return when its response has begun; errors of the application are raised here."""
        exchange = _Exchange(self._app, request)
        try:
            start = await exchange.next_message()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request and its response's body. The application runs in a task, and waits for the reader of the body."""

    def __init__(self, app: ASGIApp, request: httpx.Request) -> None:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        self._request_body = aiter(request.stream)
        self._is_request_read = False
        self._sender, self._messages = create_memory_object_stream[Message]()
        self._task = asyncio.create_task(self._run(app, _scope(request)))

    async def next_message(self) -> Message:
        """Return the application's next message."""
        try:
            return await self._messages.receive()
        except EndOfStream:
            await self._task  # raises the application's error
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for message in self._messages:
            yield message.get("body", b"")
        await self._task  # raises the application's error

    async def aclose(self) -> None:
        """Cancel the application's task, if it still runs."""
        self._messages.close()
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self, app: ASGIApp, scope: Message) -> None:
        async with self._sender:
            await app(scope, self._receive, self._sender.send)

    async def _receive(self) -> Message:
        if self._is_request_read:
            await asyncio.Event().wait()  # the client stays connected until the task is cancelled
        try:
            return {"type": "http.request", "body": await anext(self._request_body), "more_body": True}
        except StopAsyncIteration:
            self._is_request_read = True
            return {"type": "http.request", "body": b"", "more_body": False}


def _scope(request: httpx.Request) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "query_string": request.url.query,
        "server": (request.url.host, request.url.port),
        "client": None,
        "root_path": "",
    }
