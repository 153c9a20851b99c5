"""Commands about tenants, in this process and on a data directory: what they say beside their document."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands import WHERE
from tenantry import RegistryConfig, TenantRegistry
from tenantry.cli import app


@pytest.fixture
def acme(data_dir: Path) -> str:
    """The one tenant of a data directory that no process has open; it is quarantined."""

    async def make() -> str:
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            await registry.create("acme")
            return (await registry.quarantine("acme", reason="odd")).id

    return asyncio.run(make())


def test_the_audit_of_one_company(data_dir: Path, acme: str):
    """`--tenant-uid` lists the rows of the tenant with this uid alone; `--tenant` also those of earlier tenants with the id."""

    async def replace() -> str:
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            await registry.rename(acme, "former")
            return (await registry.create(acme)).uid

    uid = asyncio.run(replace())
    env = {**dict.fromkeys(WHERE, ""), "TENANTRY_DATA_DIR": str(data_dir)}

    def actions(*options: str) -> list[str]:
        done = CliRunner().invoke(app, ["audit", "list", *options, "--json"], env=env)
        return [row["action"] for row in json.loads(done.stdout)["items"]]

    assert actions("--tenant", acme) == ["create", "rename", "quarantine", "create"]
    assert actions("--tenant-uid", uid) == ["create"]


def test_a_repair_that_has_nothing_to_do_says_so(data_dir: Path, acme: str):
    """The repair of an active tenant says that nothing was checked, and how to check it; one that repairs says nothing."""
    env = {**dict.fromkeys(WHERE, ""), "TENANTRY_DATA_DIR": str(data_dir)}
    first, repeated = (CliRunner().invoke(app, ["tenant", "repair", acme], env=env) for _ in range(2))
    assert (first.exit_code, first.stderr) == (0, "")
    assert repeated.exit_code == 0
    assert "acme is active: its database was neither checked nor repaired" in repeated.stderr
    assert "tenantry fleet start check --tenant acme --wait" in repeated.stderr


def test_create_if_not_exists(data_dir: Path):
    """A second run ends with 0, changes nothing and says so; a deleted tenant is refused."""
    env = {**dict.fromkeys(WHERE, ""), "TENANTRY_DATA_DIR": str(data_dir)}

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["tenant", *arguments, "--json"], env=env)
        return done.exit_code, done.stderr

    assert run("create", "acme", "--if-not-exists") == (0, "")
    exit_code, said = run("create", "acme", "--if-not-exists", "--display-name", "Other")
    assert (exit_code, "acme already exists and is active: nothing was changed" in said) == (0, True)
    assert run("delete", "acme", "--yes")[0] == 0
    exit_code, said = run("create", "acme", "--if-not-exists")
    assert (exit_code, "undelete or purge it" in said) == (1, True)


def test_the_back_end(data_dir: Path):
    """`--backend` says where a tenant's database is, and a list shows it; an unknown one is refused with its setting."""
    env = {**dict.fromkeys(WHERE, ""), "TENANTRY_DATA_DIR": str(data_dir)}

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["tenant", *arguments, "--json"], env=env)
        return done.exit_code, done.stdout + done.stderr

    assert run("create", "acme", "--backend", "sqlite")[0] == 0
    assert json.loads(run("list")[1])["items"][0]["backend"] == "sqlite"
    exit_code, said = run("clone", "acme", "globex", "--backend", "east")
    assert (exit_code, "TENANTRY_DATABASES__east" in said) == (1, True)
