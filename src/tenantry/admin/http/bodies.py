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
        bytes_max: How large a body may be, unless it is a bundle.
        bundle_bytes_max: How large a bundle may be.
        seconds_max: How long a body may take to arrive; of a bundle, how long its sender or receiver may pause.
    """

    bytes_max: int = BODY_BYTES_MAX
    bundle_bytes_max: int = BUNDLE_BYTES_MAX
    seconds_max: float = BODY_SECONDS_MAX


BODY_LIMITS: Final = BodyLimits()


class LimitedReceive:
    """Receives a body, and refuses the request when a limit is reached.

    Args:
        request: The request.
        limits: The limits.
        is_streamed: Whether the body is processed while it arrives, as bundles are.
        on_complete: Called when the whole body has arrived, before its last part is returned; raises if the request must
            not be handled.

    Raises:
        ProblemError: 413, the request's Content-Length is too large.
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
            ProblemError: 408 or 413, or what `on_complete` or `refuse` gave.
        """
        if self._is_complete:  # the next message says that the client has disconnected
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
        """Let the current or the next wait for a part raise the error; no effect on a body that is complete."""
        self._refusal = error
        if self._waiting is not None:
            self._waiting.cancel()


def check_media_type(request: Request, expected: str) -> None:
    """Raise unless the body, if there is one, is of the expected type.

    Raises:
        ProblemError: 415.
    """
    has_body = declared_bytes(request) > 0 or "transfer-encoding" in request.headers
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = expected == "application/json" and given.startswith("application/") and given.endswith("+json")
    if has_body and given != expected and not is_json:
        raise ProblemError(
            415, "unsupported-media-type", "Unsupported media type", f"send the body as {expected}"
        )


def declared_bytes(request: Request) -> int:
    """Return the size of a request's body by its Content-Length; 0 without one."""
    text = request.headers.get("content-length", "0")
    # The server refuses what is not a number. A number with too many digits is too large anyway.
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
        # RFC 9110, section 15.5.9: the connection is of no more use, its next bytes would be this body's.
        headers={"Connection": "close"},
    )
