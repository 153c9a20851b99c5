"""``tenantry tenant adopt``: a database of another program on the command line, with the pack of the examples."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from commands import WHERE
from tenantry.cli import app

EXAMPLES = Path(__file__).parents[3] / "examples"
INVOICES = ("--schema", "invoices:INVOICES")
BOTH = ("--schema", "tenantry.company:COMPANY", *INVOICES)


@pytest.fixture(autouse=True)
def in_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pack is a module of the current directory."""
    monkeypatch.chdir(EXAMPLES)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return an application's database with a table of invoices, and one of its own."""
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.executescript((EXAMPLES / "invoices/migrations/sqlite/0001_invoices.sql").read_text())
        connection.execute("INSERT INTO invoices VALUES ('1', 'globex', '2026-11-30', '12.50')")
        connection.execute("CREATE TABLE tags (t)")
    return tmp_path / "app.db"


def adopt(data_dir: Path, database: Path, *options: str, **env: str) -> Result:
    """Run the command in this process."""
    where = {**dict.fromkeys(WHERE, ""), "TENANTRY_DATA_DIR": str(data_dir), **env}
    return CliRunner().invoke(app, ["tenant", "adopt", "acme", str(database), *options], env=where)


def test_a_database_becomes_a_tenant(data_dir: Path, database: Path):
    """The first command on a new directory makes the tenant, and prints its record."""
    done = adopt(
        data_dir,
        database,
        *INVOICES,
        "--at",
        "1",
        "--accept-tables",
        "tags",
        "--display-name",
        "Acme",
        "--json",
    )
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert (made["id"], made["display_name"], made["state"]) == ("acme", "Acme", "active")
    assert made["schema_versions"] == {"invoices": 1}


def test_several_packs(data_dir: Path, database: Path):
    """A number without a name is for the one pack beside the built-in one; other packs are named."""
    done = adopt(data_dir, database, *BOTH, "--at", "1", "--accept-tables", "tags", "--json")
    assert json.loads(done.stdout)["schema_versions"] == {"company": 1, "invoices": 1}
    done = adopt(
        data_dir,
        database,
        *BOTH,
        "--at",
        "invoices=1",
        "--at",
        "company=0",
        "--dry-run",
        "--accept-tables",
        "tags",
    )
    assert (done.exit_code, done.stdout) == (0, "the tables are the same as in the schema packs\n")


def test_a_dry_run_shows_the_differences(data_dir: Path, database: Path):
    """Each difference is a line for people and an object for programs, the exit code is 1, and no tenant is made."""
    done = adopt(data_dir, database, *INVOICES, "--at", "1", "--dry-run")
    assert done.exit_code == 1
    assert done.stdout == (
        "table 'tags': no pack creates it up to the named migrations: accept the table (--accept-tables, or accepted_tables in Python), add it to a pack's "
        "migration, or drop it in a copy of the file\n"
    )
    done = adopt(data_dir, database, *INVOICES, "--dry-run", "--json")
    assert done.exit_code == 1
    assert [(one["kind"], one["object"]) for one in json.loads(done.stdout)["differences"]] == [
        ("unknown", "table 'invoices'"),
        ("unknown", "table 'tags'"),
    ]
    assert not list((data_dir / "tenants").glob("*"))


@pytest.mark.parametrize(
    ("options", "env", "exit_code", "said"),
    [
        ([*INVOICES, "--at", "1"], {}, 1, "table 'tags': no pack creates it"),
        ([*INVOICES, "--at", "2"], {}, 1, "has no migration 2, its last is 0001"),
        ([*INVOICES, "--at", "1", "--at", "invoices=0"], {}, 2, "--at names the pack 'invoices' more than once"),
        ([*INVOICES, "--at", "one"], {}, 2, "'one' is not the number of a migration"),
        (["--at", "1"], {"TENANTRY_DATA_DIR": "", "TENANTRY_URL": "http://127.0.0.1:9"}, 2, "with --data-dir instead of --url"),
    ],
)  # fmt: skip
def test_refusals(
    data_dir: Path, database: Path, options: list[str], env: dict[str, str], exit_code: int, said: str
):
    """What is refused is said in words, with what to do."""
    done = adopt(data_dir, database, *options, **env)
    assert done.exit_code == exit_code
    assert said in done.stderr.replace("\n", " ").replace("│", "").replace("  ", " ")
