"""Compares the schema of a foreign database with the schema that the packs create.

A foreign database comes from a bundle, or from a file that an operator put in place. SQLite runs the schema as code, so nothing may
run the schema before this check. Even ``quick_check`` would evaluate CHECK constraints and generated columns. The check only reads
the names and the SQL of the schema's objects.

To know the expected objects, the check runs the packs' migrations in a database in memory, up to the versions in the file. Every
other object is refused. The caller can accept more tables by name. The definitions of accepted tables run in the same database,
under an authorizer that only allows columns, constraints and indexes that call harmless functions.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tenantry.errors import DatabaseCorruptError, ForeignSchemaError
from tenantry.schemas.schema import Schema
from tenantry.storage.migrations import AppliedMigration, plan_migrations
from tenantry.storage.sqlite.connections import hardening
from tenantry.storage.sqlite.connections.immutable import ImmutableFile
from tenantry.storage.sqlite.database_files import ownership
from tenantry.storage.sqlite.database_files.database_file import database_uri
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, error_text
from tenantry.storage.sqlite.foreign.accepted_tables import make_accepted
from tenantry.storage.sqlite.foreign.schema_objects import (
    IMPORT_ADVICE,
    SchemaObject,
    read_schema,
    refused_objects,
    sql_tokens,
)
from tenantry.storage.sqlite.foreign.schema_pages import check_schema_size
from tenantry.storage.sqlite.migrations import migrator
from tenantry.storage.sqlite.migrations.memory_database import database_of
from tenantry.storage.sqlite.statements import idempotency, marks
from tenantry.storage.sqlite.statements.sql_text import folded

SCHEMA_SECONDS_MAX: Final = 10.0
MIGRATIONS_MAX: Final = 10_000
STATISTICS_ROWS_MAX: Final = 100_000
STATISTICS_BYTES_MAX: Final = 16 * 2**20
"""For each index, ANALYZE writes one row, or some dozens of rows if SQLite was built with STAT4."""

BACKEND: Final = "sqlite"
# A program that writes the file without SQLite can store any type in a column.
_MIGRATIONS_SQL: Final = (
    "SELECT substr(schema, 1, 100), version, substr(checksum, 1, 100) FROM schema_migrations LIMIT ?"
)
# SQLite's own tables, which SQLite creates for ANALYZE and AUTOINCREMENT.
_INTERNAL: Final = {
    "sqlite_sequence": "CREATE TABLE sqlite_sequence(name,seq)",
    "sqlite_stat1": "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    "sqlite_stat4": "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
}
_INTERNAL_COLUMNS: Final = {
    "sqlite_stat1": ("tbl", "idx", "stat"),
    "sqlite_stat4": ("tbl", "idx", "neq", "nlt", "ndlt", "sample"),
}


def check_foreign(path: Path, schemas: Sequence[Schema], *, accepted_tables: Collection[str] = ()) -> None:
    """Raise unless the schema of a database consists of the packs' objects and of accepted tables with their indexes.

    This function does not check the data: call `tenantry.storage.sqlite.maintenance.integrity.check` next.

    Raises:
        ForeignSchemaError: The database has other objects, or lacks some of the packs' objects; the error names the objects.
        MigrationError: The database is newer than the code.
        DatabaseCorruptError: The file is damaged, is not a database, or has a journal or log beside it.
    """
    with opened(path) as connection:
        found = read_schema(connection)
        applied, file_version = read_applied(found, connection, path)
        check_statistics(found, connection, path)
    plan_migrations(schemas, BACKEND, applied, file_version)
    known = {schema.name: schema.migrations(BACKEND) for schema in schemas}
    migrations = [
        m for name, all_ in known.items() for m in all_[: sum(row.schema == name for row in applied)]
    ]
    with closing(database_of(migrations, schemas)) as expected:
        _check_same(compare(found, expected, accepted_tables))
    if len({one.key for one in found}) < len(found):
        raise DatabaseCorruptError("the schema of the database has two objects with the same name")


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a foreign database to read its schema. The caller must not read the tables that the schema defines.

    Raises:
        DatabaseCorruptError: The file is damaged, is not a database, or has a journal or log beside it; or SQLite failed in the block.
    """
    if ImmutableFile.find(path) is None:
        raise DatabaseCorruptError(
            f"{path} cannot be checked: the file is missing or empty, or has a journal or log beside it"
        )
    try:
        check_schema_size(path)
        with closing(_open(path)) as connection:
            yield connection
    except (*DRIVER_ERRORS, OSError) as error:
        raise DatabaseCorruptError(f"the schema of {path} cannot be read: {error_text(error)}") from error


def _open(path: Path) -> sqlite3.Connection:
    uri = database_uri(path, "mode=ro&immutable=1")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        hardening.Watch(SCHEMA_SECONDS_MAX).watch(connection)
        hardening.confine(connection)
        hardening.harden(connection)  # reads the schema
        # Invalid UTF-8 in a name must not raise an error; no expected object has such a name.
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
    except BaseException:
        connection.close()
        raise
    return connection


