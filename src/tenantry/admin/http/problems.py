"""Maps each error to RFC 9457 problem details with a stable type and a status."""

import math
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from tenantry import errors
from tenantry.admin.http.hidden_paths import hides_paths, without_paths
from tenantry.errors import TenantryError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:tenantry:problem:"
# An error's status comes from the first class in the error's method resolution order that has an entry.
_STATUSES: Final[dict[type[TenantryError], int]] = {
    errors.SnapshotNotFoundError: 404,
    errors.SnapshotCorruptError: 422,
    errors.ForeignSchemaError: 422,
    errors.SnapshotError: 409,
    errors.StorageFullError: 507,
    errors.IdempotencyConflictError: 422,
    errors.KeyRefusedError: 401,
    errors.ResultLostError: 500,
    errors.RecordNotFoundError: 404,
    errors.DuplicateRecordError: 409,
    errors.ConstraintViolationError: 422,
    errors.MalformedRowError: 500,
    errors.TransactionClosedError: 503,
    errors.QueryError: 400,
    errors.MigrationError: 409,
    errors.DatabaseCorruptError: 409,
    errors.UnsupportedByBackend: 409,
    errors.CatalogMovedError: 409,
    errors.DataDirectoryError: 409,
    errors.DatabaseServerError: 503,
    errors.BackendNotConfiguredError: 409,
    errors.PersistenceConnectionError: 503,
    errors.TenantRequiredError: 400,
    errors.InvalidTenantIdError: 422,
    errors.TenantNotFoundError: 404,
    errors.TenantExistsError: 409,
    errors.TenantStateError: 409,
    errors.RevisionError: 412,
    errors.TenantNotMovableError: 409,
    errors.TenantBusyError: 409,
    errors.TenantOwnedElsewhereError: 409,
    errors.PoolExhaustedError: 503,
    errors.LimitError: 429,
    errors.CallTimeoutError: 504,
    errors.JobNotFoundError: 404,
    errors.JobError: 409,
    errors.RegistryClosedError: 503,
}
# The error attributes that are shown beside the error's message.
_DETAILS: Final = (
    "tenant_id",
    "state",
    "event",
    "action",
    "limit",
    "limit_value",
    "revision",
    "current_revision",
    "objects",
    "tables",
    "missing_schemas",
    "capability",
    "backend",
    "setting",
)
# The errors whose messages every caller may see, because the messages concern only the request.
_FOR_CALLERS: Final = (errors.TenantRequiredError, errors.InvalidTenantIdError)
_TITLES: Final = {
    400: "Bad request",
    404: "Not found",
    405: "Method not allowed",
}
_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_ERRORS_MAX: Final = 20
_DETAIL_CHARACTERS_MAX: Final = 2_000
OVERLOAD_SECONDS: Final = 5
"""The retry delay for a client after too many requests, connections or transfers."""

_RETRY_AFTER_SECONDS: Final = 1.0
"""The retry delay for a client if the duration of the obstacle is unknown."""


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        description="The kind of problem. The type is stable, so programs should compare the type.",
        examples=[f"{TYPE_PREFIX}tenant-not-found"],
    )
    title: str = Field(examples=["Tenant not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["tenant 'acme' does not exist: check the id in the list of tenants"])
    retry_after_seconds: float | None = Field(
        default=None, description="The time to wait before a retry; null if waiting does not help."
    )


class ProblemError(HTTPException):
    """A problem of the API itself. The class is an HTTPException, because FastAPI re-raises HTTPExceptions while reading a body."""

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, headers)
        self.content = {
            "type": f"{TYPE_PREFIX}{slug}",
            "title": title,
            "status": status,
            "detail": detail,
            **more,
        }


def problem_of(error: TenantryError) -> dict[str, Any]:
    """Return the problem details of a `TenantryError`."""
    name = type(error).__name__.removesuffix("Error")
    words = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).strip("-")
    content: dict[str, Any] = {
        "type": f"{TYPE_PREFIX}{words}",
        "title": words.replace("-", " ").capitalize(),
        "status": status_of(error),
        "detail": str(error),
    }
    content |= {name: value for name in _DETAILS if (value := getattr(error, name, None)) is not None}
    seconds = _retry_after_seconds(error)
    if seconds is not None:
        content["retry_after_seconds"] = seconds
    return content


def status_of(error: TenantryError) -> int:
    """Return the HTTP status of a `TenantryError`."""
    if getattr(error, "is_transient", False):  # the database was busy or interrupted the statement
        return 503
    # A `QueryError` with a code means that the database itself refused the statement.
    if type(error) is errors.QueryError and getattr(error, "code", None) is not None:
        return 500
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 500)


