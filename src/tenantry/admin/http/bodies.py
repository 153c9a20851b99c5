"""Limits the size and the duration of request bodies, and checks their media type."""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import anyio
from fastapi import Request
from starlette.types import Message

from tenantry.admin.http.problems import ProblemError

BODY_BYTES_MAX: Final = 1024 * 1024
BODY_SECONDS_MAX: Final = 30.0
BUNDLE_BYTES_MAX: Final = 64 * 2**30
_LENGTH_CHARACTERS_MAX: Final = 20


class BodyLimits(NamedTuple):
    """The limits of request bodies.

    Attributes:
        bytes_max: The maximum size of a body that is not a bundle.
        bundle_bytes_max: The maximum size of a bundle.
        seconds_max: The longest time for a body to arrive; for a bundle, the longest allowed pause of the sender or receiver.
    """

    bytes_max: int = BODY_BYTES_MAX
    bundle_bytes_max: int = BUNDLE_BYTES_MAX
    seconds_max: float = BODY_SECONDS_MAX


BODY_LIMITS: Final = BodyLimits()


class LimitedReceive:
    """Receives a body, and refuses the request when the body reaches a limit.

    Args:
        is_streamed: Whether the body is processed while the body arrives, like a bundle.
        on_complete: Called when the whole body has arrived, before the body's last part is returned. `on_complete` raises an
            error if the request must not be handled.

    Raises:
        ProblemError: The request's Content-Length is too large (413).
    """

    def __init__(
        self,
        request: Request,
        limits: BodyLimits,
        *,
        is_streamed: bool,
        on_complete: Callable[[], Awaitable[object]],
    ) -> None:
        self._receive = request.receive
        self._bytes_max = limits.bundle_bytes_max if is_streamed else limits.bytes_max
        self._bytes_left = self._bytes_max
        self._seconds_max = limits.seconds_max
        self._is_streamed = is_streamed
        self._ends_at: float | None = None
        self._on_complete = on_complete
        self._is_complete = False
        self._waiting: anyio.CancelScope | None = None
        self._refusal: Exception | None = None
        if declared_bytes(request) > self._bytes_max:
            raise _too_large(self._bytes_max)

    async def __call__(self) -> Message:
        """Return the next part of the body.

        Raises:
            ProblemError: The body arrives too slowly (408), or is too large (413).
            Exception: `on_complete` raised this error, or this error was passed to `refuse`.
        """
        if self._is_complete:  # after the whole body, the next message reports a disconnect
            return await self._receive()
        if self._ends_at is None or self._is_streamed:
            self._ends_at = anyio.current_time() + self._seconds_max
        with anyio.CancelScope(deadline=self._ends_at) as scope:
            self._waiting = scope
            message = await self._receive()
        self._waiting = None
        if self._refusal is not None:
            raise self._refusal
        if scope.cancelled_caught:
            raise _too_slow(self._seconds_max, is_streamed=self._is_streamed)
        size_bytes = len(message.get("body", b""))
        self._bytes_left -= size_bytes
        if self._bytes_left < 0:
            raise _too_large(self._bytes_max)
        self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        if self._is_complete and message["type"] == "http.request":
            await self._on_complete()
        return message

    def refuse(self, error: Exception) -> None:
        """Raise the error in the current or next wait for a part of the body; do nothing if the whole body has arrived."""
        self._refusal = error
        if self._waiting is not None:
            self._waiting.cancel()


def check_media_type(request: Request, expected: str) -> None:
    """Raise if the request has a body with an unexpected media type.

    Raises:
        ProblemError: The body has an unexpected media type (415).
    """
    has_body = declared_bytes(request) > 0 or "transfer-encoding" in request.headers
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = expected == "application/json" and given.startswith("application/") and given.endswith("+json")
    if has_body and given != expected and not is_json:
        raise ProblemError(
            415, "unsupported-media-type", "Unsupported media type", f"send the body as {expected}"
        )


def declared_bytes(request: Request) -> int:
    """Return the request's Content-Length; 0 if the header is missing."""
    text = request.headers.get("content-length", "0")
    # The server refuses a Content-Length that is not a number. A very long number is cut, and still exceeds every limit.
    return int(text[:_LENGTH_CHARACTERS_MAX]) if text.isdecimal() else 0


def _too_large(bytes_max: int) -> ProblemError:
    return ProblemError(
        413,
        "content-too-large",
        "Content too large",
        f"the request body exceeds {bytes_max:,} bytes",
        limit="bytes_max",
        limit_value=bytes_max,
    )


def _too_slow(seconds_max: float, *, is_streamed: bool) -> ProblemError:
    return ProblemError(
        408,
        "request-timeout",
        "Request timeout",
        f"{'the next part of the body' if is_streamed else 'the body'} did not arrive within {seconds_max:g} s",
        # RFC 9110, section 15.5.9: close the connection, because its next bytes would belong to the unfinished body.
        headers={"Connection": "close"},
    )
