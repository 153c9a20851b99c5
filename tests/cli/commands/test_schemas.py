"""Packs of one's own on the command line: commands, the service and the doctor, with the pack of the examples."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from commands import WHERE, service
from tenantry.cli import app
from tenants import HANG_SECONDS

EXAMPLES = Path(__file__).parents[3] / "examples"
COMPANY = "tenantry.company:COMPANY"
INVOICES = "invoices:INVOICES"


@pytest.fixture(autouse=True)
def in_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pack is a module of the current directory."""
    monkeypatch.chdir(EXAMPLES)


def run(data_dir: Path, *arguments: str, schemas: str = "", exit_code: int = 0) -> Any:
    """Run a command in this process on a data directory, and return its document, or what it says when it is refused."""
    env = {**dict.fromkeys(WHERE, ""), "TENANTRY_DATA_DIR": str(data_dir), "TENANTRY_SCHEMAS": schemas}
    done = CliRunner().invoke(app, [*arguments, "--json"], env=env)
    assert done.exit_code == exit_code, done.output
    return json.loads(done.stdout if exit_code == 0 or done.stdout else done.stderr)


@pytest.fixture
def kept(data_dir: Path) -> Path:
    """A data directory whose one tenant has the built-in pack and the invoices."""
    made = run(data_dir, "tenant", "create", "acme", "--schema", COMPANY, "--schema", INVOICES)
    assert made["schema_versions"] == {"company": 1, "invoices": 1}
    return data_dir


def test_packs_by_the_environment(data_dir: Path):
    """``TENANTRY_SCHEMAS`` lists all packs, separated by commas; an option on the command line replaces it."""
    made = run(data_dir, "tenant", "create", "acme", schemas=INVOICES)
    assert made["schema_versions"] == {"invoices": 1}
    refused = run(data_dir, "tenant", "create", "b", "--schema", COMPANY, schemas=INVOICES, exit_code=1)
    assert refused["type"] == "urn:tenantry:problem:missing-schema"
    made = run(data_dir, "tenant", "create", "b", schemas=f" {COMPANY}, {INVOICES},")
    assert made["schema_versions"] == {"company": 1, "invoices": 1}


def test_a_command_without_the_pack(kept: Path):
    """What reads works; what creates is refused with the pack's name and the option to give."""
    assert [one["id"] for one in run(kept, "tenant", "list")["items"]] == ["acme"]
    refused = run(kept, "tenant", "create", "globex", exit_code=1)
    assert refused["missing_schemas"] == ["invoices"]
    assert "--schema module:PACK" in refused["detail"]
    assert run(kept, "fleet", "start", "migrate", exit_code=1)["missing_schemas"] == ["invoices"]


def test_listing_and_forgetting(kept: Path):
    """The list says which pack is missing here; it is forgotten after a question, and tenants are created without it."""
    found = run(kept, "schema", "list")["items"]
    assert [(one["name"], one["is_missing"]) for one in found] == [("company", False), ("invoices", True)]
    assert "--yes" in run(kept, "schema", "forget", "invoices", exit_code=2)["detail"]
    assert run(kept, "schema", "forget", "company", "--yes", exit_code=1)["status"] == 409
    assert run(kept, "schema", "forget", "invoices", "--yes")["name"] == "invoices"
    assert run(kept, "schema", "forget", "invoices", "--yes", exit_code=1)["status"] == 404
    assert run(kept, "tenant", "create", "globex")["schema_versions"] == {"company": 1}


def test_a_pack_that_cannot_be_loaded(kept: Path):
    """A wrong name is a mistake of the command line, for commands, the service and the doctor."""
    for command in (["tenant", "list"], ["doctor"]):
        refused = run(kept, *command, "--schema", "invoices:INVOICE", exit_code=2)
        assert "has no 'INVOICE'; its packs are: INVOICES" in refused["detail"]
    done = CliRunner().invoke(app, ["serve", "--data-dir", str(kept), "--schema", "nowhere:PACK"])
    assert (done.exit_code, "there is no module 'nowhere'" in done.stderr) == (2, True)


def test_packs_that_do_not_fit_together(kept: Path):
    """The same pack twice is a mistake of the command line, for commands and the doctor."""
    for command in (["tenant", "list"], ["doctor"]):
        refused = run(kept, *command, "--schema", INVOICES, "--schema", INVOICES, exit_code=2)
        assert "two schemas are named 'invoices'" in refused["detail"]


def test_packs_for_a_service():
    """A running service has packs of its own: an option is refused, and the variable, which may be set for all commands, is ignored."""
    env = {
        **dict.fromkeys(WHERE, ""),
        "TENANTRY_URL": "http://127.0.0.1:9",
        "TENANTRY_SCHEMAS": "nowhere:PACK",
    }
    done = CliRunner().invoke(app, ["tenant", "list", "--schema", INVOICES], env=env)
    assert (done.exit_code, "give a service's schema packs to 'tenantry serve'" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, ["tenant", "list"], env=env)
    assert (done.exit_code, "nowhere" in done.stderr) == (3, False)


@pytest.mark.disk
def test_the_doctor(kept: Path):
    """Without the pack the check says what it did not look at; with all packs it is satisfied."""

    def migrations(*schemas: str) -> dict[str, Any]:
        options = [part for name in schemas for part in ("--schema", name)]
        (found,) = [one for one in run(kept, "doctor", *options)["findings"] if one["check"] == "migrations"]
        return found

    without = migrations()
    assert (without["level"], without["subjects"]) == ("note", ["invoices"])
    assert "--schema module:PACK" in without["to_do"]
    assert (
        migrations(COMPANY, INVOICES)["found"]
        == "every tenant is at version 1 of company, version 1 of invoices"
    )


@pytest.mark.disk
def test_the_doctor_of_tenants_with_only_their_own_pack(data_dir: Path):
    """The built-in pack is only the default of a command without options: tenants are not said to lack its migrations."""
    run(data_dir, "tenant", "create", "acme", "--schema", INVOICES)
    found = [one for one in run(data_dir, "doctor")["findings"] if one["check"] == "migrations"]
    assert [one["subjects"] for one in found] == [["invoices"]]


@pytest.mark.disk
def test_a_service_with_packs(kept: Path):
    """``serve --schema`` makes tenants with the pack, and shows the packs over HTTP."""
    with service(kept, "--schema", COMPANY, "--schema", INVOICES) as running:
        client = httpx.Client(
            base_url=running.url,
            headers={"Authorization": f"Bearer {running.key}"},
            trust_env=False,
            timeout=HANG_SECONDS,
        )
        with client:
            made = client.post("/v1/tenants", json={"id": "globex"})
            assert made.json()["schema_versions"] == {"company": 1, "invoices": 1}
            found = client.get("/v1/schemas").json()["items"]
            assert [(one["name"], one["is_missing"]) for one in found] == [
                ("company", False),
                ("invoices", False),
            ]
