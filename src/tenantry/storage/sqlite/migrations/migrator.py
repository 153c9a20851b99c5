"""Applies migrations to a SQLite database: each in one transaction with its row and its ``user_version``.

SQLite's DDL is transactional (https://www.sqlite.org/lang_transaction.html). Python's implicit transactions and ``executescript``, which
commits first, would break this: so statements are executed one by one between our own BEGIN IMMEDIATE and COMMIT
(`migration_script`).

A step runs with foreign keys off, as SQLite's procedure for changing a table requires
(https://www.sqlite.org/lang_altertable.html, section 7): with foreign keys on, dropping the old table deletes the rows of its children. The
pragma has no effect inside a transaction, so it comes before BEGIN. The step fails if it leaves rows
without their parent (`foreign_keys`).

Two processes may migrate one file at the same moment: the plan is made again under the write lock, so the second process finds
the migrations of the first applied.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

from tenantry.clock import Clock
from tenantry.errors import MigrationError
from tenantry.schemas.migration import Migration
from tenantry.storage.migrations import AppliedMigration
from tenantry.storage.sqlite.errors import (
    DRIVER_ERRORS,
    error_text,
    is_interrupted,
    is_machine_failure,
    is_transient,
)
from tenantry.storage.sqlite.migrations.foreign_keys import OrphanedRowsError, check_orphans, note_orphans
from tenantry.storage.sqlite.migrations.migration_function import failed_line, run_function
from tenantry.storage.sqlite.migrations.migration_script import run_script
from tenantry.storage.sqlite.statements.batch import roll_back

CREATE_SQL: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    schema      TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    checksum    TEXT    NOT NULL,  -- SHA-256 of the migration's text
    applied_at  TEXT    NOT NULL,  -- UTC
    duration_ms REAL    NOT NULL,
    PRIMARY KEY (schema, version)
) STRICT, WITHOUT ROWID
"""
_INSERT: Final = "INSERT INTO schema_migrations VALUES (?, ?, ?, ?, ?, ?)"
_SELECT: Final = "SELECT schema, version, checksum FROM schema_migrations ORDER BY schema, version"
SUMMARY_SQL: Final = """
SELECT user_version, (SELECT json_group_array(json_array(schema, version, checksum)) FROM schema_migrations) AS applied
FROM pragma_user_version
"""
"""What `plan` reads, as one row; fails if the database has no table of migrations."""
_EXISTS: Final = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'"


class Plan(NamedTuple):
    """The migrations that a database has, and those that are pending."""

    applied: list[AppliedMigration]
    file_version: int
    pending: tuple[Migration, ...]


Planner: TypeAlias = Callable[[list[AppliedMigration], int], tuple[Migration, ...]]
"""Returns the pending migrations, from the applied ones and the file's version."""


def plan(planner: Planner, connection: sqlite3.Connection) -> Plan:
    """Plan from one snapshot: rows and ``user_version`` of two moments could look like a file that was changed by hand."""
    connection.execute("BEGIN")
    try:
        return _plan(planner, connection)
    finally:
        roll_back(connection)


def plan_from_summary(planner: Planner, file_version: int, applied_json: str) -> Plan:
    """Plan from the row of `SUMMARY_SQL`."""
    applied = [AppliedMigration(*row) for row in json.loads(applied_json)]
    return Plan(applied, file_version, planner(applied, file_version))


def read_file_version(connection: sqlite3.Connection) -> int:
    """Return the database's ``user_version``: how many migrations were applied to it."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def apply_migrations(
    first: Plan, planner: Planner, clock: Clock, connection: sqlite3.Connection
) -> tuple[Migration, ...]:
    """Apply the pending migrations in order, and return those that were applied here; another process may have applied the rest.

    If one fails, those before it stay applied, and it leaves the file as it was. The plan is made again before each step, because the
    first one is from before the file was locked.

    Raises:
        MigrationError: A step's SQL failed, or the planner refuses the database as another process left it.
    """
    applied: list[Migration] = []
    pending = first.pending
    while pending:
        migration = pending[0]
        try:
            with _step(connection):
                now = _plan(planner, connection)
                if not now.pending:
                    break
                migration = now.pending[0]
                _apply(migration, now.file_version + 1, clock, connection)
        except (*DRIVER_ERRORS, ValueError, OrphanedRowsError) as error:
            raise _failure(migration, error) from error
        applied.append(migration)
        pending = now.pending[1:]
    return tuple(applied)


@contextmanager
def _step(connection: sqlite3.Connection) -> Iterator[None]:
    """Begin the transaction of a step without foreign keys; afterwards roll back if it was not committed, and reset every pragma."""
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        try:
            roll_back(connection)
        finally:
            _set_surely("PRAGMA legacy_alter_table = OFF", connection)
            _set_surely("PRAGMA foreign_keys = ON", connection)


def _set_surely(pragma: str, connection: sqlite3.Connection) -> None:
    """Run a pragma although a cancelled caller interrupts the connection every few milliseconds."""
    try:
        connection.execute(pragma)
    except sqlite3.OperationalError as error:
        if not is_interrupted(error):
            raise
        connection.execute(pragma)


def _plan(planner: Planner, connection: sqlite3.Connection) -> Plan:
    applied, file_version = _read_applied(connection), read_file_version(connection)
    return Plan(applied, file_version, planner(applied, file_version))


def _read_applied(connection: sqlite3.Connection) -> list[AppliedMigration]:
    """Return the rows of ``schema_migrations``; none for a new database, which has no such table."""
    if connection.execute(_EXISTS).fetchone() is None:
        return []
    return [AppliedMigration(*row) for row in connection.execute(_SELECT)]


def _failure(migration: Migration, error: Exception) -> MigrationError:
    line = failed_line(migration, error)
    place = "" if line is None else f" at line {line} of {migration.file_name}"
    failure = MigrationError(
        f"migration {migration} failed{place} and left the database as it was: {error_text(error)}",
        schema=migration.schema,
        version=migration.version,
        is_step_failure=not is_machine_failure(error),
        code=getattr(error, "sqlite_errorname", type(error).__name__),
    )
    failure.is_retryable = is_transient(error)
    return failure


def _apply(migration: Migration, number: int, clock: Clock, connection: sqlite3.Connection) -> None:
    started = time.perf_counter()
    noted = note_orphans(connection)
    if migration.function is None:
        run_script(migration.sql, connection)
    else:
        run_function(migration.function, connection)
    check_orphans(noted, connection)
    connection.execute(CREATE_SQL)
    duration_ms = (time.perf_counter() - started) * 1000
    record(migration, clock.now(), duration_ms, connection)
    # A pragma takes no parameters; the number is ours.
    connection.execute(f"PRAGMA user_version = {number:d}")
    connection.execute("COMMIT")


def record(
    migration: Migration, applied_at: datetime, duration_ms: float, connection: sqlite3.Connection
) -> None:
    """Add the row of a migration to ``schema_migrations``."""
    connection.execute(
        _INSERT,
        (
            migration.schema,
            migration.version,
            migration.name,
            migration.checksum,
            applied_at.isoformat(timespec="milliseconds"),
            duration_ms,
        ),
    )
