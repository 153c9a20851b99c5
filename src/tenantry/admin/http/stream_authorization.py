"""Ends an upload or a download when the caller's key expires, is revoked, or is no longer for the tenant."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException  # FastAPI's own is a subclass
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from tenantry.admin.http.access import Access
from tenantry.errors import TenantryError

AUTHORIZATION_SECONDS: Final = 1.0
"""The interval between two checks of a stream's key, and so the longest time that a stream outlives its key."""

_LAST_PART_SECONDS_MAX: Final = 1.0


@asynccontextmanager
async def stream_authorization(
    access: Access, refuse: Callable[[Exception], None], *, interval_seconds: float
) -> AsyncIterator[None]:
    """Check repeatedly during the block whether the caller may still make the request; if not, call `refuse` once."""
    checks = _check_repeatedly(access, refuse, interval_seconds)
    task = asyncio.create_task(checks, name="tenantry stream's key")
    try:
        yield
    finally:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])


async def _check_repeatedly(
    access: Access, refuse: Callable[[Exception], None], interval_seconds: float
) -> None:
    while True:
        await anyio.sleep(interval_seconds)
        try:
            await access.check_stream()
        except (HTTPException, TenantryError) as error:  # a failed check also ends the stream
            refuse(error)
            return


class AuthorizedResponse(StreamingResponse):
    """Sends the stream of another response for as long as the caller's key remains valid for the request.

    When the key becomes invalid, a response with a Content-Length closes the connection, and any other response ends early. The
    client learns the reason when the client sends the request again.
    """

    def __init__(self, response: StreamingResponse, access: Access, *, interval_seconds: float) -> None:
        super().__init__(response.body_iterator, response.status_code)
        self.raw_headers = response.raw_headers
        self._response = response
        self._access = access
        self._interval_seconds = interval_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with anyio.CancelScope() as sending:
            async with stream_authorization(
                self._access, lambda _: sending.cancel(), interval_seconds=self._interval_seconds
            ):
                await self._response(scope, receive, send)
        if not sending.cancelled_caught:
            return
        if "content-length" in self._response.headers:
            raise ClientDisconnect
        with anyio.move_on_after(_LAST_PART_SECONDS_MAX):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
