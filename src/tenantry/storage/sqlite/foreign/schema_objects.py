"""The objects of a database's schema, and the comparison of their definitions."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tenantry.errors import ForeignSchemaError
from tenantry.sql.tokens import COMMENT, QUOTED
from tenantry.storage.sqlite.statements.sql_text import folded

_SELECT: Final = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid"
# The pattern matches what SQLite treats as white space and as a name. SQLite accepts every non-ASCII character in a name.
_TOKEN: Final = re.compile(
    rf"(?P<skipped>[ \t\n\v\f\r]+|{COMMENT})|{QUOTED}|[\w$\x80-\U0010ffff]+|.", re.DOTALL | re.ASCII
)
_TYPES: Final = ("table", "index", "view", "trigger")
_NAME_CHARACTERS_SHOWN_MAX: Final = 80
_OBJECTS_SHOWN_MAX: Final = 20
IMPORT_ADVICE: Final = "use the database with the packs that created it"


class SchemaObject(NamedTuple):
    """A row of the schema table."""

    type: str
    name: str
    table: str
    sql: str | None

    @property
    def shown(self) -> str:
        """The object's type and name for a message. The name is not trusted, so the message shows a shortened name in ASCII."""
        name = ascii(self.name[:_NAME_CHARACTERS_SHOWN_MAX])
        return f"{self.type if self.type in _TYPES else 'object'} {name}"

    @property
    def key(self) -> tuple[str, str]:
        """The object's type and name, which identify the object in its schema."""
        return self.type, folded(self.name)

    @property
    def definition(self) -> tuple[str, str, str, tuple[str, ...]]:
        """The object's key, its table and the tokens of its SQL, which are equal for objects with the same definition."""
        return *self.key, folded(self.table), tuple(sql_tokens(self.sql or ""))


def read_schema(connection: sqlite3.Connection) -> list[SchemaObject]:
    """Return the objects of a database's schema, the oldest object first."""
    return [SchemaObject(*row) for row in connection.execute(_SELECT)]


def sql_tokens(sql: str) -> Iterator[str]:
    """Yield the tokens of an SQL text, without white space and comments, and with names in lower case and without quotes.

    Definitions are compared by tokens, because ALTER TABLE formats a definition differently in each version of SQLite.
    """
    for match in _TOKEN.finditer(sql):
        if match["skipped"] is not None:
            continue
        token = match[0]
        if token[0] == "'":
            yield token
        elif token[0] in '"`[':
            yield folded(token[1:-1])
        else:
            yield folded(token)


def refused_objects(
    what: str, objects: Sequence[SchemaObject], advice: str = IMPORT_ADVICE
) -> ForeignSchemaError:
    """Return an error that says which objects of a file are refused. The error names the first objects."""
    names = tuple(one.shown for one in objects[:_OBJECTS_SHOWN_MAX])
    more = f" and {len(objects) - len(names)} more" if len(objects) > len(names) else ""
    return ForeignSchemaError(f"{what}: {', '.join(names)}{more}: {advice}", objects=names)
