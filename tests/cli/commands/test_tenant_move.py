"""``tenantry tenant move`` on a data directory, to a real database and back: its documents, its notes and its exit codes."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from commands import WHERE
from postgres_servers import Database
from tenantry import RegistryConfig, TenantRegistry
from tenantry.cli import app

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(data_dir: Path, postgres_database: Database) -> Run:
    """Return what runs a command on a data directory with two tenants, whose settings name a database, ``east``."""

    async def make() -> None:
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            await registry.create("acme")
            await registry.create("globex")

    asyncio.run(make())
    env = {
        **dict.fromkeys(WHERE, ""),
        "TENANTRY_DATA_DIR": str(data_dir),
        "TENANTRY_DATABASES__east": postgres_database.url,
    }

    def run(*arguments: str) -> tuple[int, Any, str]:
        done = CliRunner().invoke(app, [*arguments, "--json"], env=env)
        return done.exit_code, json.loads(done.stdout or "null"), done.stderr

    return run


def test_there_and_back(run: Run):
    """The document is the tenant at the new place."""
    for to in ("east", "sqlite"):
        exit_code, tenant, said = run("tenant", "move", "acme", "--to", to)
        assert (exit_code, tenant["backend"], said) == (0, to, "")


def test_a_dry_run(run: Run, postgres_database: Database):
    """It lists the tables and changes nothing; a table that cannot be moved is named, and the exit code is 1."""
    exit_code, plan, _ = run("tenant", "move", "acme", "--to", "east", "--dry-run")
    assert (exit_code, plan["refusals"]) == (0, [])
    assert {"name": "messages", "rows": 0, "refusal": None} in plan["tables"]
    run("tenant", "move", "acme", "--to", "east")
    with psycopg.connect(postgres_database.direct_url) as connection:
        connection.execute("CREATE TABLE tenant_acme.notes (text text)")
    exit_code, plan, _ = run("tenant", "move", "acme", "--to", "sqlite", "--dry-run")
    assert exit_code == 1
    assert plan["refusals"] == ["table 'notes' cannot be moved, because it has no primary key"]
    exit_code, _, said = run("tenant", "move", "acme", "--to", "sqlite")
    assert (exit_code, json.loads(said)["tables"]) == (1, ["notes"])
    assert run("tenant", "get", "acme")[1]["backend"] == "east"


def test_all_tenants(run: Run):
    """It is a fleet job, which the command waits for if asked to."""
    exit_code, job, _ = run("tenant", "move", "--all", "--to", "east", "--wait")
    assert (exit_code, job["kind"], job["state"], job["done"]) == (0, "move", "done", 2)
    assert [one["backend"] for one in run("tenant", "list")[1]["items"]] == ["east", "east"]
    exit_code, job, _ = run("tenant", "move", "--all", "--to", "sqlite")
    assert (exit_code, job["state"] in {"pending", "running"}) == (0, True)
    assert job["options"]["arguments"] == {"to": "sqlite"}
    assert set(job["options"]["states"]) == {"active", "suspended", "archived"}
    assert run("fleet", "wait", job["id"])[1]["done"] == 2


@pytest.mark.parametrize("arguments", [[], ["acme", "--all"], ["--all", "--dry-run"]])
def test_what_is_to_be_moved_is_said_once(run: Run, arguments: list[str]):
    """One tenant, or all tenants; a dry run is of one tenant."""
    exit_code, _, said = run("tenant", "move", *arguments, "--to", "east")
    assert exit_code == 2
    assert "give the id of one tenant, or --all without --dry-run" in said
