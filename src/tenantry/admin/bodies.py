"""How large a request's body may be, how long it may take to come, and of which type it is."""

from typing import Final, NamedTuple

import anyio
from fastapi import Request
from starlette.types import Message, Receive

from tenantry.admin.problems import ProblemError

BODY_BYTES_MAX: Final = 1024 * 1024
BODY_SECONDS_MAX: Final = 30.0
BUNDLE_BYTES_MAX: Final = 64 * 2**30
_LENGTH_CHARACTERS_MAX: Final = 20


class BodyLimits(NamedTuple):
    """What a body may be.

    Attributes:
        bytes_max: How large it may be, unless it is a bundle.
        bundle_bytes_max: How large a bundle may be.
        seconds_max: How long it may take to come; of a bundle, how long its sender may pause.
    """

    bytes_max: int = BODY_BYTES_MAX
    bundle_bytes_max: int = BUNDLE_BYTES_MAX
    seconds_max: float = BODY_SECONDS_MAX


BODY_LIMITS: Final = BodyLimits()


class LimitedReceive:
    """Receives a body, and ends the request when a limit is reached.

    Args:
        receive: The server's.
        bytes_max: How many bytes there may be.
        seconds_max: How long it may take; where it is streamed, for each part of it.
        is_streamed: Whether it is worked on while it comes.
    """

    def __init__(self, receive: Receive, *, bytes_max: int, seconds_max: float, is_streamed: bool) -> None:
        self._receive = receive
        self._bytes_left = bytes_max
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._is_streamed = is_streamed
        self._deadline: float | None = None
        self._is_complete = False

    async def __call__(self) -> Message:
        """Return the next part of the body.

        Raises:
            ProblemError: 408 or 413.
        """
        if self._is_complete:  # what comes now is that the client has gone
            return await self._receive()
        if self._deadline is None or self._is_streamed:
            self._deadline = anyio.current_time() + self._seconds_max
        with anyio.CancelScope(deadline=self._deadline) as scope:
            message = await self._receive()
        if scope.cancelled_caught:
            raise _too_slow(self._seconds_max)
        self._bytes_left -= len(message.get("body", b""))
        if self._bytes_left < 0:
            raise _too_large(self._bytes_max)
        self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def limited(request: Request, limits: BodyLimits, *, is_streamed: bool) -> Request:
    """Return the request, whose body keeps to the limits.

    Raises:
        ProblemError: 413, it says of itself that it does not.
    """
    bytes_max = limits.bundle_bytes_max if is_streamed else limits.bytes_max
    if _declared_bytes(request) > bytes_max:
        raise _too_large(bytes_max)
    receive = LimitedReceive(
        request.receive, bytes_max=bytes_max, seconds_max=limits.seconds_max, is_streamed=is_streamed
    )
    return Request(request.scope, receive)


def check_media_type(request: Request, expected: str) -> None:
    """Raise unless the body, if there is one, is of the expected type.

    Raises:
        ProblemError: 415.
    """
    has_body = _declared_bytes(request) > 0 or "transfer-encoding" in request.headers
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = expected == "application/json" and given.startswith("application/") and given.endswith("+json")
    if has_body and given != expected and not is_json:
        raise ProblemError(
            415, "unsupported-media-type", "Unsupported media type", f"send the body as {expected}"
        )


def _declared_bytes(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    # What is no number is the server's business; of what is too long to be one, the length says enough.
    return int(text[:_LENGTH_CHARACTERS_MAX]) if text.isdecimal() else 0


def _too_large(bytes_max: int) -> ProblemError:
    return ProblemError(
        413,
        "content-too-large",
        "Content too large",
        f"the body may have {bytes_max} bytes",
        limit="bytes_max",
        limit_value=bytes_max,
    )


def _too_slow(seconds: float) -> ProblemError:
    return ProblemError(
        408,
        "request-timeout",
        "Request timeout",
        f"the body did not come within {seconds:g} s",
        # RFC 9110, section 15.5.9: the connection is of no more use, its next bytes would be this body's.
        headers={"Connection": "close"},
    )
