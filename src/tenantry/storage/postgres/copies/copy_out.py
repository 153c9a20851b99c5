"""Copies a tenant's schema into a new, complete SQLite tenant file, the form of all snapshots, bundles and moves.

The rows come by COPY out of one READ ONLY transaction with REPEATABLE READ, so the copy is the state of one moment. Writers do not
wait for the copy. Nothing but the tenant's own schema is read, so the time does not depend on the number of other tenants; pg_dump
of one schema among 5,000 takes two minutes. The memory does not depend on the number of rows.

The packs' migrations for SQLite create the tables at the tenant's versions. A table that no pack knows is copied if it is plain (see
`PlainTable`); any other is an error that names the table, because a copy without the table's properties would be silently incomplete.

These functions block; each call runs on its own thread.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from psycopg import Connection, errors, pq

from tenantry.errors import DatabaseCorruptError, MissingSchemaError, SnapshotError
from tenantry.schemas.schema import Schema
from tenantry.storage.artifacts import FilledFile, filled_file
from tenantry.storage.plain_tables import NotPlainError
from tenantry.storage.postgres.copies.copied_values import from_server, instant_text, types_read
from tenantry.storage.postgres.copies.numbering import last_number
from tenantry.storage.postgres.copies.plain_tables import describe_plain_table
from tenantry.storage.postgres.copies.tables import Table, read_tables
from tenantry.storage.postgres.quoting import quoted

_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# No setting of the role or the database may change the texts of values. The longest copy may take as long as it takes.
SETTINGS: Final = """
SELECT set_config('search_path', '', true), set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true),
    set_config('IntervalStyle', 'postgres', true), set_config('bytea_output', 'hex', true),
    set_config('extra_float_digits', '1', true), set_config('statement_timeout', '0', true)
"""


class Mark(NamedTuple):
    """The owner mark and the versions of a tenant's schema."""

    tenant_uid: str
    epoch: int
    versions: Mapping[str, int]


def copy_out(
    connection: Connection[tuple[Any, ...]], schema: str, path: Path, schemas: Sequence[Schema]
) -> None:
    """Write a consistent copy of a schema into a new file, durably. An error leaves no file.

    Args:
        connection: A connection with autocommit, outside a transaction.
        schema: The name of the tenant's schema.
        path: The new file, which must not exist.
        schemas: The packs.

    Raises:
        DatabaseCorruptError: The schema is missing, or is not a tenant's.
        MissingSchemaError: The tenant has packs that `schemas` lacks.
        SnapshotError: A table cannot be copied; the message names the table.
        StorageFullError: The disk has too little space for the copy.
        PersistenceError: The server or SQLite failed.
    """
    connection.execute(_BEGIN)
    try:
        connection.execute(SETTINGS)
        mark = read_mark(connection, schema)
        check_packs(mark.versions, schemas)
        tables = read_tables(connection, schema)
        with filled_file(path, schemas, mark.versions, tenant_uid=mark.tenant_uid, epoch=mark.epoch) as file:
            for table in _matched(tables, file, schema, connection):
                _copy_table(table, file, schema, connection)
            _copy_keys(file, schema, connection)
        connection.rollback()
    except BaseException:
        if connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
            # The COPY that is under way holds the driver's lock: a rollback would wait for ever.
            connection.close()
        elif not connection.closed:
            connection.rollback()
        raise


def read_mark(connection: Connection[tuple[Any, ...]], schema: str) -> Mark:
    """Read the owner mark and the versions of a schema.

    Raises:
        DatabaseCorruptError: The schema is missing, or is not a tenant's.
    """
    try:
        with connection.transaction():
            owner = connection.execute(
                f"SELECT tenant_uid, epoch FROM {quoted(schema, 'tenantry_owner')} WHERE id = 1"  # noqa: S608
            ).fetchone()
            versions = dict(
                connection.execute(
                    f"SELECT schema, max(version) FROM {quoted(schema, 'schema_migrations')} GROUP BY schema"  # noqa: S608
                ).fetchall()
            )
    except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
        raise DatabaseCorruptError(
            f"the schema {schema!r} is missing, or is not a tenant's: restore a snapshot"
        ) from error
    if owner is None:
        raise DatabaseCorruptError(
            f"the schema {schema!r} has lost its row in tenantry_owner: restore a snapshot"
        )
    return Mark(owner[0], owner[1], versions)


