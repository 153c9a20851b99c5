"""Schema packs: which directories load, and that every other says what is wrong with it."""

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tenantry.company import COMPANY
from tenantry.errors import MigrationError
from tenantry.schemas.schema import Schema

MakePack = Callable[..., Schema]


@pytest.fixture
def make_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> MakePack:
    """Return what makes an importable package with these migration files, of a name no other test has."""
    package = f"pack_{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}"

    def make(*files: str, backend: str = "sqlite") -> Schema:
        directory = tmp_path / package / "migrations" / backend
        directory.mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
        for name in files:
            (directory / name).write_text(f"-- {name}\n")
        monkeypatch.syspath_prepend(tmp_path)
        return Schema(name="pack", package=package)

    return make


def test_loads_in_order(make_pack: MakePack):
    """Migrations come by number, whatever order the directory has, each with what its file says."""
    schema = make_pack("0002_more.sql", "0001_first.sql", "0010_x.txt", "README.md", *_numbered(3, 12))
    migrations = schema.migrations("sqlite")
    assert [migration.version for migration in migrations] == list(range(1, 12))
    assert (migrations[1].name, migrations[1].sql) == ("more", "-- 0002_more.sql\n")
    assert migrations[1].checksum == hashlib.sha256(b"-- 0002_more.sql\n").hexdigest()
    assert str(migrations[1]) == "pack 0002_more"


def test_reads_the_files_once(make_pack: MakePack):
    """Opening a thousand tenants does not read the directory a thousand times."""
    schema = make_pack("0001_first.sql")
    assert schema.migrations("sqlite") is Schema("pack", schema.package).migrations("sqlite")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["0001_a.sql", "0003_c.sql"], "pack 0003_c"),
        (["0002_b.sql"], "pack 0002_b"),
        (["0000_zero.sql"], "pack 0000_zero"),
        (["0001_a.sql", "0001_b.sql"], "pack 0001_b"),
    ],
    ids=["gap", "no-first", "zero", "twice"],
)
def test_numbers_have_no_gap_and_no_twin(make_pack: MakePack, files: list[str], found: str):
    """Two branches that added the same number, or a file left out of a release, are noticed at once."""
    with pytest.raises(MigrationError, match=f"found {found}") as caught:
        make_pack(*files).migrations("sqlite")
    assert caught.value.schema == "pack"
    assert caught.value.version is not None
    assert not caught.value.is_step_failure


@pytest.mark.parametrize(
    "name", ["1_a.sql", "00001_a.sql", "0001-a.sql", "0001_A.sql", "0001_.sql", "0001_a b.sql"]
)
def test_file_names_have_one_form(make_pack: MakePack, name: str):
    """A migration whose name is misspelt is refused, not skipped."""
    with pytest.raises(MigrationError, match="NNNN_name") as caught:
        make_pack(name).migrations("sqlite")
    assert caught.value.schema == "pack"


def test_an_empty_directory_is_refused(make_pack: MakePack):
    """A pack without migrations was packaged wrongly."""
    with pytest.raises(MigrationError, match="no migrations in its directory"):
        make_pack().migrations("sqlite")


def test_a_missing_back_end_is_refused(make_pack: MakePack):
    """A pack for SQLite only says so when it is opened on PostgreSQL."""
    with pytest.raises(MigrationError, match="no migrations for postgres"):
        make_pack("0001_a.sql").migrations("postgres")


def test_a_missing_package_is_refused():
    """A pack that is not installed is a MigrationError that names the package, not a file in it."""
    with pytest.raises(
        MigrationError, match="the package 'tenantry_no_such_package' of schema 'ghost' cannot be imported"
    ):
        Schema(name="ghost", package="tenantry_no_such_package").migrations("sqlite")


@pytest.mark.parametrize("name", ["", "A", "1a", "_a", "a-b", "a b", "a\n", "é", "a" * 41])
def test_names_of_schemas_have_one_form(name: str):
    """The name is stored with every applied migration, so it is checked before anything is."""
    with pytest.raises(MigrationError, match="not a schema name"):
        Schema(name=name, package="tenantry.company")


@pytest.mark.parametrize("name", ["a", "company", "a" * 40, "a_1"])
def test_names_of_schemas_up_to_40_characters(name: str):
    """Letters, digits and underscores are fine."""
    assert Schema(name=name, package="tenantry.company").name == name


def test_company_gives_a_fresh_database_its_tables():
    """The pack that ships applies to an empty SQLite database and makes what its models need."""
    connection = sqlite3.connect(":memory:")
    for migration in COMPANY.migrations("sqlite"):
        connection.executescript(migration.sql)
    tables = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
    ).fetchall()
    connection.close()
    assert [name for (name,) in tables] == ["audit_entries", "cost_records", "messages", "tasks"]


def _numbered(first: int, end: int) -> list[str]:
    return [f"{number:04d}_step.sql" for number in range(first, end)]
