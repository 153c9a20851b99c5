"""Turns another program's database into a tenant's database: compares the schema with the packs, marks migrations as applied."""

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final

from tenantry.errors import ForeignSchemaError, MigrationError
from tenantry.schemas.migration import Migration
from tenantry.schemas.schema import Schema
from tenantry.storage.migrations import plan_migrations
from tenantry.storage.sqlite.database_files.checkpoint import truncate_log
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, map_error
from tenantry.storage.sqlite.foreign.foreign import (
    BACKEND,
    check_statistics,
    compare,
    opened,
    own_objects,
    read_applied,
)
from tenantry.storage.sqlite.foreign.schema_difference import SchemaDifference, describe_change
from tenantry.storage.sqlite.foreign.schema_objects import SchemaObject, read_schema
from tenantry.storage.sqlite.maintenance.maintenance_connection import WRITABLE, connect
from tenantry.storage.sqlite.migrations import migrator
from tenantry.storage.sqlite.migrations.memory_database import database_of
from tenantry.storage.sqlite.statements.sql_text import folded

_OWNER: Final = "tenantry_owner"
_HISTORY: Final = "schema_migrations"
_BY_AT: Final = "(--at, or at in Python)"
_BY_ACCEPTING: Final = "(--accept-tables, or accepted_tables in Python)"


def compare_adopted(
    path: Path, schemas: Sequence[Schema], *, at: Mapping[str, int], accepted_tables: Collection[str] = ()
) -> list[SchemaDifference]:
    """Return the differences between the schema of a database and the schema that the packs create with the migrations up to `at`.

    White space, comments, and the case and the quotes of names are ignored. The data is not checked.

    Args:
        path: A closed database, on which no statement has run.
        schemas: The packs.
        at: The number of the last migration of each pack in the database; 0 for a pack that is left out.
        accepted_tables: The names of additional tables that the database may have, with their indexes.

    Raises:
        MigrationError: A pack is unknown, a pack lacks the migration in `at`, or the database lists migrations unlike `at`.
        ForeignSchemaError: The database already belongs to a tenant, or one of `accepted_tables` is not an ordinary table.
        DatabaseCorruptError: The file is damaged, is not a database, or has a journal or log beside it.
    """
    check_versions(schemas, at)
    with opened(path) as connection:
        found = read_schema(connection)
        _check_adoptable(found, path)
        check_statistics(found, connection, path)
        taken = _taken(found)
        if not taken:
            at = _listed(found, at, connection, path, schemas) or at
        with closing(database_of(_until(schemas, at), schemas)) as expected:
            # `mark_applied` creates the table of applied migrations, so the file may lack this table.
            expected.execute(f"DROP TABLE IF EXISTS {_HISTORY}")
            others = [
                one for one in found if folded(one.table) not in {folded(other.name) for other in taken}
            ]
            comparison = compare(others, expected, accepted_tables)
            made = {one.key: one for one in read_schema(expected)}
            details = {
                one.key: describe_change(one, made[one.key], connection, expected)
                for one in comparison.changed
            }
    later = _all_keys(schemas) if comparison.unknown else frozenset()
    return [
        *map(_taken_difference, taken),
        *map(_missing, _without_parts(comparison.missing, comparison.changed)),
        *(_changed(one, details[one.key]) for one in comparison.changed),
        *(
            _unknown(one, is_later=one.key in later)
            for one in _without_parts(comparison.unknown, comparison.changed)
        ),
    ]


def check_versions(schemas: Sequence[Schema], at: Mapping[str, int]) -> None:
    """Raise `MigrationError` unless every pack is known and has a migration with the given number."""
    known = {schema.name: len(schema.migrations(BACKEND)) for schema in schemas}
    for name, version in at.items():
        if name not in known:
            raise MigrationError(
                f"schema {name!r} is not one of the registry's packs ({', '.join(known) or 'none'}): pass the pack in schemas= or "
                "with --schema",
                schema=name,
            )
        if type(version) is not int or not 0 <= version <= known[name]:
            raise MigrationError(
                f"schema {name!r} has no migration {version!r}, its last is {known[name]:04d}: name the last migration that the file "
                "has, or 0 for none",
                schema=name,
                version=version,
            )


