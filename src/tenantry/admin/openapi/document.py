"""Completes the OpenAPI document that FastAPI generates: problems, headers, links and examples."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tenantry.admin.http.problems import MEDIA_TYPE, TYPE_PREFIX
from tenantry.admin.openapi.examples import BEGUN, MODELS, PARAMETERS, TEXTS

Node = dict[str, Any]


class _Problem(NamedTuple):
    when: str
    kind: str
    title: str
    detail: str


_PROBLEMS: Final = {
    400: _Problem(
        "The body is malformed, or the cursor is not from a page of this query.",
        "malformed",
        "Malformed body",
        "body/7: JSON decode error",
    ),
    401: _Problem(
        "The request has no key, or its key is not valid.",
        "unauthorized",
        "No valid key",
        "this key is unknown, expired or revoked",
    ),
    403: _Problem(
        "The key lacks a scope, or is for other tenants.",
        "scope",
        "Not allowed",
        "this key lacks the scope 'operate'",
    ),
    404: _Problem(
        "It does not exist.",
        "tenant-not-found",
        "Tenant not found",
        "tenant 'acme' does not exist: check the id in the list of tenants",
    ),
    408: _Problem(
        "The body did not arrive in time.",
        "request-timeout",
        "Request timeout",
        "the body did not arrive within 30 s",
    ),
    409: _Problem(
        "The tenant's state does not allow it, another operation works on the tenant, or a request with this Idempotency-Key is pending.",
        "tenant-suspended",
        "Tenant suspended",
        "tenant 'acme' is suspended: archive is not possible",
    ),
    411: _Problem(
        "The request has an Idempotency-Key, a bundle, and no Content-Length.",
        "length-required",
        "Length required",
        "an import with an Idempotency-Key needs a Content-Length: it is part of the request's fingerprint",
    ),
    412: _Problem(
        "The tenant was changed since it was read.",
        "revision",
        "The tenant was changed",
        'tenant \'acme\' is at revision "4", and the request expects "3": read it again',
    ),
    413: _Problem(
        "The body is too large.",
        "content-too-large",
        "Content too large",
        "the request body exceeds 1,048,576 bytes",
    ),
    415: _Problem(
        "The body has another media type.",
        "unsupported-media-type",
        "Unsupported media type",
        "send the body as application/json",
    ),
    422: _Problem(
        "The request does not match this document.",
        "invalid",
        "Invalid request",
        "path/tenant_id: String should have at most 48 characters",
    ),
    429: _Problem(
        "Too many requests without a valid key came from this address, or a limit of the tenant's is reached.",
        "too-many-requests",
        "Too many requests",
        "this address sends more than 50 requests a second without a valid key: try again in 2 s",
    ),
    500: _Problem(
        "An unexpected error occurred.",
        "internal",
        "Internal error",
        "an unexpected error occurred; the service's log says where",
    ),
    503: _Problem(
        "The service is overloaded or shutting down.",
        "pool-exhausted",
        "Pool exhausted",
        "all 64 places are in use",
    ),
    504: _Problem(
        "The call took too long.",
        "call-timeout",
        "Call timeout",
        "the call took longer than 30 s",
    ),
    507: _Problem("The disk is full.", "storage-full", "Storage full", "the disk is full: make room"),
}
_WAITING_HELPS: Final = (409, 429, 503, 504)
_ALWAYS: Final = (401, 403, 422, 429, 500, 503, 504)
_WITH_BODY: Final = (400, 408, 413, 415)
_WITH_KEY: Final = (408, 409, 413)

_HEADERS: Final[dict[str, Node]] = {
    "ETag": {"description": "The tenant's revision, for If-Match.", "schema": {"type": "string"}},
    "Location": {
        "description": "The URL of what was created or begun.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Retry-After": {
        "description": "After how many seconds to try again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWW-Authenticate": {"description": "How to send a key.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true` if this is the recorded response to an earlier request with this Idempotency-Key.",
        "schema": {"type": "string"},
    },
}
_OF_A_JOB: Final = ("get_job", "follow_job", "list_results", "pause_job", "resume_job", "cancel_job")
# The model's rule for two fields together, which pydantic leaves out of the schema.
_BURST_NEEDS_RATE: Final = [
    {"properties": {"calls_burst_max": {"type": "null"}}},
    {"required": ["calls_per_second_max"], "properties": {"calls_per_second_max": {"type": "number"}}},
]
_DESCRIPTION: Final = """
Every request below `/v1` needs a key: `Authorization: Bearer tnt_…`.

