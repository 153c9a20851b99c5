"""How large a request's body may be, how long it may take to come, and of which type it is."""

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
    """What a body may be.

    Attributes:
        bytes_max: How large it may be, unless it is a bundle.
        bundle_bytes_max: How large a bundle may be.
        seconds_max: How long it may take to come; of a bundle, how long its sender or receiver may pause.
        bundle_bytes_per_second_min: How fast a bundle must move in the long run: it takes space on the disk meanwhile.
    """

    bytes_max: int = BODY_BYTES_MAX
    bundle_bytes_max: int = BUNDLE_BYTES_MAX
    seconds_max: float = BODY_SECONDS_MAX
    bundle_bytes_per_second_min: float = BUNDLE_BYTES_PER_SECOND_MIN


BODY_LIMITS: Final = BodyLimits()


class Pace:
    """How long the other side may take for the next part of a body. It begins with the first part that is waited for.

    Args:
        seconds_max: For all of it; where it is streamed, for a pause.
        bytes_per_second_min: Where it is streamed, how fast it must be on the whole; None where it is not.
    """

    def __init__(self, seconds_max: float, bytes_per_second_min: float | None = None) -> None:
        self._seconds_max = seconds_max
        self._bytes_per_second_min = bytes_per_second_min
        self._bytes_done = 0
        self._begun_at: float | None = None

    def deadline(self) -> float:
        """Return until when the next part has to come or go, on the event loop's clock."""
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
        """Note that a part has come or gone."""
        self._bytes_done += size_bytes


class LimitedReceive:
    """Receives a body, and ends the request when a limit is reached.

    Args:
        receive: The server's.
        bytes_max: How many bytes there may be.
        pace: How long it may take.
        on_complete: Called when the whole body has come, before its last part is handed over; raises if the request must
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
        if self._is_complete:  # what comes now is that the client has gone
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
        """Have the part that is waited for, or the next one, raise the error; a body that is complete stays as it is."""
        self._refusal = error
        if self._waiting is not None:
            self._waiting.cancel()


def limited_receive(
    request: Request, limits: BodyLimits, *, is_streamed: bool, on_complete: Callable[[], Awaitable[object]]
) -> LimitedReceive:
    """Return what receives the request's body and keeps it to the limits; see `LimitedReceive`.

    Raises:
        ProblemError: 413, it says of itself that it does not.
    """
    bytes_max = limits.bundle_bytes_max if is_streamed else limits.bytes_max
    if declared_bytes(request) > bytes_max:
        raise _too_large(bytes_max)
    pace = bundle_pace(limits) if is_streamed else Pace(limits.seconds_max)
    return LimitedReceive(request.receive, bytes_max=bytes_max, pace=pace, on_complete=on_complete)


def bundle_pace(limits: BodyLimits) -> Pace:
    """Return how long the other side may take for parts of a bundle."""
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
    """Return how large a request's body is, as it says itself; 0 if it does not."""
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


def _too_slow(pace: Pace) -> ProblemError:
    return ProblemError(
        408,
        "request-timeout",
        "Request timeout",
        f"the body did not come {pace}",
        # RFC 9110, section 15.5.9: the connection is of no more use, its next bytes would be this body's.
        headers={"Connection": "close"},
    )
