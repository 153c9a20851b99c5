"""`check_pack`: a pack's migrations for both back ends make the same tables, after each of them."""

import psycopg
import pytest

from postgres_servers import Database
from stores import MakePack
from tenantry.company import COMPANY
from tenantry.errors import MigrationError
from tenantry.schemas.schema import Schema
from tenantry.testing import check_pack

FIRST = "CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT NOT NULL, price REAL, content BLOB, total NUMERIC)"
POSTGRES = "CREATE TABLE notes (id bigint PRIMARY KEY, title text NOT NULL, price float8, content bytea, total numeric)"


@pytest.mark.parametrize(
    "pack", [COMPANY, Schema("notes", "examples.notes"), Schema("invoices", "examples.invoices")]
)
async def test_our_packs(each_postgres_database: Database, pack: Schema):
    """The built-in pack and those of the examples are the same on both back ends, and nothing is left in the database."""
    assert await check_pack(pack, postgres=each_postgres_database.url) is None
    with psycopg.connect(each_postgres_database.direct_url) as connection:
        left = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenantry%'"
        ).fetchall()
    assert left == []


async def test_without_a_database():
    """The numbers are compared, and the sentence says what was not."""
    said = await check_pack(COMPANY)
    assert said is not None
    assert "tables and columns of the pack 'company' were made in SQLite only" in said


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (POSTGRES.replace("title", "name"), "ALTER TABLE notes ADD COLUMN words bigint", "after its migration 0001: only PostgreSQL has the column notes.name; only SQLite has the column notes.title"),
        (POSTGRES, "SELECT 1", "after its migration 0002: only SQLite has the column notes.words"),
        (f"{POSTGRES}; CREATE TABLE more (id int)", "ALTER TABLE notes ADD COLUMN words bigint", "only PostgreSQL has the table more"),
        (POSTGRES, "ALTER TABLE notes ADD COLUMN words text", "the column notes.words contains a whole number in SQLite and a text in PostgreSQL"),
        (POSTGRES, "nonsense", "migration pack 0002_step failed at line 1"),
    ],
)  # fmt: skip
async def test_what_differs(
    postgres_database: Database, make_pack: MakePack, first: str, second: str, said: str
):
    """The error names the first migration after which the back ends differ, and each table and column."""
    pack = make_pack(FIRST, "ALTER TABLE notes ADD COLUMN words INTEGER", postgres=[first, second])
    with pytest.raises(MigrationError, match=said):
        await check_pack(pack, postgres=postgres_database.url)


async def test_types_that_fit(postgres_database: Database, make_pack: MakePack):
    """PostgreSQL's own types are the texts, whole numbers and bytes of SQLite's columns; generated columns are left out."""
    pack = make_pack(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, document TEXT, is_done INTEGER, uid BLOB, twice INT AS (id * 2));"
        "CREATE VIEW v AS SELECT 1",
        postgres=[
            (
                "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz, document jsonb, is_done boolean, "
                "uid uuid, twice bigint GENERATED ALWAYS AS (id * 2) STORED)"
            )
        ],
    )
    assert await check_pack(pack, postgres=postgres_database.url) is None


async def test_numbers_that_differ(make_pack: MakePack):
    """A migration that one back end lacks is found without a database, and so is a pack for one back end."""
    with pytest.raises(MigrationError, match="has 2 migrations for SQLite and 1 for PostgreSQL") as caught:
        await check_pack(make_pack(FIRST, "SELECT 1", postgres=[POSTGRES]))
    assert caught.value.version == 2
    with pytest.raises(MigrationError, match="no migrations in its directory for postgres"):
        await check_pack(make_pack(FIRST))
