"""The differences between the schema of an adopted database and the schema packs, with advice for each difference."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, Literal

from tenantry.storage.sqlite.foreign.schema_objects import SchemaObject
from tenantry.storage.sqlite.statements.sql_text import folded, quoted

_DIFFERENCES_SHOWN_MAX: Final = 3
_TOKENS_SHOWN_MAX: Final = 8
_CHARACTERS_SHOWN_MAX: Final = 120
_GENERATED: Final = {2: "generated", 3: "generated"}  # https://www.sqlite.org/pragma.html#pragma_table_xinfo


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """A difference between an object of a database and the schema packs.

    Attributes:
        kind: ``missing`` from the file, ``changed``, ``unknown`` to the packs, or ``taken`` (a name that tenantry uses).
        object: The object's type and name.
        detail: The description of the difference.
        advice: The advice for the operator.
    """

    kind: Literal["missing", "changed", "unknown", "taken"]
    object: str
    detail: str
    advice: str

    def __str__(self) -> str:
        return f"{self.object}: {self.detail}: {self.advice}"


def describe_change(
    found: SchemaObject,
    expected: SchemaObject,
    connection: sqlite3.Connection,
    expected_connection: sqlite3.Connection,
) -> str:
    """Describe the difference between an object's definition in the file and its definition in the packs.

    The file's names and definitions are not trusted, so the description shows them shortened and in ASCII.
    """
    if folded(found.table) != folded(expected.table):
        return (
            f"its table is {ascii(found.table)[:_CHARACTERS_SHOWN_MAX]}, and in the packs {expected.table!r}"
        )
    if found.type == "table":
        columns = list(_changed_columns(_columns(found, connection), _columns(expected, expected_connection)))
        if columns:
            more = " and more" if len(columns) > _DIFFERENCES_SHOWN_MAX else ""
            return ", ".join(columns[:_DIFFERENCES_SHOWN_MAX]) + more
    here, there = _first_difference(found.definition[-1], expected.definition[-1])
    return f"the file has {here}, and the packs have {there}"


def _columns(table: SchemaObject, connection: sqlite3.Connection) -> dict[str, str]:
    """Return the type and the simple constraints of each column; the keys are the columns' names in lower case."""
    found = connection.execute(f"PRAGMA table_xinfo({quoted(table.name)})").fetchall()
    columns = {}
    for _, name, type_, is_not_null, default, key_position, hidden in found:
        words = [
            type_ or "no type",
            "NOT NULL" if is_not_null else "",
            "" if default is None else f"DEFAULT {default}",
            f"PRIMARY KEY ({key_position})" if key_position else "",
            _GENERATED.get(hidden, ""),
        ]
        columns[folded(str(name))] = _shown(" ".join(filter(None, words)))
    return columns


def _changed_columns(found: dict[str, str], expected: dict[str, str]) -> Iterator[str]:
    for name in expected.keys() - found.keys():
        yield f"column {name!r} is missing"
    for name in found.keys() - expected.keys():
        yield f"column '{_shown(name)}' is not in the packs"
    for name in found.keys() & expected.keys():
        if found[name].lower() != expected[name].lower():
            yield f"column {name!r} is {found[name]}, and in the packs {expected[name]}"
    if found.keys() == expected.keys() and list(found) != list(expected):
        yield "the columns have another order"


def _first_difference(found: Sequence[str], expected: Sequence[str]) -> tuple[str, str]:
    """Return the words of both definitions, beginning with the word before their first difference."""
    start = next(number for number, (one, other) in enumerate(zip_longest(found, expected)) if one != other)
    begin = max(0, start - 1)
    return _words(found[begin:]), _words(expected[begin:])


def _words(tokens: Sequence[str]) -> str:
    more = " …" if len(tokens) > _TOKENS_SHOWN_MAX else ""
    return f"'{_shown(' '.join(tokens[:_TOKENS_SHOWN_MAX]))}{more}'"


def _shown(text: str) -> str:
    return ascii(text)[1:-1][:_CHARACTERS_SHOWN_MAX]
