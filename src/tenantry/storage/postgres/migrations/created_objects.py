"""Checks that no two schema packs create objects with the same name in PostgreSQL.

A tenant's schema contains the objects of all packs. The tables of a pack have the same names as in SQLite, where the packs' migrations run
in a database in memory and their objects are compared. PostgreSQL has more kinds of objects, and has no database in memory. So the names
are read from the texts of the SQL migrations. Objects that a Python migration or a DO block creates are not seen: there the second
pack's migration fails.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final, NamedTuple

from tenantry.schemas.object_names import NamedObject, check_unique
from tenantry.schemas.schema import Schema
from tenantry.storage.postgres.migrations.migration_script import statements_of

_RELATIONS: Final = frozenset(["DOMAIN", "INDEX", "SEQUENCE", "TABLE", "TYPE", "VIEW"])
"""The kinds of objects that share one namespace: each relation also has a type with its name."""
_ROUTINES: Final = frozenset(["AGGREGATE", "FUNCTION", "PROCEDURE"])
_BEFORE_KIND: Final = frozenset(
    ["CREATE", "FOREIGN", "MATERIALIZED", "OR", "RECURSIVE", "REPLACE", "UNIQUE", "UNLOGGED"]
)
_BEFORE_NAME: Final = frozenset(["CONCURRENTLY", "EXISTS", "IF", "NOT"])


class CreatedObject(NamedTuple):
    """An object that a pack's migrations create.

    Attributes:
        is_routine: Whether the object is a function, a procedure or an aggregate, which have a namespace of their own.
        name: The object's name in lower case.
        kind: The kind of the object as it is written in SQL, such as ``TABLE``.
    """

    is_routine: bool
    name: str
    kind: str


def check_created_objects(schemas: Sequence[Schema]) -> None:
    """Check that no two packs create an object with the same name.

    Raises:
        MigrationError: Two packs create objects with the same name. The message names both packs and the object.
    """
    if len(schemas) <= 1:
        return
    objects = (
        NamedObject(schema, (one.is_routine, one.name), f"{one.kind.lower()} {one.name}")
        for schema in schemas
        for one in _objects_of(schema)
    )
    check_unique(objects, "PostgreSQL")


@cache
def _objects_of(schema: Schema) -> Sequence[CreatedObject]:
    return tuple(
        created
        for migration in schema.migrations("postgres")
        for words in statements_of(migration.sql)
        if (created := _created(words)) is not None
    )


def _created(words: Sequence[str]) -> CreatedObject | None:
    """Return the object that a statement creates; None for other statements, temporary objects and objects of a table."""
    if not words or words[0].upper() != "CREATE":
        return None
    left: Iterator[str] = iter(words)
    kind = next((word.upper() for word in left if word.upper() not in _BEFORE_KIND), "")
    if kind not in _RELATIONS | _ROUTINES:
        return None
    name = next((word.lower() for word in left if word.upper() not in _BEFORE_NAME), "on")
    # An index without a name gets an unused name from the server.
    return None if name == "on" else CreatedObject(kind in _ROUTINES, name, kind)