async def answer_tenantry_error(request: Request, error: Exception) -> JSONResponse:
    """Respond to a request that failed with a `TenantryError`, without paths if the caller may not see paths."""
    assert isinstance(error, TenantryError)
    content = problem_of(error)
    if hides_paths(request):
        content["detail"] = without_paths(
            content["detail"], request.app.state.service.registry.config.data_dir
        )
    return _answer(content)


def public_answer(error: TenantryError) -> JSONResponse:
    """Return a response for a caller who is not an operator, with the problem's type, status and retry delay.

    The error's message is left out, because the message may name files, statements or an operator's reasons.
    """
    hidden = set(_DETAILS) if isinstance(error, _FOR_CALLERS) else {*_DETAILS, "detail"}
    content = {name: value for name, value in problem_of(error).items() if name not in hidden}
    return _answer(content)


async def answer_problem(_: Request, error: Exception) -> JSONResponse:
    """Respond to a request that failed with a `ProblemError`."""
    assert isinstance(error, ProblemError)
    return _answer(error.content, error.headers)


async def send_problem(problem: ProblemError, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a problem as the response; for code outside of the application, such as middleware."""
    await _answer(problem.content, problem.headers)(scope, receive, send)


async def answer_invalid(_: Request, error: Exception) -> JSONResponse:
    """Respond to an invalid request with the locations of its errors, but without its values, which may be secret."""
    assert isinstance(error, RequestValidationError)
    found = [
        {
            "at": "/".join(map(str, one["loc"])),
            "detail": one["msg"].removeprefix("Value error, "),
            "kind": one["type"],
        }
        for one in error.errors()[:_ERRORS_MAX]
    ]
    is_syntax = any(one["kind"] == "json_invalid" for one in found)
    detail = "; ".join(f"{one['at']}: {one['detail']}" for one in found)[:_DETAIL_CHARACTERS_MAX]
    status, slug, title = (
        (400, "malformed", "Malformed body") if is_syntax else (422, "invalid", "Invalid request")
    )
    return _answer(ProblemError(status, slug, title, detail, errors=jsonable_encoder(found)).content)


async def answer_http(request: Request, error: Exception) -> JSONResponse:
    """Respond to a request that the framework refused because of an unknown path or method."""
    assert isinstance(error, HTTPException)
    title = _TITLES.get(error.status_code, str(error.detail))
    problem = ProblemError(error.status_code, title.lower().replace(" ", "-"), title, str(error.detail))
    is_method = error.status_code == 405  # noqa: PLR2004  # Method Not Allowed
    # The framework lists only the methods of the first route with this path.
    return _answer(problem.content, {"Allow": _allowed(request)} if is_method else dict(error.headers or {}))


def too_many(
    things: str, detail: str, *, status: int = 503, seconds: float = OVERLOAD_SECONDS
) -> ProblemError:
    """Return the problem that a limit is reached.

    Args:
        things: The plural noun for the things that are limited, such as ``requests``.
        detail: The limit, and advice for the client.
        status: 503 if the limit belongs to the whole service, 429 if the limit belongs to one client or tenant.
        seconds: The delay after which the client may retry.
    """
    kind = f"too-many-{things}"
    title = kind.replace("-", " ").capitalize()
    return ProblemError(status, kind, title, detail, retry_after_seconds=seconds)


def unexpected() -> ProblemError:
    """Return the problem of an unexpected error, without details of the error."""
    return ProblemError(
        500, "internal", "Internal error", "an unexpected error occurred: see the service's log"
    )


def _answer(content: dict[str, Any], headers: Mapping[str, str] | None = None) -> JSONResponse:
    headers = {**_retry_header(content.get("retry_after_seconds")), **(headers or {})}
    return JSONResponse(content, content["status"], headers, media_type=MEDIA_TYPE)


def _allowed(request: Request) -> str:
    def is_there(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(is_there, _METHODS))


def _retry_after_seconds(error: TenantryError) -> float | None:
    if error.retry_after_seconds is None and error.is_retryable:
        # A full disk needs an operator, so waiting does not help.
        return None if isinstance(error, errors.StorageFullError) else _RETRY_AFTER_SECONDS
    return error.retry_after_seconds


def _retry_header(seconds: float | None) -> dict[str, str]:
    # RFC 9110, section 10.2.3, requires whole seconds. Round up, so that clients do not retry too early.
    return {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}
