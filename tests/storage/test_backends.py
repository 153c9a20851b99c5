"""The back ends of a registry: which there are, which one a tenant has, and what happens where the settings lack it."""

from pathlib import Path

import pytest

from operators import contents
from registries import config, make_tenant
from tenantry import BackendNotConfiguredError, TenantRegistry
from tenantry.clock import SystemClock
from tenantry.eventlog import EventLog
from tenantry.storage.backends import Backends, make_backends
from tenants import query

pytestmark = pytest.mark.anyio


def backends(data_dir: Path) -> Backends:
    """Return the back ends of a registry without a database server."""
    return make_backends(config(data_dir), (), clock=SystemClock(), log=EventLog())


def test_the_data_directory_is_the_default(tmp_path: Path):
    """Without other settings, tenants and the catalog are files, as ever."""
    found = backends(tmp_path)
    assert found.names == ("sqlite",)
    assert found.of("sqlite") is found.default is found.catalog


@pytest.mark.parametrize(
    ("name", "setting"), [("postgres", "TENANTRY_DATABASE"), ("east", "TENANTRY_DATABASES__east")]
)
def test_an_unknown_back_end_names_its_setting(tmp_path: Path, name: str, setting: str):
    """An operator reads which variable to set, and a programmer where else to name the database."""
    with pytest.raises(BackendNotConfiguredError, match=f"set {setting} .* RegistryConfig") as caught:
        backends(tmp_path).of(name)
    assert (caught.value.backend, caught.value.setting) == (name, setting)
    assert backends(tmp_path).find(name) is None


async def test_only_the_tenants_of_a_missing_back_end_are_refused(tmp_path: Path):
    """A process without the address of one database serves every other tenant, and says what it lacks."""
    await make_tenant(tmp_path, "acme")
    await make_tenant(tmp_path, "zeta")
    query(tmp_path / "catalog.db", "UPDATE tenants SET backend = 'east' WHERE id = 'acme'")
    async with TenantRegistry(config(tmp_path)) as registry:
        assert await contents(registry.tenant("zeta")) == ["first"]
        assert [(tenant.id, tenant.backend) for tenant in await registry.list()] == [
            ("acme", "east"),
            ("zeta", "sqlite"),
        ]
        for refused in (
            contents(registry.tenant("acme")),
            registry.tenant_statistics("acme"),
            registry.snapshots.create("acme"),
            registry.snapshots.points("acme"),
            registry.fleet.status("acme"),
            registry.archive("acme"),
        ):
            with pytest.raises(BackendNotConfiguredError, match="TENANTRY_DATABASES__east"):
                await refused
        found = await registry.get("acme")
        assert (found.state, found.intent) == ("active", None)
