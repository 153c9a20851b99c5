"""Copies the rows of a SQLite tenant file into a new schema that has the packs' tables.

Everything happens in one transaction: an error, a crash or a cancellation leaves the schema as it was. The rows go by COPY, one
table after the other in the order of the foreign keys; foreign keys in a circle are checked at the end. The packs' triggers do not
run, because the file has the rows that they made. The rows that migrations insert are removed for the same reason.

PostgreSQL refuses some values that SQLite stores: a NUL in a text, a text that is not valid JSON or not an instant, a long text in an
index. Such an error names the table, the column and the key of the row, but not the value.

These functions block; each call runs on its own thread.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import Connection

from tenantry.errors import SnapshotError
from tenantry.schemas.schema import Schema
from tenantry.storage.artifacts import FileRows
from tenantry.storage.plain_tables import NotPlainError
from tenantry.storage.postgres.connections.errors import without_value
from tenantry.storage.postgres.copies.copied_values import (
    ValueRefusedError,
    as_stored,
    compared_columns,
    to_server,
)
from tenantry.storage.postgres.copies.copy_out import SETTINGS, check_packs, read_rows
from tenantry.storage.postgres.copies.foreign_keys import deferred_circles, in_order
from tenantry.storage.postgres.copies.numbering import raise_number
from tenantry.storage.postgres.copies.plain_tables import create_plain_table
from tenantry.storage.postgres.copies.tables import Table, read_tables
from tenantry.storage.postgres.quoting import quoted
from tenantry.storage.row_digests import RowDigest
from tenantry.threads import check_cancelled

ROWS_PER_CHECK: Final = 5_000
"""The number of rows after which a cancellation is noticed."""

_LINE: Final = re.compile(r"^COPY \S.*?, line (?P<number>\d+)(?:, column (?P<column>[^:\n]+))?", re.MULTILINE)
# The first characters of SQLSTATEs that are no fault of the row (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_SERVER_FAILURES: Final = ("08", "40", "53", "55", "57", "58", "XX")
# A view that reads another one is younger.
_MATERIALIZED_VIEWS: Final = """
SELECT c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'm' ORDER BY c.oid
"""
_KEYS: Final = "tenantry_idempotency"


def copy_in(
    connection: Connection[tuple[Any, ...]], schema: str, file: FileRows, schemas: Sequence[Schema]
) -> None:
    """Fill the tables of a new schema in the caller's transaction. The caller commits, or rolls back after an error.

    Args:
        connection: A connection inside a transaction.
        schema: The schema, to which the packs' migrations were applied up to the file's versions.
        file: The tenant file.
        schemas: The packs.

    Raises:
        MissingSchemaError: The file has packs that `schemas` lacks.
        SnapshotError: A table or a row cannot be stored; the message names the table, and the column and the row if they are known.
        psycopg.Error: The server failed.
    """
    connection.execute(SETTINGS)
    check_packs(file.versions, schemas)
    tables = _matched(read_tables(connection, schema), file, schema, connection)
    names = ", ".join(quoted(schema, name) for name in tables)
    if names:
        connection.execute(f"TRUNCATE {names}".encode())
    for name in tables:
        connection.execute(f"ALTER TABLE {quoted(schema, name)} DISABLE TRIGGER USER".encode())
    ordered, circles = in_order(connection, schema, tables)
    try:
        with deferred_circles(connection, circles):
            for name in ordered:
                _copy_table(tables[name], file, schema, connection)
    except psycopg.errors.IntegrityError as error:
        raise _mapped(error, error.diag.table_name or "", file) from error
    for name in tables:
        connection.execute(f"ALTER TABLE {quoted(schema, name)} ENABLE TRIGGER USER".encode())
        _set_numbers(tables[name], file, schema, connection)
    _copy_keys(file, schema, connection)
    for (view,) in connection.execute(_MATERIALIZED_VIEWS, (schema,)).fetchall():
        connection.execute(f"REFRESH MATERIALIZED VIEW {quoted(schema, view)}".encode())
    if names:
        connection.execute(f"ANALYZE {names}".encode())


def _matched(
    tables: Mapping[str, Table], file: FileRows, schema: str, connection: Connection[tuple[Any, ...]]
) -> dict[str, Table]:
    """Return the tables to fill, after tables that no pack knows were created in the schema."""
    unknown = sorted(file.tables.keys() - tables.keys())
    for name in unknown:
        try:
            create_plain_table(connection, schema, file.describe(name))
        except NotPlainError as reason:
            raise SnapshotError(
                f"the table {name!r} of {file.path} belongs to no schema pack, and cannot be copied to PostgreSQL because of {reason}: "
                "put the table into a schema pack, or drop the table"
            ) from None
    known = read_tables(connection, schema) if unknown else dict(tables)
    for name, table in known.items():
        if name not in file.tables:
            raise SnapshotError(
                f"{file.path} lacks the table {name!r}, which the schema packs create: restore another snapshot"
            )
        table.check_columns(file.tables[name].columns, f"{file.path} and the migrations for PostgreSQL")
    return known


def _copy_table(table: Table, file: FileRows, schema: str, connection: Connection[tuple[Any, ...]]) -> None:
    declared = file.tables[table.name].columns
    names = tuple(declared)
    columns = table.columns_named(names)
    compared = compared_columns(columns)
    given, stored = RowDigest(compared), RowDigest(compared)
    statement = f"COPY {quoted(schema, table.name)} ({', '.join(map(quoted, names))}) FROM STDIN"
    sent = _Sent()
    try:
        with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            rows = sent.counted(file.rows(table.name, names))
            for row in to_server(columns, rows):
                copy.write_row(row)
    except ValueRefusedError as refused:
        raise _refused(table.name, file, sent.rows, str(refused)) from refused
    except psycopg.Error as error:
        raise _mapped(error, table.name, file) from error
    try:
        given.consume(as_stored(columns, file.rows(table.name, names)))
    except ValueError:  # not JSON, which the server would have refused
        given.rows = -1
    stored.consume(read_rows(connection, schema, table, names, declared))
    if stored.value != given.value:
        raise SnapshotError(
            f"table {table.name!r}: PostgreSQL stored {stored.rows} of {sent.rows} rows, or stored other values than {file.path}: the "
            "columns' types in the migrations for PostgreSQL must keep the values of SQLite"
        )


class _Sent:
    """Counts the rows that were sent."""

    def __init__(self) -> None:
        self.rows = 0

    def counted(self, rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        for row in rows:
            self.rows += 1
            if self.rows % ROWS_PER_CHECK == 0:
                check_cancelled()
            yield row


def _mapped(error: psycopg.Error, table: str, file: FileRows) -> Exception:
    """Return the error that names the row; the driver's own error if the server did not refuse a row.

    The server names the row that it is reading in every error, also if its disk is full or the connection is terminated.
    """
    found = _LINE.search(error.diag.context or "")
    reason = error.diag.message_primary or str(error)
    if found is None or error.sqlstate is None or error.sqlstate.startswith(_SERVER_FAILURES):
        if (error.sqlstate or "").startswith("23"):
            # A foreign key is checked after the last row.
            return SnapshotError(
                f"table {table!r}: {reason}: correct the rows, then try again", code=error.sqlstate
            )
        return error
    shown = without_value(reason, error.sqlstate)
    if (column := found["column"]) is not None:
        shown = f"column {column!r}: {shown}"
    return _refused(table, file, int(found["number"]), shown, code=error.sqlstate)


def _refused(
    table: str, file: FileRows, number: int, reason: str, *, code: str | None = None
) -> SnapshotError:
    return SnapshotError(
        f"table {table!r}, row {file.row_key(table, number)}: {reason}: correct the row, or delete it, then try again",
        code=code,
    )


def _set_numbers(table: Table, file: FileRows, schema: str, connection: Connection[tuple[Any, ...]]) -> None:
    """Continue the numbering of rows after the largest number, so that the next row gets an unused number."""
    for column in table.columns:
        if column.is_numbered:
            raise_number(connection, schema, table.name, column.name, file.last_number(table.name))


def _copy_keys(file: FileRows, schema: str, connection: Connection[tuple[Any, ...]]) -> None:
    statement = f"COPY {quoted(schema, _KEYS)} (key, payload_hash, results, created_at) FROM STDIN"
    try:
        with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for row in file.idempotency_keys():
                copy.write_row(row)
    except psycopg.DataError as error:
        # A key is the caller's, and may be a secret, so the message does not name it.
        raise SnapshotError(
            f"an idempotency key of {file.path} cannot be stored: {error.diag.message_primary or error}: it is too long, or has a NUL; "
            "delete its row from tenantry_idempotency, then try again",
            code=error.sqlstate,
        ) from error
