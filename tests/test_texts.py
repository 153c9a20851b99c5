"""Texts from outside have one limit each, whichever way they come in."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from service import Service
from tenantry import RegistryConfig, Schema, TenantRegistry
from tenantry.errors import MigrationError, QueryError
from tenantry.texts import (
    DISPLAY_NAME_CHARACTERS_MAX,
    KEY_NAME_CHARACTERS_MAX,
    PRINCIPAL_CHARACTERS_MAX,
    REASON_CHARACTERS_MAX,
    SCHEMAS_MAX,
    as_reason,
)

Way: TypeAlias = Callable[[TenantRegistry, str], Awaitable[Any]]

NAME_WAYS: dict[str, Way] = {
    "create": lambda registry, text: registry.create("new", display_name=text),
    "update": lambda registry, text: registry.update("acme", display_name=text),
    "clone": lambda registry, text: registry.clone("acme", "new", display_name=text),
    "import": lambda registry, text: registry.import_bundle("new", "/nowhere", display_name=text),
    "adopt": lambda registry, text: registry.adopt("new", "/nowhere", at={}, display_name=text),
}
REASON_WAYS: dict[str, Way] = {
    "suspend": lambda registry, text: registry.suspend("acme", reason=text),
    "archive": lambda registry, text: registry.archive("acme", reason=text),
    "delete": lambda registry, text: registry.delete("acme", reason=text),
    "quarantine": lambda registry, text: registry.quarantine("acme", reason=text),
    "pause": lambda registry, text: registry.fleet.pause("none", reason=text),
    "cancel": lambda registry, text: registry.fleet.cancel("none", reason=text),
}


OTHER_WAYS: dict[str, tuple[Way, int]] = {
    "a key's name": (lambda registry, text: registry.keys.create(name=text), KEY_NAME_CHARACTERS_MAX),
    "a principal's name": (
        lambda registry, text: registry.suspend("acme", by=text),
        PRINCIPAL_CHARACTERS_MAX,
    ),
}
WAYS = {
    **{name: (way, DISPLAY_NAME_CHARACTERS_MAX) for name, way in NAME_WAYS.items()},
    **{name: (way, REASON_CHARACTERS_MAX) for name, way in REASON_WAYS.items()},
    **OTHER_WAYS,
}


@pytest.mark.parametrize(("way", "characters_max"), WAYS.values(), ids=WAYS)
async def test_the_library_refuses_what_the_api_refuses(
    registry: TenantRegistry, way: Way, characters_max: int
):
    """What is too long, or no text that can be stored, is refused before anything is changed."""
    acme = await registry.create("acme")
    for text in ("x" * (characters_max + 1), "a\0b", "\ud800"):
        with pytest.raises(QueryError):
            await way(registry, text)
    assert await registry.get("acme") == acme
    assert len(await registry.list()) == 1


@pytest.mark.parametrize("way", ["suspend", "archive", "delete"])
async def test_the_longest_reason_is_taken_by_both(registry: TenantRegistry, way: str):
    """The limit is the same number for the library and for the API."""
    longest = "x" * REASON_CHARACTERS_MAX
    for tenant_id in ("acme", "globex"):
        await registry.create(tenant_id)
    assert (await REASON_WAYS[way](registry, longest)).reason == longest
    async with Service(registry) as service:
        admin = await service.caller("admin")
        if way == "suspend":
            path = "/v1/tenants/globex/suspend"
            assert (await admin.post(path, json={"reason": f"{longest}x"})).status_code == 422
            assert (await admin.post(path, json={"reason": longest})).json()["reason"] == longest
        name = "x" * (DISPLAY_NAME_CHARACTERS_MAX + 1)
        assert (await admin.post("/v1/tenants", json={"id": "a", "display_name": name})).status_code == 422
        assert (
            await admin.post("/v1/tenants", json={"id": "a", "display_name": name[1:]})
        ).status_code == 201


async def test_what_a_bundle_says(registry: TenantRegistry, tmp_path: Path):
    """The longest name travels in a bundle, and comes in with it."""
    name = "\u202e" + "x" * (DISPLAY_NAME_CHARACTERS_MAX - 1)
    await registry.create("acme", display_name=name)
    await registry.export("acme", tmp_path / "acme.tar.gz")
    assert (await registry.import_bundle("copy", tmp_path / "acme.tar.gz")).display_name == name


def test_schemas_have_a_number(data_dir: Path):
    """A registry takes as many packs as a manifest may name."""
    schemas = [Schema(f"pack_{number}", "tenantry.company") for number in range(SCHEMAS_MAX + 1)]
    with pytest.raises(MigrationError, match="exceed the limit of 100"):
        TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas)


def test_an_error_as_a_reason_is_cut_off():
    """Tenantry's own reasons, which are errors' texts, keep to the limit too."""
    assert as_reason("x" * 5000 + "\0") == "x" * REASON_CHARACTERS_MAX
    assert as_reason("a\0b") == "a\N{REPLACEMENT CHARACTER}b"
