"""``tenantry catalog move`` as an operator runs it: a dry run, the move, and the settings to change."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from commands import WHERE
from postgres_servers import Database
from tenantry.cli import app


@pytest.fixture
def directory(data_dir: Path) -> Path:
    """A data directory with a tenant."""
    run(data_dir, "", "tenant", "create", "acme")
    return data_dir


def run(data_dir: Path, url: str, *arguments: str, exit_code: int = 0) -> Any:
    """Run a command in this process, and return its document, or what it says when it is refused."""
    env = {**dict.fromkeys(WHERE, ""), "TENANTRY_DATA_DIR": str(data_dir), "TENANTRY_DATABASE": url}
    env["TENANTRY_DEFAULT_BACKEND"] = "sqlite"
    done = CliRunner().invoke(app, [*arguments, "--json"], env=env)
    assert done.exit_code == exit_code, done.output
    return json.loads(done.stdout if exit_code == 0 else done.stderr)


def test_a_move_and_what_to_change(directory: Path, postgres_database: Database):
    """The dry run and the move say what would be and is copied; then commands need the setting."""
    url = postgres_database.url
    refused = run(directory, url, "tenant", "list", exit_code=3)
    assert "catalog move --to postgres" in refused["detail"]
    for options in (["--dry-run"], ["--yes"]):
        report = run(directory, url, "catalog", "move", "--to", "postgres", *options)
        assert (report["is_dry_run"], report["rows"]["tenants"]) == (options == ["--dry-run"], 1)
        assert report["setting"].startswith("keep TENANTRY_DATABASE")
    assert [one["id"] for one in run(directory, url, "tenant", "list")["items"]] == ["acme"]
    refused = run(directory, "", "tenant", "list", exit_code=3)
    assert "set TENANTRY_DATABASE" in refused["detail"]
    report = run(directory, url, "catalog", "move", "--to", "sqlite", "--yes")
    assert report["setting"] == "unset TENANTRY_DATABASE"
    assert [one["id"] for one in run(directory, "", "tenant", "list")["items"]] == ["acme"]


def test_it_asks(directory: Path, postgres_database: Database):
    """Without --yes and a terminal nothing is moved."""
    refused = run(directory, postgres_database.url, "catalog", "move", "--to", "postgres", exit_code=2)
    assert "--yes" in refused["detail"]
    run(directory, "", "tenant", "list")


def test_refusals_have_exit_codes(directory: Path):
    """A wrong setting is the command line's fault; a move that is not possible is refused."""
    assert (
        "already" in run(directory, "", "catalog", "move", "--to", "sqlite", "--yes", exit_code=2)["detail"]
    )
    refused = run(directory, "", "catalog", "move", "--to", "east", "--dry-run", exit_code=1)
    assert "TENANTRY_DATABASES__EAST" in refused["detail"].upper()
