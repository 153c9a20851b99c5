"""Runs migrations in a database in memory to find which objects the migrations create."""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import cache
from typing import Final

from tenantry.clock import SystemClock
from tenantry.errors import MigrationError
from tenantry.schemas.migration import Migration
from tenantry.schemas.object_names import NamedObject, check_unique
from tenantry.schemas.schema import Schema
from tenantry.storage.migrations import AppliedMigration
from tenantry.storage.sqlite.connections.connect_hooks import hooks_of, run_hooks
from tenantry.storage.sqlite.connections.functions import add_functions
from tenantry.storage.sqlite.connections.hardening import Watch
from tenantry.storage.sqlite.foreign.schema_objects import SchemaObject, read_schema
from tenantry.storage.sqlite.migrations import migrator
from tenantry.storage.sqlite.statements.sql_text import folded

PACK_SECONDS_MAX: Final = 1.0
"""The time limit for a pack's migrations when packs are compared. On an empty database migrations take milliseconds."""


def database_of(
    migrations: Sequence[Migration],
    schemas: Sequence[Schema] = (),
    *,
    seconds_max: float | None = None,
) -> sqlite3.Connection:
    """Return a database in memory that has the given migrations, and all tables that tenantry creates with them.

    The connect hooks of `schemas` run first. All migrations together may take at most `seconds_max`.

    Raises:
        MigrationError: A migration failed or took too long.
        ConnectHookError: A connect hook failed.
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
    """Check that no two packs create a table, an index, a view or a trigger with the same name.

    A single pack is not checked. A pack whose migrations fail on an empty database is ignored, because migrating a tenant reports that error.

    Raises:
        MigrationError: Two packs create objects with the same name. The message names both packs and the object.
    """
    if len(schemas) <= 1:
        return
    # Tables, indexes and views share one namespace; triggers have a separate namespace.
    objects = (
        NamedObject(schema, (one.type == "trigger", folded(one.name)), one.shown)
        for schema in schemas
        for one in _objects_of(schema)
    )
    check_unique(objects, "SQLite")


@cache
def _objects_of(schema: Schema) -> Sequence[SchemaObject]:
    """Return the objects that a pack creates, without the internal objects of tenantry and SQLite. The result is cached."""
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
