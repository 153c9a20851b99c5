"""The OpenAPI document: valid, with an example of everything that goes in, and true of every problem."""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

from service import Service
from tenantry import RegistryConfig, TenantRegistry
from tenantry.admin import create_admin_app

pytestmark = pytest.mark.unmeasured

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document; no registry has to be open for it, and no test changes it."""
    config = RegistryConfig(data_dir=tmp_path_factory.mktemp("document"))
    return create_admin_app(TenantRegistry(config)).openapi()


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


def schemas(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of the document that has examples."""
    if isinstance(node, dict):
        if isinstance(node.get("examples"), list):
            yield node
        for value in node.values():
            yield from schemas(value)
    elif isinstance(node, list):
        for value in node:
            yield from schemas(value)


def test_every_example_is_valid(document: dict[str, Any]):
    """An example is a value of the schema that it is in."""
    found = list(schemas(document))
    assert len(found) > 50
    for schema in found:
        whole = {**schema, "components": document["components"]}
        for example in schema["examples"]:
            jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(example)


def says_what_to_send(schema: dict[str, Any]) -> bool:
    """Return whether a schema has an example, or leaves no doubt without one."""
    if {"examples", "default", "enum", "const", "$ref"} & set(schema) or schema.get("type") == "boolean":
        return True
    parts = [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]
    return any(map(says_what_to_send, parts))


def test_all_input_has_examples(document: dict[str, Any]):
    """Of every parameter but cursors, which belong to one query, and of every field of a body."""
    bodies = [name for name in document["components"]["schemas"] if name.endswith("Request")]
    assert len(bodies) > 5
    inputs = {
        f"{name}.{field}": schema
        for name in bodies
        for field, schema in document["components"]["schemas"][name]["properties"].items()
    }
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            inputs[f"{name}, {parameter['name']}"] = parameter["schema"]
    found = [name for name, schema in inputs.items() if not says_what_to_send(schema)]
    assert {name for name in found if not name.endswith(", cursor")} == set()


def test_every_problem_is_a_problem(document: dict[str, Any]):
    """Every response that is not a success is a problem, and its headers say when to try again."""
    for name, operation in operations(document):
        if "/v1/" not in name:
            continue
        assert {"401", "403", "422", "429", "500", "503"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            if status >= "400":
                problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
                assert response["content"] == {"application/problem+json": problem}
            if status in {"429", "503"}:
                assert "Retry-After" in response["headers"]


def test_every_change_takes_an_idempotency_key(document: dict[str, Any]):
    """Every POST does, and says so."""
    for name, operation in operations(document):
        names = {parameter["name"] for parameter in operation.get("parameters", ())}
        assert ("Idempotency-Key" in names) == name.startswith("POST ")


def test_long_work_says_where_it_leads(document: dict[str, Any]):
    """202 has the headers with the place to look at and the time to wait."""
    long = [operation for _, operation in operations(document) if "202" in operation["responses"]]
    assert len(long) >= 7
    for operation in long:
        assert {"Location", "Retry-After"} <= set(operation["responses"]["202"]["headers"])
