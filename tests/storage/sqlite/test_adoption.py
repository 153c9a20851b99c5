"""The comparison of a database with what the packs make: how a definition is written does not count, what it says does."""

import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.foreign.adoption import compare_adopted
from tenants import write_pack

OBJECTS = (
    "CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (name <> 'Nobody'))",
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT DEFAULT 'It''s', author_id REFERENCES authors)",
    "CREATE INDEX notes_author ON notes (author_id, body COLLATE NOCASE)",
    "CREATE VIEW bodies AS SELECT body FROM notes WHERE body <> ''",
    "CREATE TRIGGER cleaned AFTER DELETE ON authors BEGIN DELETE FROM notes WHERE author_id = old.id; END",
)
TOKEN = re.compile(r"'(?:[^']|'')*'|\w+|<>|[^\s\w]")
NAMES = {"authors", "notes", "id", "name", "body", "author_id", "notes_author", "bodies", "cleaned"}
SPACES = st.sampled_from([" ", "\n", "\t  ", " /* a comment; */ ", " -- it's one\n"])


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    """Return a pack with one migration that makes the objects."""
    directory = tmp_path_factory.mktemp("packs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        made = Schema("notes", write_pack(directory, "adoption_pack", ";".join(OBJECTS)))
        made.migrations("sqlite")
    return made


@st.composite
def rewritten(draw: st.DrawFn, sql: str) -> str:
    """Write a statement with other space, comments, case and quotes."""
    tokens = TOKEN.findall(sql)
    for number, token in enumerate(tokens):
        if token.startswith("'"):
            continue
        tokens[number] = draw(st.sampled_from([token, token.upper(), token.lower()]))
        if token in NAMES:
            tokens[number] = draw(st.sampled_from(["{}", '"{}"', "[{}]", "`{}`"])).format(tokens[number])
    return "".join(f"{token}{draw(SPACES)}" for token in tokens)


def differences(pack: Schema, *statements: str) -> list[str]:
    """Return the objects that differ in a database that these statements make."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "app.db")
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(";".join(statements))
        return [f"{one.kind} {one.object}" for one in compare_adopted(path, [pack], at={"notes": 1})]


@settings(max_examples=25)
@given(st.tuples(*map(rewritten, OBJECTS)))
def test_how_it_is_written_does_not_count(pack: Schema, statements: tuple[str, ...]):
    """Definitions that differ in space, comments, case and quotes only are the same."""
    assert differences(pack, *statements) == []


CHANGES = [
    (number, place, other)
    for number, sql in enumerate(OBJECTS)
    for place, token in enumerate(TOKEN.findall(sql))
    for word, other in [("INTEGER", "INT"), ("NOCASE", "BINARY"), ("AFTER", "BEFORE"), ("'", "'other'")]
    if token == word or (word == "'" and token.startswith(word))
]


@pytest.mark.parametrize(("number", "place", "other"), CHANGES)
def test_what_it_says_counts(pack: Schema, number: int, place: int, other: str):
    """Whichever word of a definition is another one, its object is named, and no other."""
    tokens = TOKEN.findall(OBJECTS[number])
    changed = " ".join([*tokens[:place], other, *tokens[place + 1 :]])
    statements = [*OBJECTS[:number], changed, *OBJECTS[number + 1 :]]
    assert differences(pack, *statements) == [f"changed {tokens[1].lower()} '{tokens[2]}'"]
