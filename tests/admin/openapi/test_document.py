"""The OpenAPI document: valid, with an example of everything that goes in and out, and true of every problem."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

from service import Service
from tenantry import RegistryConfig, TenantRegistry
from tenantry.admin import create_admin_app
from tenantry.admin.http.problems import Problem

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def document(data_dir: Path) -> dict[str, Any]:
    """The document; no registry has to be open for it."""
    return create_admin_app(TenantRegistry(RegistryConfig(data_dir=data_dir))).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every operation."""
    for path, item in document["paths"].items():
        assert set(item) <= METHODS
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


async def test_it_is_openapi_3_1(service: Service):
    """It is what the specification's own schema describes, and needs no key."""
    client = await service.client()
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1.")
    jsonschema_rs.Draft202012Validator(OPENAPI_31).validate(document)


def test_every_operation_is_told_of(document: dict[str, Any]):
    """In words, with a name that is short and its own."""
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    assert [name for name, operation in operations(document) if not operation.get("description")] == []


def media_types(operation: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield whatever an operation takes and gives."""
    for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
        yield "request", media_type, media
    for status, response in operation["responses"].items():
        for media_type, media in response.get("content", {}).items():
            yield status, media_type, media


def test_every_operation_has_examples(document: dict[str, Any]):
    """Of every body that it takes and gives, and they are what the document says that such a body is."""
    for name, operation in operations(document):
        for where, media_type, media in media_types(operation):
            assert "example" in media, (
                f"{name}, {where}, {media_type}: add one to tenantry.admin.openapi.examples"
            )
            if "schema" in media:
                schema = {**media["schema"], "components": document["components"]}
                jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(media["example"])


def test_every_parameter_has_an_example(document: dict[str, Any]):
    """But for cursors: none that could be shown would be taken."""
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            if parameter["name"] == "cursor":
                continue
            assert "example" in parameter, (
                f"{name}, {parameter['name']}: add one to tenantry.admin.openapi.examples"
            )
            schema = {**parameter["schema"], "components": document["components"]}
            jsonschema_rs.Draft202012Validator(schema).validate(parameter["example"])


def test_every_problem_is_a_problem(document: dict[str, Any]):
    """Whatever is no success is a problem, and nothing but one; where waiting may help the header for it is told of."""
    for name, operation in operations(document):
        if "/v1/" not in name:
            continue
        assert {"401", "403", "422", "429", "500", "503"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            if status >= "400":
                assert list(response["content"]) == ["application/problem+json"]
                problem = Problem(**response["content"]["application/problem+json"]["example"])
                assert str(problem.status) == status
            if status in {"429", "503"}:
                assert "Retry-After" in response["headers"]


def test_every_change_takes_an_idempotency_key(document: dict[str, Any]):
    """Every POST does, and says so."""
    for name, operation in operations(document):
        names = {parameter["name"] for parameter in operation.get("parameters", ())}
        assert ("Idempotency-Key" in names) == name.startswith("POST ")


def test_long_work_says_where_it_leads(document: dict[str, Any]):
    """202 has its headers, and links to what follows the operation, or follows and steers the job."""
    long = [operation for _, operation in operations(document) if "202" in operation["responses"]]
    assert len(long) >= 7
    for operation in long:
        response = operation["responses"]["202"]
        assert {"Location", "Retry-After"} <= set(response["headers"])
        links = set(response["links"])
        assert links == {"get_operation", "follow_operation"} or links >= {
            "get_job",
            "follow_job",
            "cancel_job",
        }