def mark_applied(
    path: Path, schemas: Sequence[Schema], *, at: Mapping[str, int], applied_at: datetime
) -> None:
    """Mark the packs' migrations up to `at` as applied, unless the database already lists its applied migrations.

    Args:
        path: A database without differences in `compare_adopted`, which no other process uses.
        schemas: The packs.
        at: For each pack, the number of the last migration to mark; see `compare_adopted`.
        applied_at: The time to store with each migration as the time of its application.
    """
    migrations = _until(schemas, at)
    try:
        with closing(connect(path, WRITABLE)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not any(one.name == _HISTORY for one in read_schema(connection)):
                connection.execute(migrator.CREATE_SQL)
                for migration in migrations:
                    migrator.record(migration, applied_at, 0.0, connection)
                connection.execute(f"PRAGMA user_version = {len(migrations):d}")
            connection.execute("COMMIT")
            truncate_log(connection)
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot mark the migrations of {path}") from error


def _check_adoptable(found: Sequence[SchemaObject], path: Path) -> None:
    if any(one.name == _OWNER for one in found):
        raise ForeignSchemaError(
            f"{path} already belongs to a tenant: use 'tenant import' with a bundle of that tenant, 'tenant clone', or "
            "'tenant replace-file'",
            objects=(f"table '{_OWNER}'",),
        )


def _taken(found: Sequence[SchemaObject]) -> list[SchemaObject]:
    """Return the other program's objects that have the name of one of tenantry's own tables."""
    own = {one.key: one for one in own_objects() if one.sql is not None}
    names = {name for _, name in own}
    return [
        one
        for one in found
        if one.key[1] in names and (one.key not in own or one.definition != own[one.key].definition)
    ]


def _listed(
    found: Sequence[SchemaObject],
    at: Mapping[str, int],
    connection: sqlite3.Connection,
    path: Path,
    schemas: Sequence[Schema],
) -> dict[str, int]:
    """Return the applied versions that a database from `create_backend` lists; empty if another program made the file."""
    if not any(one.name == _HISTORY for one in found):
        return {}
    applied, file_version = read_applied(found, connection, path)
    versions = {row.schema: sum(other.schema == row.schema for other in applied) for row in applied}
    if at and dict(at) != versions:
        raise MigrationError(
            f"{path} already lists applied migrations ({', '.join(f'{name} {number:04d}' for name, number in versions.items())}): "
            f"pass no migrations {_BY_AT}, or pass exactly the listed migrations"
        )
    plan_migrations(schemas, BACKEND, applied, file_version)
    check_versions(schemas, versions)
    return versions


def _until(schemas: Sequence[Schema], at: Mapping[str, int]) -> list[Migration]:
    return [
        migration for schema in schemas for migration in schema.migrations(BACKEND)[: at.get(schema.name, 0)]
    ]


def _all_keys(schemas: Sequence[Schema]) -> frozenset[tuple[str, str]]:
    """Return the keys of all objects that the packs' migrations create."""
    migrations = [migration for schema in schemas for migration in schema.migrations(BACKEND)]
    with closing(database_of(migrations, schemas)) as connection:
        return frozenset(one.key for one in read_schema(connection))


def _without_parts(
    objects: Sequence[SchemaObject], changed: Sequence[SchemaObject] = ()
) -> Iterator[SchemaObject]:
    """Yield the objects, except indexes of a table in `objects` and indexes of a changed table's constraints."""
    tables = {folded(one.name) for one in objects if one.type == "table"}
    tables_changed = {folded(one.name) for one in changed if one.type == "table"}
    for one in objects:
        is_part = one.type == "index" and folded(one.table) in tables
        if not is_part and not (one.sql is None and folded(one.table) in tables_changed):
            yield one


def _taken_difference(one: SchemaObject) -> SchemaDifference:
    return SchemaDifference(
        "taken",
        one.shown,
        "another program created this object, and tenantry needs the name for its own table",
        "drop or rename the object in a copy of the file, and adopt the copy",
    )


def _missing(one: SchemaObject) -> SchemaDifference:
    return SchemaDifference(
        "missing",
        one.shown,
        "the packs create this object, and the file lacks it",
        f"name an earlier migration {_BY_AT}, or create the object in a copy of the file, and adopt the copy",
    )


def _changed(one: SchemaObject, detail: str) -> SchemaDifference:
    return SchemaDifference(
        "changed",
        one.shown,
        detail,
        f"name another migration {_BY_AT}, change the object in a copy of the file, or change the pack's migration",
    )


def _unknown(one: SchemaObject, *, is_later: bool) -> SchemaDifference:
    if is_later:
        advice = f"a later migration creates it: name that migration {_BY_AT}, or drop the object in a copy of the file"
    elif one.type == "table":
        advice = f"accept the table {_BY_ACCEPTING}, add it to a pack's migration, or drop it in a copy of the file"
    else:
        advice = "add the object to a pack's migration, or drop it in a copy of the file"
    return SchemaDifference("unknown", one.shown, "no pack creates it up to the named migrations", advice)
