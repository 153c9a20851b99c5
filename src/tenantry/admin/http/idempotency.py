"""Implements Idempotency-Key: a repeated request takes effect once, and its first response is recorded and replayed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, Final

import anyio
from fastapi import Header, Request, Response

from tenantry.admin.http.operations import PATH, Operation, Operations
from tenantry.admin.http.problems import MEDIA_TYPE, ProblemError
from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.tenancy.catalog.recorded_responses import (
    PENDING_SECONDS_MAX,
    PendingRequest,
    RecordedResponse,
    RecordedResponses,
)

HEADER: Final = "idempotency-key"
RESPONSE_NOT_RECORDED: Final = "tenantry.request.response_not_recorded"
RENEWAL_FAILED: Final = "tenantry.request.not_renewed"
RENEWAL_SECONDS: Final = PENDING_SECONDS_MAX / 4
"""The interval between two renewals of a pending request."""

_KEY_CHARACTERS_MAX: Final = 255
_RETRY_AFTER_SECONDS: Final = 1
_RECORDED_HEADERS: Final = ("content-type", "location", "etag", "retry-after")
_STATUS_ACCEPTED: Final = 202
_STATUS_SERVER_ERROR: Final = 500

_SHOWN_ONCE: Final = (
    409,
    {"content-type": MEDIA_TYPE},
    b"""{"type": "urn:tenantry:problem:shown-once", "title": "Secret shown already", "status": 409,
"detail": "the first response to this Idempotency-Key contained a secret, which is not recorded: revoke the API key that was created, and create another"}""",
)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description=(
            "A request that is repeated with the same key within a day takes effect once. A bundle is compared only by its length."
        ),
        min_length=1,
        max_length=_KEY_CHARACTERS_MAX,
        examples=["create-acme-2026-11-23"],
        pattern=r"^[ -~]+$",
    ),
]


def documented_key(_: IdempotencyKey = None) -> None:
    """Declare the header in the OpenAPI document; `handle_once` reads the header."""


async def handle_once(
    request: Request,
    handle: Handler,
    responses: RecordedResponses,
    operations: Operations,
    *,
    caller: str,
    is_streamed: bool,
) -> Response:
    """Handle a request with an idempotency key; if the key was used before, replay the recorded response.

    Args:
        request: A request with an idempotency key.
        handle: Handles the request.
        responses: The recorded responses.
        operations: The API's operations; when an operation ends, its final state is recorded as the response.
        caller: The identifier of the caller; different callers may choose the same key.
        is_streamed: Whether to hash only the body's length, because the body may be large.
    """
    key = _checked(request.headers[HEADER])
    request_hash = await _hash(request, is_streamed=is_streamed)
    pending = await responses.begin(caller, key, request_hash)
    if isinstance(pending, RecordedResponse):
        return _replay(pending, request_hash)
    try:
        async with renewing(pending):
            response = await handle(request)
    except Exception:
        # A refused request had no effect, so its idempotency key may be used again.
        await _forget(pending)
        raise
    location = response.headers.get("location", "")
    if response.status_code >= _STATUS_SERVER_ERROR:
        await _forget(pending)
    elif response.status_code == _STATUS_ACCEPTED and location.startswith(PATH):
        headers = _recorded_headers(response)
        with _logged_if_not_recorded():
            await pending.record_interim(headers, bytes(response.body))
        ended = operations.ended(location.removeprefix(PATH))
        operations.follow(_record_at_end(pending, headers, ended))
    else:
        await _record(pending, response)
    return response


async def _record_at_end(
    pending: PendingRequest, headers: dict[str, str], ended: Awaitable[Operation]
) -> None:
    """When the operation ends, record its final state as the response; if the process dies first, the idempotency key expires."""
    async with renewing(pending):
        operation = await ended
    with _logged_if_not_recorded():
        await pending.record(_STATUS_ACCEPTED, headers, operation.model_dump_json().encode())


@asynccontextmanager
async def renewing(pending: PendingRequest, interval_seconds: float = RENEWAL_SECONDS) -> AsyncIterator[None]:
    """Renew the pending request repeatedly during the block, for example during a large import."""
    ending = asyncio.Event()
    task = asyncio.create_task(_renew(pending, interval_seconds, ending), name="tenantry idempotency key")
    try:
        yield
    finally:
        # Do not cancel a renewal, because the catalog could still store the new time while `pending` keeps the old time.
        ending.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])


async def _renew(pending: PendingRequest, interval_seconds: float, ending: asyncio.Event) -> None:
    while True:
        with anyio.move_on_after(interval_seconds):
            await ending.wait()
            return
        try:
            await pending.renew()
        except TenantryError as error:
            EventLog().failure(RENEWAL_FAILED, error)  # the next renewal may succeed


def _checked(key: str) -> str:
    if not key or len(key) > _KEY_CHARACTERS_MAX or not key.isascii() or not key.isprintable():
        raise ProblemError(
            422,
            "idempotency-key",
            "Not an idempotency key",
            f"an Idempotency-Key has 1 to {_KEY_CHARACTERS_MAX} printable ASCII characters",
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
            "an import with an Idempotency-Key needs a Content-Length: it is part of the request's fingerprint",
        )
    # Remove the prefix of a mounted API, because a repeated request may come through another prefix.
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    parts = [request.method.encode(), path.encode(), request.url.query.encode(), body]
    # The If-Match condition is part of the request.
    parts += [match.encode() for match in request.headers.getlist("if-match")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


async def _record(pending: PendingRequest, response: Response) -> None:
    if "no-store" in response.headers.get("cache-control", ""):
        # A secret is shown only once, so a replay responds with a problem instead.
        final = _SHOWN_ONCE
    else:
        final = (response.status_code, _recorded_headers(response), bytes(response.body))
    with _logged_if_not_recorded():
        await pending.record(*final)


def _recorded_headers(response: Response) -> dict[str, str]:
    return {name: response.headers[name] for name in _RECORDED_HEADERS if name in response.headers}


async def _forget(pending: PendingRequest) -> None:
    """Release an idempotency key. A failure is only logged, because the caller must get the original error."""
    with _logged_if_not_recorded():
        await pending.forget()


@contextmanager
def _logged_if_not_recorded() -> Iterator[None]:
    """If a response cannot be recorded, log the error instead of raising the error: the response must be sent anyway."""
    try:
        with anyio.CancelScope(shield=True):
            yield
    except TenantryError as error:
        EventLog().failure(RESPONSE_NOT_RECORDED, error)


def _replay(recorded: RecordedResponse, request_hash: str) -> Response:
    if recorded.request_hash != request_hash:
        raise ProblemError(
            422,
            "idempotency-conflict",
            "The key was used for another request",
            "this Idempotency-Key was used for another request: choose a new one",
        )
    if recorded.status is None and not recorded.body:
        raise ProblemError(
            409,
            "request-under-way",
            "The request is pending",
            "the first request with this Idempotency-Key has no response yet",
            retry_after_seconds=_RETRY_AFTER_SECONDS,
        )
    headers = {**recorded.headers, "Idempotency-Replayed": "true"}
    return Response(recorded.body, recorded.status or _STATUS_ACCEPTED, headers)
