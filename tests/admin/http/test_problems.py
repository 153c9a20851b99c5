"""Refusals and failures: problem details of a stable type, with nothing in them that is not the caller's business."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from starlette.requests import Request
from structlog.testing import capture_logs

from service import Service, check_problem
from tenantry import errors
from tenantry.admin.http.problems import ProblemError, answer_problem, problem_of, status_of

JSON = {"content-type": "application/json"}


async def test_an_unknown_path(admin: httpx.AsyncClient):
    """What is not there is a problem like any other."""
    check_problem(await admin.get("/v2/tenants"), 404, "not-found")


async def test_a_path_with_a_slash_too_many(admin: httpx.AsyncClient):
    """It is not found: a redirect would send the client, and its key, wherever the Host header says."""
    check_problem(await admin.get("/v1/tenants/"), 404, "not-found")


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/v1/tenants", "PUT", "GET, POST"),
        ("/v1/tenants/acme", "POST", "DELETE, GET, PATCH"),
        ("/v1/tenants/acme/suspend", "GET", "POST"),
        ("/v1/keys/0123456789abcdef", "HEAD", "DELETE"),
        ("/healthz", "POST", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_there(admin: httpx.AsyncClient, path: str, method: str, allowed: str):
    """The answer says which are, all of them (RFC 9110, section 15.5.6)."""
    response = await admin.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    if method != "HEAD":
        check_problem(response, 405, "method-not-allowed")


async def test_malformed_json(admin: httpx.AsyncClient):
    """400, and where it is wrong; not what was sent, which may be a secret."""
    response = await admin.post("/v1/tenants", content=b'{"id": "s3cret', headers=JSON)
    problem = check_problem(response, 400, "malformed")
    assert problem["errors"][0]["at"] == "body/7"
    assert "s3cret" not in response.text


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\xfd", b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}", b'{"id": "\xc3"}']
)
async def test_bodies_that_no_parser_likes(admin: httpx.AsyncClient, content: bytes):
    """Not UTF-8, nested too deep, a number without end: the client's fault, and said so."""
    response = await admin.post("/v1/tenants", content=content, headers=JSON)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["s3cret", "\ud800", "\x00", "naïve"])
async def test_fields_that_nobody_knows(admin: httpx.AsyncClient, name: str):
    """A field too many is refused and named, whatever its name is; its value is not told."""
    content = json.dumps({"id": "acme", name: "its value"}).encode()
    response = await admin.post("/v1/tenants", content=content, headers=JSON)
    problem = check_problem(response, 422, "invalid")
    assert problem["errors"][0]["at"] == ("body" if name == "\ud800" else f"body/{name}")
    assert "its value" not in response.text


async def test_very_many_errors_are_not_all_told(admin: httpx.AsyncClient):
    """What is sent back is not many times what was sent."""
    content = json.dumps({"id": "acme", **{f"x{number}": 1 for number in range(50_000)}}).encode()
    response = await admin.post("/v1/tenants", content=content, headers=JSON)
    check_problem(response, 422, "invalid")
    assert len(response.content) < 20_000


class Broken:
    """An authenticator with a defect."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __call__(self, _: object) -> Any:
        raise self.error


@pytest.fixture
def root_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that goes to the standard library's loggers."""
    with caplog.at_level(logging.DEBUG):
        yield caplog


async def test_what_nobody_expected(service: Service, root_log: pytest.LogCaptureFixture):
    """A defect is 500. The answer and the logs have no stack trace and none of the error's words, which may hold a secret.

    One log event says which error it was, and where.
    """
    broken = Service(service.registry, authenticate=Broken(ValueError("s3cret")))
    client = await service.client(app=broken.app)
    structlog.configure()
    with capture_logs() as logs:
        problem = check_problem(await client.get("/v1/tenants"), 500, "internal")
    assert problem["detail"] == "an unexpected error occurred: see the service's log"
    (event,) = [log for log in logs if log["event"] == "tenantry.request.failed"]
    assert event["error_type"] == "ValueError"
    assert event["at"].startswith("test_problems.py:")
    said = f"{logs}{root_log.text}"
    assert "s3cret" not in said
    assert "Traceback" not in said


async def test_a_closed_registry(service: Service, admin: httpx.AsyncClient):
    """While the service stops, it says so."""
    await service.registry.aclose()
    check_problem(await admin.get("/v1/tenants"), 503, "registry-closed")


def example(kind: type[errors.TenantryError], **fields: Any) -> errors.TenantryError:
    """Return an error of this kind."""
    error = kind.__new__(kind, "it failed")
    error.__dict__.update({"code": None, **fields} if isinstance(error, errors.PersistenceError) else fields)
    return error


def kinds(root: type[errors.TenantryError] = errors.TenantryError) -> Iterator[type[errors.TenantryError]]:
    """Yield every error that there is."""
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


def test_every_error_has_a_type_of_its_own():
    """Programs can tell them apart by `type` alone."""
    types = [problem_of(example(kind))["type"] for kind in kinds()]
    assert len(set(types)) == len(types)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (example(errors.QueryError), 400),
        (example(errors.QueryError, is_transient=True, code="SQLITE_BUSY", is_retryable=True), 503),
        (example(errors.QueryError, code="SQLITE_ERROR"), 500),
        (example(errors.MalformedRowError), 500),
        (example(errors.DuplicateRecordError), 409),
        (example(errors.TenantSuspendedError), 409),
        (example(errors.PersistenceError), 500),
        (example(errors.StorageFullError, code="SQLITE_FULL"), 507),
    ],
)
def test_whose_fault_it_is(error: errors.TenantryError, status: int):
    """A refused argument is the caller's; a database that is busy, or fails, is not."""
    assert status_of(error) == status


@pytest.mark.parametrize(
    "kind", [kind for kind in kinds() if kind.is_retryable], ids=lambda kind: kind.__name__
)
def test_where_waiting_helps(kind: type[errors.TenantryError]):
    """Every error that may go away by itself says when to come again; a full disk does not go away by itself."""
    seconds = problem_of(example(kind)).get("retry_after_seconds")
    assert (seconds is None) is issubclass(kind, errors.StorageFullError)


async def test_when_to_come_again():
    """The header has whole seconds, rounded up, so that no client comes too early; the body has the exact time."""
    problem = ProblemError(503, "busy", "Busy", "try again later", retry_after_seconds=1.2)
    response = await answer_problem(Request({"type": "http"}), problem)
    assert response.headers["retry-after"] == "2"
    assert json.loads(response.body)["retry_after_seconds"] == 1.2
