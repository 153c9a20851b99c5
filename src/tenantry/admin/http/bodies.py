"""Limits the size and the duration of request bodies, and checks their media type."""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import anyio
from fastapi import Request
from starlette.types import Message, Receive

from tenantry.admin.http.problems import ProblemError

BODY_BYTES_MAX: Final = 1024 * 1024
BODY_SECONDS_MAX: Final = 30.0
BUNDLE_BYTES_MAX: Final = 64 * 2**30
BUNDLE_BYTES_PER_SECOND_MIN: Final = 16 * 1024
_LENGTH_CHARACTERS_MAX: Final = 20


class BodyLimits(NamedTuple):
    """The limits of request bodies.

    Attributes:
        bytes_max: How large a body may be, unless it is a bundle.
        bundle_bytes_max: How large a bundle may be.
        seconds_max: How long a body may take to arrive; of a bundle, how long its sender or receiver may pause.
        bundle_bytes_per_second_min: How fast a bundle must move on average: it takes space on the disk until it is complete.
    """

    bytes_max: int = BODY_BYTES_MAX
    bundle_bytes_max: int = BUNDLE_BYTES_MAX
    seconds_max: float = BODY_SECONDS_MAX
    bundle_bytes_per_second_min: float = BUNDLE_BYTES_PER_SECOND_MIN


BODY_LIMITS: Final = BodyLimits()


class Pace:
    """Limits how long the client may take for the next part of a body. Its time begins with the first part that is waited for.

    Args:
        seconds_max: The time for the whole body; of a streamed body, for a pause.
        bytes_per_second_min: The average speed that a streamed body needs; None for a body that is not streamed.
    """

    def __init__(self, seconds_max: float, bytes_per_second_min: float | None = None) -> None:
        self._seconds_max = seconds_max
        self._bytes_per_second_min = bytes_per_second_min
        self._bytes_done = 0
        self._begun_at: float | None = None

    def deadline(self) -> float:
        """Return when the next part must have been received or sent, on the event loop's clock."""
        now = anyio.current_time()
        if self._begun_at is None:
            self._begun_at = now
        if self._bytes_per_second_min is None:
            return self._begun_at + self._seconds_max
        return self._seconds_max + min(now, self._begun_at + self._bytes_done / self._bytes_per_second_min)

    def __str__(self) -> str:
        if self._bytes_per_second_min is None:
            return f"within {self._seconds_max:g} s"
        return f"without pauses of {self._seconds_max:g} s and with {self._bytes_per_second_min:g} bytes a second"

    def moved(self, size_bytes: int) -> None:
        """Count a part that was received or sent."""
        self._bytes_done += size_bytes


class LimitedReceive:
    """Receives a body, and refuses the request when a limit is reached.

    Args:
        receive: The server's `receive`.
        bytes_max: How large the body may be.
        pace: How long the body may take.
        on_complete: Called when the whole body has arrived, before its last part is returned; raises if the request must
            not be handled.
    """

    def __init__(
        self,
        receive: Receive,
        *,
        bytes_max: int,
        pace: Pace,
        on_complete: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._receive = receive
        self._bytes_left = bytes_max
        self._bytes_max = bytes_max
        self._pace = pace
        self._on_complete = on_complete
        self._is_complete = False
        self._waiting: anyio.CancelScope | None = None
        self._refusal: Exception | None = None

    async def __call__(self) -> Message:
        """Return the next part of the body.

        Raises:
            ProblemError: 408 or 413, or what `on_complete` or `refuse` gave.
        """
        if self._is_complete:  # the next message says that the client has disconnected
            return await self._receive()
        with anyio.CancelScope(deadline=self._pace.deadline()) as scope:
            self._waiting = scope
            message = await self._receive()
        self._waiting = None
        if self._refusal is not None:
            raise self._refusal
        if scope.cancelled_caught:
            raise _too_slow(self._pace)
        size_bytes = len(message.get("body", b""))
        self._pace.moved(size_bytes)
        self._bytes_left -= size_bytes
        if self._bytes_left < 0:
            raise _too_large(self._bytes_max)
        self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        if self._is_complete and message["type"] == "http.request" and self._on_complete is not None:
            await self._on_complete()
        return message

    def refuse(self, error: Exception) -> None:
        """Let the current or the next wait for a part raise the error; no effect on a body that is complete."""
        self._refusal = error
        if self._waiting is not None:
            self._waiting.cancel()


def limited_receive(
    request: Request, limits: BodyLimits, *, is_streamed: bool, on_complete: Callable[[], Awaitable[object]]
) -> LimitedReceive:
    """Return a `LimitedReceive` for the request's body.

    Raises:
        ProblemError: 413, its Content-Length is too large.
    """
    bytes_max = limits.bundle_bytes_max if is_streamed else limits.bytes_max
    if declared_bytes(request) > bytes_max:
        raise _too_large(bytes_max)
    pace = bundle_pace(limits) if is_streamed else Pace(limits.seconds_max)
    return LimitedReceive(request.receive, bytes_max=bytes_max, pace=pace, on_complete=on_complete)


def bundle_pace(limits: BodyLimits) -> Pace:
    """Return the pace that a bundle must keep."""
    return Pace(limits.seconds_max, limits.bundle_bytes_per_second_min)


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


def _too_slow(pace: Pace) -> ProblemError:
    return ProblemError(
        408,
        "request-timeout",
        "Request timeout",
        f"the body did not arrive {pace}",
        # RFC 9110, section 15.5.9: the connection is of no more use, its next bytes would be this body's.
        headers={"Connection": "close"},
    )