Refusals and failures are problem details (RFC 9457). Programs should compare their `type`, which is stable. If waiting helps,
a problem has `retry_after_seconds`, and the response the header `Retry-After`. Long work responds with 202 and an operation,
which can be read at `Location` or followed as a stream of events at `…/events`.
"""


def complete(document: Node) -> Node:
    """Complete FastAPI's document, and return it."""
    document["info"]["description"] = _DESCRIPTION.strip()
    examples = {type(model).__name__: model.model_dump(mode="json") for model in MODELS}
    for path, method, operation in _operations(document):
        if path.startswith("/v1/"):
            _add_problems(method, operation)
            _add_headers(path, method, operation)
            _add_links(operation)
        _add_examples(path, operation, examples)
        for parameter in operation.get("parameters", ()):
            name = parameter["name"]
            example = PARAMETERS.get(f"{path} {name}", PARAMETERS.get(name))
            if example is not None:
                parameter["example"] = example
    document["components"]["schemas"]["TenantLimits"]["anyOf"] = _BURST_NEEDS_RATE
    return document


def _operations(document: Node) -> Iterator[tuple[str, str, Node]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _add_problems(method: str, operation: Node) -> None:
    statuses = {int(status) for status in operation["responses"]} | set(_ALWAYS)
    if "requestBody" in operation:
        statuses |= set(_WITH_BODY)
    if method == "post":
        statuses |= set(_WITH_KEY)
    for status in sorted(statuses & set(_PROBLEMS)):
        operation["responses"][str(status)] = _problem_response(status)


def _problem_response(status: int) -> Node:
    problem = _PROBLEMS[status]
    example: Node = {
        "type": f"{TYPE_PREFIX}{problem.kind}",
        "title": problem.title,
        "status": status,
        "detail": problem.detail,
    }
    response: Node = {
        "description": problem.when,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
    }
    names = ["Retry-After"] * (status in _WAITING_HELPS) + ["WWW-Authenticate"] * (status == 401)  # noqa: PLR2004
    if names:
        response["headers"] = {name: _HEADERS[name] for name in names}
    return response


def _add_headers(path: str, method: str, operation: Node) -> None:
    for status, response in operation["responses"].items():
        if not status.startswith("2"):
            continue
        is_tenant = _reference(response) == "TenantOut"
        given = {
            "ETag": is_tenant,
            "Location": status == "202" or (status == "201" and is_tenant),
            "Retry-After": status == "202" or path == "/v1/operations/{operation_id}",
            "Idempotency-Replayed": method == "post",
        }
        headers = {name: _HEADERS[name] for name, is_given in given.items() if is_given}
        if headers:
            response["headers"] = headers


def _add_links(operation: Node) -> None:
    """Add links from a response to what it names: an operation to follow, or a tenant."""
    for status, response in operation["responses"].items():
        targets: tuple[tuple[str, str], ...] = ()
        if status == "202" and _reference(response) == "FleetJob":
            targets = tuple((name, "job_id") for name in _OF_A_JOB)
        elif status == "202":
            targets = (("get_operation", "operation_id"), ("follow_operation", "operation_id"))
        elif status == "201" and _reference(response) == "TenantOut":
            targets = (("get_tenant", "tenant_id"),)
        if targets:
            response["links"] = {
                name: {"operationId": name, "parameters": {parameter: "$response.body#/id"}}
                for name, parameter in targets
            }


def _reference(response: Node) -> str:
    """Return the name of a response's model, or an empty text."""
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return _name(schema)


def _name(schema: Node) -> str:
    """Return the name of the model that a schema refers to, also of an optional one; or an empty text."""
    for candidate in (schema, *schema.get("anyOf", ())):
        if "$ref" in candidate:
            return str(candidate["$ref"]).rpartition("/")[2]
    return ""


def _add_examples(path: str, operation: Node, examples: dict[str, Any]) -> None:
    contents = [("", operation.get("requestBody", {}).get("content", {}))]
    contents += [(status, found.get("content", {})) for status, found in operation["responses"].items()]
    for status, content in contents:
        for media_type, media in content.items():
            if media.pop("itemSchema", None) is not None:  # FastAPI writes what only OpenAPI 3.2 has
                media.pop("schema", None)
            name = _name(media.get("schema", {}))
            if (path, media_type) in TEXTS:
                media["example"] = TEXTS[path, media_type]
            elif status == "202" and name == "Operation":
                media["example"] = {**examples[name], **BEGUN, "action": _action(path)}
            elif name in examples:
                media["example"] = examples[name]


def _action(path: str) -> str:
    return path.rpartition("/")[2].removesuffix("s").replace("-", "_")
