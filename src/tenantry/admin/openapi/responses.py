"""The responses of each route in the OpenAPI document: the possible problems and the headers."""

from http import HTTPStatus
from typing import Any, Final, TypeAlias

from fastapi.routing import APIRoute

from tenantry.admin.http.problems import MEDIA_TYPE
from tenantry.admin.schemas import TenantOut

Responses: TypeAlias = dict[int | str, dict[str, Any]]

_PROBLEMS: Final = {
    400: "The body is malformed, or the cursor is not from a page of this query.",
    401: "The request has no key, or its key is not valid.",
    403: "The key lacks a scope, or is for other tenants.",
    404: "The requested object does not exist.",
    408: "The body did not arrive in time.",
    409: "The tenant's state does not allow the request, another operation on the tenant is running, or a request with this "
    "Idempotency-Key is pending.",
    411: "The request has an Idempotency-Key and a bundle, but no Content-Length.",
    412: "The tenant was changed since it was read.",
    413: "The body is too large.",
    415: "The body has another media type.",
    422: "The request does not match this document.",
    429: "This address sent too many requests without a valid key, or the tenant has reached a limit.",
    500: "An unexpected error occurred.",
    503: "The service is overloaded or shutting down.",
    504: "The call took too long.",
    507: "The disk is full.",
}
_ALWAYS: Final = (401, 403, 422, 429, 500, 503, 504)
_WITH_BODY: Final = (400, 408, 413, 415)
_WITH_KEY: Final = (408, 409, 413)
_WAITING_HELPS: Final = (409, 429, 503, 504)

_TEXT: Final = {"schema": {"type": "string"}}
_ETAG: Final = {"ETag": {"description": "The tenant's revision, for If-Match.", **_TEXT}}
_LOCATION: Final = {
    "Location": {
        "description": "The URL of the created tenant or the started operation.",
        "schema": {"type": "string", "format": "uri-reference"},
    }
}
RETRY_AFTER: Final = {
    "Retry-After": {
        "description": "The number of seconds to wait before a retry.",
        "schema": {"type": "integer", "minimum": 0},
    }
}
_CHALLENGE: Final = {"WWW-Authenticate": {"description": "The scheme for sending a key.", **_TEXT}}
_REPLAYED: Final = {
    "Idempotency-Replayed": {
        "description": "`true` if this is the recorded response to an earlier request with this Idempotency-Key.",
        **_TEXT,
    }
}


def documented(*statuses: int) -> Responses:
    """Return a route's problems with these statuses; `responses_of` adds the problems that all routes share."""
    return {status: _problem(status) for status in statuses}


def responses_of(route: APIRoute, *, has_body: bool) -> Responses:
    """Return a route's own responses, the problems that all similar routes share, and the headers of the success response."""
    success, is_post = route.status_code or 200, "POST" in (route.methods or ())
    is_begun, is_tenant = success == HTTPStatus.ACCEPTED, route.response_model is TenantOut
    is_made = success == HTTPStatus.CREATED and is_tenant
    problems = documented(*_ALWAYS, *(_WITH_BODY if has_body else ()), *(_WITH_KEY if is_post else ()))
    headers = {
        **(_REPLAYED if is_post else {}),
        **(_ETAG if is_tenant else {}),
        **(_LOCATION if is_begun or is_made else {}),
        **(RETRY_AFTER if is_begun else {}),
    }
    return {**problems, **route.responses, success: {"headers": headers, **route.responses.get(success, {})}}


def _problem(status: int) -> dict[str, Any]:
    headers = (
        _CHALLENGE if status == HTTPStatus.UNAUTHORIZED else RETRY_AFTER if status in _WAITING_HELPS else {}
    )
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {"description": _PROBLEMS[status], "content": {MEDIA_TYPE: problem}, "headers": headers}