def read_applied(
    found: Iterable[SchemaObject], connection: sqlite3.Connection, path: Path
) -> tuple[list[AppliedMigration], int]:
    """Return the migrations that the file lists as applied; raise if another program created the list's table."""
    version = migrator.read_file_version(connection)
    table = [one for one in found if folded(one.name) == "schema_migrations"]
    if not table:
        return [], version
    if [one.definition for one in table] != [_stored(migrator.CREATE_SQL).definition]:
        raise ForeignSchemaError(
            f"{path} has a 'schema_migrations' that tenantry did not create: the file is not a tenant's database",
            objects=tuple(one.shown for one in table),
        )
    rows = connection.execute(_MIGRATIONS_SQL, (MIGRATIONS_MAX + 1,)).fetchall()
    if len(rows) > MIGRATIONS_MAX or any(tuple(map(type, row)) != (str, int, str) for row in rows):
        raise DatabaseCorruptError(
            f"the list of applied migrations in {path} is malformed, or has more than {MIGRATIONS_MAX} rows"
        )
    return [AppliedMigration(*row) for row in rows], version


def check_statistics(found: Iterable[SchemaObject], connection: sqlite3.Connection, path: Path) -> None:
    """Raise if the statistics tables are larger than ANALYZE can make them.

    Every connection loads all statistics before its first statement. Gigabytes would occupy a shared thread for minutes.
    """
    for one in found:
        columns = _INTERNAL_COLUMNS.get(folded(one.name)) if _is_internal(one) else None
        if columns is None:
            continue
        size = " + ".join(f"ifnull(length({column}), 0)" for column in columns)
        sql = f"SELECT count(*), total({size}) FROM (SELECT * FROM {one.name} LIMIT ?)"  # noqa: S608  # our names
        rows, size_bytes = connection.execute(sql, (STATISTICS_ROWS_MAX + 1,)).fetchone()
        if rows > STATISTICS_ROWS_MAX or size_bytes > STATISTICS_BYTES_MAX:
            raise DatabaseCorruptError(
                f"{path} is refused: its {one.name} has more than {STATISTICS_ROWS_MAX} rows or {STATISTICS_BYTES_MAX} bytes; "
                "run ANALYZE on the original database, then create this file again"
            )


def _stored(create_sql: str) -> SchemaObject:
    """Create a table in an empty database, and return the table's row in the schema table."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(create_sql)
        return next(one for one in read_schema(connection) if one.type == "table")


class Comparison(NamedTuple):
    """The differences between the schema of a file and the schema that the packs create.

    Attributes:
        unknown: The file's objects that no pack creates.
        changed: The file's objects that the packs define differently.
        missing: The packs' objects that the file lacks.
    """

    unknown: list[SchemaObject]
    changed: list[SchemaObject]
    missing: list[SchemaObject]


def compare(
    found: Sequence[SchemaObject], expected: sqlite3.Connection, accepted_tables: Collection[str]
) -> Comparison:
    """Compare a file's schema with the packs' objects, tenantry's own optional tables and the accepted tables.

    Args:
        found: The file's objects.
        expected: A database that has the packs' objects; this function creates the accepted tables there.
        accepted_tables: The names of the accepted tables, which must be ordinary tables.
    """
    accepted = {folded(name) for name in accepted_tables}
    made = read_schema(expected)
    known = {one.key: one for one in (*own_objects(), *made)}
    accepting = [one for one in found if one.key not in known and folded(one.table) in accepted]
    known |= {one.key: one for one in make_accepted(accepting, expected)}
    return Comparison(
        unknown=[one for one in found if one.key not in known and not _is_internal(one)],
        changed=[one for one in found if one.key in known and one.definition != known[one.key].definition],
        missing=[one for one in made if one.key not in {one.key for one in found}],
    )


def _check_same(comparison: Comparison) -> None:
    for what, objects, advice in (
        ("has objects that no schema pack creates", comparison.unknown, _ACCEPT),
        ("has objects that differ from those of the schema packs", comparison.changed, IMPORT_ADVICE),
        ("lacks objects that its schema packs create", comparison.missing, IMPORT_ADVICE),
    ):
        if objects:
            raise refused_objects(f"the database {what}", objects, advice)


_ACCEPT: Final = f"{IMPORT_ADVICE}, or accept tables by name (--accept-tables, or accepted_tables in Python); other objects cannot be accepted"


def own_objects() -> list[SchemaObject]:
    """Return tenantry's own objects in a tenant's database, which are the tables of migrations, owner, idempotency keys and marks."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for sql in (migrator.CREATE_SQL, ownership.CREATE_SQL, *idempotency.CREATE_SQL, marks.CREATE_SQL):
            connection.execute(sql)
        return read_schema(connection)


def _is_internal(one: SchemaObject) -> bool:
    sql = _INTERNAL.get(folded(one.name))
    return sql is not None and one.type == "table" and tuple(sql_tokens(sql)) == one.definition[-1]
