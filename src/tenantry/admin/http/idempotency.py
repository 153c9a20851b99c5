"""One effect for one idempotency key: the first answer is kept, and given to whoever sends the request again."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, Final

import anyio
from fastapi import Header, Request, Response

from tenantry.admin.http.operations import PATH, Operations
from tenantry.admin.http.problems import MEDIA_TYPE, ProblemError, later
from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.tenancy.catalog.recorded_responses import UNANSWERED_SECONDS_MAX, Answer, Answers, Attempt

HEADER: Final = "idempotency-key"
ANSWER_LOST: Final = "tenantry.request.answer_not_kept"
RENEWAL_FAILED: Final = "tenantry.request.not_renewed"
RENEWAL_SECONDS: Final = UNANSWERED_SECONDS_MAX / 4
"""How often a request says that it is still under way."""

_KEY_CHARACTERS_MAX: Final = 255
_RETRY_AFTER_SECONDS: Final = 1
_KEPT_HEADERS: Final = ("content-type", "location", "etag", "retry-after")
_STATUS_ACCEPTED: Final = 202
_STATUS_SERVER_ERROR: Final = 500

_SHOWN_ONCE: Final = (
    409,
    {"content-type": MEDIA_TYPE},
    b"""{"type": "urn:tenantry:problem:shown-once", "title": "Answered before", "status": 409,
"detail": "it was answered before with a secret, which is not kept: revoke what it made and make another"}""",
)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description=(
            "The same request with the same key takes effect once, for a day. Of a bundle only the length is compared."
        ),
        min_length=1,
        max_length=_KEY_CHARACTERS_MAX,
        pattern=r"^[ -~]+$",
    ),
]


def documented_key(_: IdempotencyKey = None) -> None:
    """Tell the document of the header, which `handle_once` looks at."""


class Once:
    """Handles a caller's requests once for each key.

    Args:
        answers: Where answers are kept.
        operations: Long work, whose answer is not the last word before it has ended.
        caller: Who makes the request: two callers may choose the same key.
    """

    def __init__(self, answers: Answers, operations: Operations, caller: str) -> None:
        self._answers = answers
        self._operations = operations
        self._caller = caller

    async def handle(self, request: Request, handle: Handler, *, is_streamed: bool) -> Response:
        """Handle a request unless one with its key was handled before; then answer as that one was answered.

        Args:
            request: With a key.
            handle: Does what was asked for.
            is_streamed: Whether the body is too large to be looked at before.
        """
        key = _checked(request.headers[HEADER])
        request_hash = await _hash(request, is_streamed=is_streamed)
        attempt = await self._answers.begin(self._caller, key, request_hash)
        if isinstance(attempt, Answer):
            return _answered(attempt, request_hash)
        try:
            async with renewing(attempt):
                response = await handle(request)
        except Exception:
            # Refused: it had no effect that a second try could double.
            await _forget(attempt)
            raise
        location = response.headers.get("location", "")
        if response.status_code >= _STATUS_SERVER_ERROR:
            await _forget(attempt)
        elif response.status_code == _STATUS_ACCEPTED and location.startswith(PATH):
            headers = _kept_headers(response)
            with _told_if_lost():
                await attempt.keep_so_far(headers, bytes(response.body))
            self._operations.follow(self._keep_at_end(attempt, headers, location.removeprefix(PATH)))
        else:
            await _keep(attempt, response)
        return response

    async def _keep_at_end(self, attempt: Attempt, headers: dict[str, str], operation_id: str) -> None:
        """Keep the answer for good once the operation has ended: if its process dies before, the key is free again."""
        async with renewing(attempt):
            operation = await self._operations.ended(operation_id)
        with _told_if_lost():
            await attempt.keep(_STATUS_ACCEPTED, headers, operation.model_dump_json().encode())


@asynccontextmanager
async def renewing(attempt: Attempt, interval_seconds: float = RENEWAL_SECONDS) -> AsyncIterator[None]:
    """Say now and then that the request is still under way, however long the block takes: a large import, for example."""
    ending = asyncio.Event()
    task = asyncio.create_task(_renew(attempt, interval_seconds, ending), name="tenantry idempotency key")
    try:
        yield
    finally:
        # Not cancelled: what is being written would then be a renewal that the attempt knows nothing of.
        ending.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])


async def _renew(attempt: Attempt, interval_seconds: float, ending: asyncio.Event) -> None:
    while True:
        with anyio.move_on_after(interval_seconds):
            await ending.wait()
            return
        try:
            await attempt.renew()
        except TenantryError as error:
            EventLog().failure(RENEWAL_FAILED, error)  # the next one may go well


def _checked(key: str) -> str:
    if not key or len(key) > _KEY_CHARACTERS_MAX or not key.isascii() or not key.isprintable():
        raise ProblemError(
            422,
            "idempotency-key",
            "Not an idempotency key",
            f"Idempotency-Key has 1 to {_KEY_CHARACTERS_MAX} printable ASCII characters",
        )
    return key


async def _hash(request: Request, *, is_streamed: bool) -> str:
    if not is_streamed:
        body = await request.body()
    elif (length := request.headers.get("content-length")) is not None:
        body = length.encode()
    else:
        raise ProblemError(
            411,
            "length-required",
            "Length required",
            "send a Content-Length with a bundle that has an Idempotency-Key: it is what another request is told by",
        )
    # Without the place where the API is mounted: a request that is sent again may come by another way.
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    parts = [request.method.encode(), path.encode(), request.url.query.encode(), body]
    # What must hold is a part of what was asked for.
    parts += [match.encode() for match in request.headers.getlist("if-match")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


async def _keep(attempt: Attempt, response: Response) -> None:
    if "no-store" in response.headers.get("cache-control", ""):
        # A secret is shown once; whoever asks again hears that it was.
        answer = _SHOWN_ONCE
    else:
        answer = (response.status_code, _kept_headers(response), bytes(response.body))
    with _told_if_lost():
        await attempt.keep(*answer)


def _kept_headers(response: Response) -> dict[str, str]:
    return {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}


async def _forget(attempt: Attempt) -> None:
    """Free a key. If that fails the caller is to hear of what failed first; the key is free after a minute."""
    with _told_if_lost():
        await attempt.forget()


@contextmanager
def _told_if_lost() -> Iterator[None]:
    """Keep an answer, or log that it cannot be kept: no reason not to give it, for what it tells of was done."""
    try:
        with anyio.CancelScope(shield=True):
            yield
    except TenantryError as error:
        EventLog().failure(ANSWER_LOST, error)


def _answered(before: Answer, request_hash: str) -> Response:
    if before.request_hash != request_hash:
        raise ProblemError(
            422,
            "idempotency-conflict",
            "The key was used for another request",
            "this Idempotency-Key was used for another request: take a new one",
        )
    if before.status is None and not before.body:
        raise later(
            409,
            "request-under-way",
            "The request is under way",
            "the first request with this Idempotency-Key has not been answered yet",
            _RETRY_AFTER_SECONDS,
        )
    headers = {**before.headers, "Idempotency-Replayed": "true"}
    return Response(before.body, before.status or _STATUS_ACCEPTED, headers)
