"""A new tenant file that is filled with the rows of another back end's database.

The packs' migrations for SQLite create the tables, so the file is complete: every SQLite back end can open it.

These functions block for a time that grows with the number of rows; each call runs on its own thread.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from tenantry.clock import SystemClock
from tenantry.errors import SnapshotError
from tenantry.files.disk_space import check_copy_fits
from tenantry.files.durable_files import sync_file
from tenantry.schemas.migration import Migration
from tenantry.schemas.schema import Schema
from tenantry.storage.migrations import AppliedMigration, migrations_up_to
from tenantry.storage.plain_tables import PlainTable
from tenantry.storage.row_digests import RowDigest
from tenantry.storage.sqlite.connections import hardening
from tenantry.storage.sqlite.connections.connect_hooks import hooks_of, run_hooks
from tenantry.storage.sqlite.connections.functions import add_functions
from tenantry.storage.sqlite.database_files import ownership
from tenantry.storage.sqlite.database_files.database_file import database_uri, remove_database
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, error_text, map_error
from tenantry.storage.sqlite.migrations import migrator
from tenantry.storage.sqlite.migrations.memory_database import database_of
from tenantry.storage.sqlite.statements import idempotency
from tenantry.storage.sqlite.statements.sql_text import quoted
from tenantry.storage.sqlite.tenant_files.plain_tables import create_plain_table
from tenantry.storage.sqlite.tenant_files.tables import FileTable, read_tables
from tenantry.threads import check_cancelled

ROWS_PER_BATCH: Final = 5_000
"""The number of rows after which the free disk space and a cancellation are checked."""

_CREATE: Final = "mode=rw"
_ADD_OWNER: Final = "INSERT INTO tenantry_owner (id, tenant_uid, epoch, owner) VALUES (1, ?, ?, '')"
_ADD_KEY: Final = (
    "INSERT INTO tenantry_idempotency (key, payload_hash, results, created_at) VALUES (?, ?, ?, ?)"
)


class FilledFile:
    """A new tenant file in one open transaction; see `filled_file`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self.tables = read_tables(connection)
        """The tables that take rows, by name: the packs' tables, and those that `add_table` creates."""

    def add_table(self, table: PlainTable) -> None:
        """Create a table that no pack knows."""
        create_plain_table(table, self._connection)
        self.tables = read_tables(self._connection)

    def fill(self, name: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Insert the rows into a table, and check that the table returns exactly these rows.

        Raises:
            SnapshotError: The table refused a row or changed a value; the message names the table.
            StorageFullError: The disk has too little space for the copy.
        """
        table = self.tables[name]
        given = RowDigest()
        names, places = ", ".join(map(quoted, columns)), ", ".join("?" * len(columns))
        insert = f"INSERT INTO {quoted(name)} ({names}) VALUES ({places})"  # noqa: S608
        try:
            self._connection.executemany(insert, given.passed(self._in_batches(rows)))
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError) as error:
            raise SnapshotError(
                f"table {name!r}: SQLite refused a row after {given.rows - 1} rows: {error_text(error)}: the table's migrations for "
                "SQLite must accept the rows that the other back end accepts"
            ) from error
        stored = RowDigest()
        stored.consume(self._connection.execute(table.select(columns)))
        if stored.value != given.value:
            raise SnapshotError(
                f"table {name!r}: SQLite stored {stored.rows} of {given.rows} rows, or stored other values: the columns' types in the "
                "migrations for SQLite must keep the values of the other back end"
            )

    def fill_idempotency_keys(self, rows: Iterable[tuple[str, bytes, str, str]]) -> None:
        """Insert idempotency keys, each with the hash of its write, its results as JSON and the instant of its creation."""
        for sql in idempotency.CREATE_SQL:
            self._connection.execute(sql)
        self._connection.executemany(_ADD_KEY, self._in_batches(rows))

    def raise_number(self, name: str, last: int) -> None:
        """Continue a table's AUTOINCREMENT after `last`; a no-op if the table has no AUTOINCREMENT."""
        if not self.tables[name].has_autoincrement:
            return
        self._connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        self._connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, last))

    def _in_batches(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        for number, row in enumerate(rows):
            if number % ROWS_PER_BATCH == 0:
                check_cancelled()
                check_copy_fits(self._path.parent, 0, self._path.stat().st_size)
            yield row


@contextmanager
def filled_file(
    path: Path, schemas: Sequence[Schema], versions: Mapping[str, int], *, tenant_uid: str, epoch: int
) -> Iterator[FilledFile]:
    """Create a tenant file with empty tables, and make the file durable at the end of the block. An error leaves no file.

    The rows that migrations insert are removed, because the other database has these rows too. The packs' triggers do not run for
    the copied rows.

    Args:
        path: The new file, which must not exist.
        schemas: The packs that create the tables.
        versions: The last migration of each pack.
        tenant_uid: The stable key of the tenant, for the file's owner mark.
        epoch: The epoch for the file's owner mark.

    Raises:
        MigrationError: A pack lacks a migration, or a migration failed.
        SnapshotError: The file exists, or SQLite refused a table or a row.
        StorageFullError: The disk has too little space for the copy.
        PersistenceError: SQLite failed.
    """
    wanted = migrations_up_to(versions, schemas, "sqlite")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise SnapshotError(f"cannot create {path}: {error}") from error
    try:
        with closing(_connect(path, schemas)) as connection:
            _migrate(wanted, connection)
            # The other back end has checked the foreign keys; here a row may come before the row that it refers to.
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(ownership.CREATE_SQL)
            connection.execute(_ADD_OWNER, (tenant_uid, epoch))
            triggers = _drop_triggers(connection)
            new = FilledFile(path, connection)
            for table in new.tables.values():
                connection.execute(f"DELETE FROM {quoted(table.name)}")  # noqa: S608
            yield new
            _rebuild_virtual_tables(new.tables, connection)
            for sql in triggers:
                connection.execute(sql)
            connection.execute("COMMIT")
        sync_file(path)
    except DRIVER_ERRORS as error:
        remove_database(path)
        raise map_error(error, f"cannot write {path}") from error
    except BaseException:
        remove_database(path)
        raise


def _connect(path: Path, schemas: Sequence[Schema]) -> sqlite3.Connection:
    connection = sqlite3.connect(database_uri(path, _CREATE), uri=True, isolation_level=None)
    try:
        run_hooks(hooks_of(schemas), connection)
        hardening.harden(connection)
        add_functions(connection)
        hardening.Watch().watch(connection)
        # The file is removed after a failure and synced at the end, so neither a journal on disk nor a sync is needed.
        connection.executescript("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;")
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(wanted: tuple[Migration, ...], connection: sqlite3.Connection) -> None:
    def plan(applied: list[AppliedMigration], _: int) -> tuple[Migration, ...]:
        return wanted[len(applied) :]

    migrator.apply_migrations(migrator.Plan([], 0, wanted), plan, SystemClock(), connection)


def _drop_triggers(connection: sqlite3.Connection) -> list[str]:
    """Drop all triggers, and return the statements that create them again."""
    triggers = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY rowid"
    ).fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {quoted(name)}")
    return [sql for _, sql in triggers]


def _rebuild_virtual_tables(tables: Mapping[str, FileTable], connection: sqlite3.Connection) -> None:
    """Fill the full-text indexes from the tables that they index; no other back end has these indexes.

    Raises:
        SnapshotError: A virtual table cannot be filled from other tables.
    """
    sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual' ORDER BY name"
    for (name,) in connection.execute(sql).fetchall():
        if name in tables:
            continue
        try:
            connection.execute(f"INSERT INTO {quoted(name)} ({quoted(name)}) VALUES ('rebuild')")  # noqa: S608
        except sqlite3.OperationalError as error:
            raise SnapshotError(
                f"the virtual table {name!r} cannot be filled ({error}): only full-text indexes of other tables can be copied from "
                "another back end"
            ) from error


def expected_tables(schemas: Sequence[Schema], versions: Mapping[str, int]) -> dict[str, FileTable]:
    """Return the tables that the packs' migrations create, by name.

    Raises:
        MigrationError: A pack lacks a migration, or a migration failed.
    """
    with closing(database_of(migrations_up_to(versions, schemas, "sqlite"), schemas)) as connection:
        return read_tables(connection)
