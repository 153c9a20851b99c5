"""Applies migrations to a SQLite database, each in one transaction with its row and the new ``user_version``.

SQLite's DDL is transactional (https://www.sqlite.org/lang_transaction.html). Python's implicit transactions, and
``executescript``, could commit only a part of a migration. So statements are executed one by one between tenantry's own BEGIN
IMMEDIATE and COMMIT (`migration_script`).

A step runs with foreign keys off, as SQLite's procedure for changing a table requires
(https://www.sqlite.org/lang_altertable.html, section 7). With foreign keys on, dropping the old table would delete rows of its child
tables. The pragma has no effect inside a transaction, so the pragma runs before BEGIN. A step that leaves rows without their
parent fails (`foreign_keys`).

Two processes may migrate the same file at the same time. Each process plans again under the write lock, so the second process
sees the first process's migrations.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from tenantry.clock import Clock
from tenantry.errors import MigrationError
from tenantry.schemas.migration import Migration
from tenantry.storage.migrations import AppliedMigration, failed_step
from tenantry.storage.python_migrations import BrokenScriptError, failed_line
from tenantry.storage.sqlite.errors import (
    DRIVER_ERRORS,
    error_text,
    is_interrupted,
    is_machine_failure,
    is_transient,
)
from tenantry.storage.sqlite.migrations.foreign_keys import OrphanedRowsError, check_orphans, note_orphans
from tenantry.storage.sqlite.migrations.migration_function import run_function
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
APPLIED_SQL: Final = (
    "SELECT json_group_array(json_array(schema, version, checksum)) AS applied FROM schema_migrations"
)
"""Selects the applied migrations as one row; fails if the database has no table ``schema_migrations``."""
SUMMARY_SQL: Final = f"SELECT user_version, applied FROM pragma_user_version, ({APPLIED_SQL})"  # noqa: S608  # our own statements
"""Selects the data of `plan` as one row. The table-valued function takes as long as the rest of the statement."""
_EXISTS: Final = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'"


class Plan(NamedTuple):
    """The applied and the pending migrations of a database."""

    applied: list[AppliedMigration]
    file_version: int
    pending: tuple[Migration, ...]


Planner: TypeAlias = Callable[[list[AppliedMigration], int], tuple[Migration, ...]]
"""Takes the applied migrations and the file's version, and returns the pending migrations."""


def plan(planner: Planner, connection: sqlite3.Connection) -> Plan:
    """Plan from one snapshot, because rows and ``user_version`` read at different times could look like a manual change."""
    connection.execute("BEGIN")
    try:
        return _plan(planner, connection)
    finally:
        roll_back(connection)


def plan_from_summary(planner: Planner, file_version: int, applied_json: str) -> Plan:
    """Plan from the file's version and the result of `APPLIED_SQL`."""
    applied = list(_applied(applied_json))
    return Plan(applied, file_version, planner(applied, file_version))


@lru_cache(maxsize=16)  # most tenants have the same migrations
def _applied(applied_json: str) -> tuple[AppliedMigration, ...]:
    return tuple(AppliedMigration(*row) for row in json.loads(applied_json))


def read_file_version(connection: sqlite3.Connection) -> int:
    """Return the database's ``user_version``, which is the number of applied migrations."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def apply_migrations(
    first: Plan, planner: Planner, clock: Clock, connection: sqlite3.Connection
) -> tuple[Migration, ...]:
    """Apply the pending migrations in order, and return the migrations that this call applied.

    Another process may apply some of the pending migrations, so each step plans again under the write lock. A failed migration is
    rolled back; earlier migrations stay applied.

    Raises:
        MigrationError: A step failed, or the planner refuses the database after another process changed it.
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
    """Begin the transaction of a step with foreign keys off. At the end roll back any open transaction and reset the pragmas."""
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
    """Run a pragma, twice if needed, because a cancelled caller interrupts the connection every few milliseconds."""
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
    """Return the rows of ``schema_migrations``, or an empty list for a new database, which does not have that table."""
    if connection.execute(_EXISTS).fetchone() is None:
        return []
    return [AppliedMigration(*row) for row in connection.execute(_SELECT)]


def _failure(migration: Migration, error: Exception) -> MigrationError:
    code = error.code if isinstance(error, BrokenScriptError) else getattr(error, "sqlite_errorname", None)
    return failed_step(
        migration,
        error_text(error),
        line=failed_line(migration, error),
        code=code or type(error).__name__,
        is_machine_failure=is_machine_failure(error),
        is_retryable=is_transient(error),
    )


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
    # A pragma takes no parameters. The number comes from tenantry and not from a caller.
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