def check_packs(versions: Mapping[str, int], schemas: Sequence[Schema]) -> None:
    """Check that all packs of a database are known.

    Raises:
        MissingSchemaError: The database has packs that `schemas` lacks.
    """
    missing = tuple(sorted(versions.keys() - {schema.name for schema in schemas}))
    if missing:
        raise MissingSchemaError(
            f"the database has the schema packs {', '.join(missing)}, which this process lacks, so its tables cannot be copied: "
            "start this process with all schema packs of the tenants",
            missing_schemas=missing,
        )


def read_rows(
    connection: Connection[tuple[Any, ...]],
    schema: str,
    table: Table,
    names: tuple[str, ...],
    declared: Mapping[str, str],
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table as SQLite's values, in any order.

    Args:
        connection: A connection with the settings of `copy_out`.
        schema: The name of the tenant's schema.
        table: The table.
        names: The columns to read.
        declared: The declared type of each column in SQLite.
    """
    columns = table.columns_named(names)
    select = f"SELECT {', '.join(map(quoted, names))} FROM {quoted(schema, table.name)}"  # noqa: S608
    with connection.cursor() as cursor, cursor.copy(f"COPY ({select}) TO STDOUT") as copy:
        copy.set_types(types_read(columns))
        yield from from_server(columns, [declared[name] for name in names], copy.rows())


def _matched(
    tables: Mapping[str, Table], file: FilledFile, schema: str, connection: Connection[tuple[Any, ...]]
) -> Iterator[Table]:
    """Yield the tables to copy, after tables that no pack knows were created in the file."""
    missing = sorted(file.tables.keys() - tables.keys())
    if missing:
        raise SnapshotError(
            f"the schema {schema!r} lacks the table {missing[0]!r}, which the schema packs create: restore a snapshot"
        )
    for table in tables.values():
        if table.name not in file.tables:
            try:
                file.add_table(describe_plain_table(connection, schema, table))
            except NotPlainError as reason:
                raise SnapshotError(
                    f"the table {table.name!r} of the schema {schema!r} belongs to no schema pack, and cannot be copied because of "
                    f"{reason}: put the table into a schema pack, or drop the table"
                ) from None
        table.check_columns(
            file.tables[table.name].columns, f"the schema {schema!r} and the migrations for SQLite"
        )
        yield table


def _copy_table(table: Table, file: FilledFile, schema: str, connection: Connection[tuple[Any, ...]]) -> None:
    declared = file.tables[table.name].columns
    names = tuple(declared)
    file.fill(table.name, names, read_rows(connection, schema, table, names, declared))
    for column in table.columns:
        if column.is_numbered:
            file.raise_number(table.name, last_number(connection, schema, table.name, column.name))


def _copy_keys(file: FilledFile, schema: str, connection: Connection[tuple[Any, ...]]) -> None:
    table = quoted(schema, "tenantry_idempotency")
    (exists,) = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,)).fetchone() or (False,)
    if not exists:
        return
    select = f"SELECT key, payload_hash, results, created_at FROM {table}"  # noqa: S608
    with connection.cursor() as cursor, cursor.copy(f"COPY ({select}) TO STDOUT") as copy:
        copy.set_types(["text", "bytea", "text", "text"])
        # SQLite's own keys have this form of an instant, and compare it as text.
        file.fill_idempotency_keys(
            (key, payload_hash, results, instant_text(created_at).replace("Z", "+00:00"))
            for key, payload_hash, results, created_at in copy.rows()
        )
