"""Runs migrations in a database in memory, to learn what they make."""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import cache
from typing import Final

from tenantry.clock import SystemClock
from tenantry.errors import MigrationError
from tenantry.schemas.migration import Migration
from tenantry.schemas.schema import Schema
from tenantry.storage.migrations import AppliedMigration
from tenantry.storage.sqlite.connections.connect_hooks import hooks_of, run_hooks
from tenantry.storage.sqlite.connections.functions import add_functions
from tenantry.storage.sqlite.connections.hardening import Watch
from tenantry.storage.sqlite.foreign.schema_objects import SchemaObject, read_schema
from tenantry.storage.sqlite.migrations import migrator
from tenantry.storage.sqlite.statements.sql_text import folded

PACK_SECONDS_MAX: Final = 1.0
"""How long a pack's migrations may run when packs are compared. On an empty database they take milliseconds."""


def database_of(
    migrations: Sequence[Migration],
    schemas: Sequence[Schema] = (),
    *,
    seconds_max: float | None = None,
) -> sqlite3.Connection:
    """Return a database in memory with everything that tenantry creates at these versions.

    Args:
        migrations: The migrations, in order.
        schemas: Their packs, for their connect hooks.
        seconds_max: How long they may run.

    Raises:
        MigrationError: A migration failed, or took too long.
        ConnectHookError: A hook failed.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        run_hooks(hooks_of(schemas), connection)
        add_functions(connection)
        Watch(seconds_max).watch(connection)

        def plan(applied: list[AppliedMigration], _: int) -> tuple[Migration, ...]:
            return tuple(migrations[len(applied) :])

        migrator.apply_migrations(migrator.Plan([], 0, tuple(migrations)), plan, SystemClock(), connection)
    except BaseException:
        connection.close()
        raise
    return connection


def check_objects(schemas: Sequence[Schema]) -> None:
    """Raise if two packs make a table, an index, a view or a trigger of one name.

    One pack alone is not looked at. A pack whose migrations fail on an empty database is left out: migrating a tenant says why.

    Raises:
        MigrationError: Two packs do; it names both packs and the object.
    """
    if len(schemas) <= 1:
        return
    owners: dict[tuple[bool, str], Schema] = {}
    for schema in schemas:
        for one in _objects_of(schema):
            # Tables, indexes and views share their names; triggers have names of their own.
            owner = owners.setdefault((one.type == "trigger", folded(one.name)), schema)
            if owner is not schema:
                raise MigrationError(
                    f"the schemas {owner.name!r} and {schema.name!r} both make the {one.shown}, and a tenant's database has "
                    "only one of this name: rename it in one of them, or leave one of the schemas out",
                    schema=schema.name,
                )


@cache
def _objects_of(schema: Schema) -> Sequence[SchemaObject]:
    """Return the objects that a pack makes, without tenantry's own and SQLite's; once in a process."""
    try:
        with closing(
            database_of(schema.migrations("sqlite"), [schema], seconds_max=PACK_SECONDS_MAX)
        ) as connection:
            return tuple(_without_internal(read_schema(connection)))
    except MigrationError:
        return ()


def _without_internal(objects: Iterable[SchemaObject]) -> Iterable[SchemaObject]:
    return (
        one
        for one in objects
        if folded(one.table) != "schema_migrations" and not folded(one.name).startswith("sqlite_")
    )
