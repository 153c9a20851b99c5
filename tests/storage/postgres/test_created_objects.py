"""Packs that create objects with the same name on PostgreSQL are refused before any tenant is touched."""

import pytest

from stores import MakePack
from tenantry.company import COMPANY
from tenantry.errors import MigrationError
from tenantry.storage.postgres.migrations.created_objects import check_created_objects

TABLES = "CREATE TABLE notes (id bigint); CREATE UNIQUE INDEX IF NOT EXISTS notes_id ON notes (id);"


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("CREATE TABLE IF NOT EXISTS Notes (id int)", "table notes"),
        ('create unlogged table "notes" (id int)', "table notes"),
        ("CREATE MATERIALIZED VIEW notes_id AS SELECT 1", "view notes_id"),
        ("CREATE TYPE notes AS ENUM ('CREATE TABLE x')", "type notes"),
        ("CREATE TABLE tasks_of_mine (id int); CREATE OR REPLACE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$", "function twice"),
        ("CREATE INDEX CONCURRENTLY notes_id ON other (id)", "index notes_id"),
    ],
)  # fmt: skip
def test_a_name_of_two_packs(make_pack: MakePack, second: str, said: str):
    """The error names both packs and the object."""
    first = f"{TABLES} CREATE FUNCTION twice(n bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 2 * n';"
    packs = [
        COMPANY,
        make_pack(postgres=[first], name="first"),
        make_pack(postgres=["SELECT 1", second], name="second"),
    ]
    with pytest.raises(MigrationError, match=f"'first' and 'second' both create the {said} on PostgreSQL"):
        check_created_objects(packs)


def test_packs_that_fit(make_pack: MakePack):
    """Indexes without a name, temporary tables, comments and strings are no names; one pack may name its own objects again."""
    first = make_pack(
        postgres=[TABLES, "CREATE INDEX ON notes (id); DROP TABLE notes; CREATE TABLE notes (id int)"]
    )
    second = make_pack(
        postgres=[
            (
                "CREATE TABLE others (id int); CREATE INDEX ON others (id); CREATE TEMP TABLE notes (id int);"
                "-- CREATE TABLE notes\nSELECT 'CREATE TABLE notes'; CREATE FUNCTION notes() RETURNS int LANGUAGE sql AS 'SELECT 1'"
            )
        ],
        name="second",
    )
    check_created_objects([COMPANY, first, second])
    check_created_objects([first])
