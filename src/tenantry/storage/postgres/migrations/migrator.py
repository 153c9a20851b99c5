"""Applies migrations to a tenant's schema, each in one transaction with its row in ``schema_migrations``.

PostgreSQL's DDL is transactional, so a failed migration leaves nothing. Each step locks the owner's row, which every write of the
tenant locks too, and then plans again: if two processes migrate the same tenant, the second process sees the first process's
migrations. A process that has lost the tenant finds no owner's row with its epoch, and its step is refused.

A step runs as long as it needs: the server's timeouts for statements and for idle transactions are off during the step. The tenant's
own reads wait for a step that changes a table that they use, because PostgreSQL locks the table until the step's end. A step that
must wait for another session's lock of a table for longer than `LOCK_SECONDS_MAX` fails, and its error is retryable.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from tenantry import events
from tenantry.errors import (
    MigrationError,
    QueryError,
    TenantOwnedElsewhereError,
)
from tenantry.storage.migrations import AppliedMigration, failed_step
from tenantry.storage.postgres.connections.errors import CONNECTION_CLASS, TRANSIENT, without_value
from tenantry.storage.postgres.connections.lost_connection import ConnectionLostError
from tenantry.storage.postgres.migrations.migration_function import run_function
from tenantry.storage.postgres.migrations.migration_script import END_STEP, line_of, step_of
from tenantry.storage.protocol import MigrationReport
from tenantry.storage.python_migrations import BrokenScriptError, failed_line

if TYPE_CHECKING:
    from tenantry.clock import Clock
    from tenantry.eventlog import EventLog
    from tenantry.schemas.migration import Migration

CREATE_SQL: Final = """
CREATE TABLE schema_migrations (
    schema      varchar(40) COLLATE "C" NOT NULL,
    version     integer NOT NULL,
    name        text COLLATE "C" NOT NULL,
    checksum    varchar(64) COLLATE "C" NOT NULL,  -- SHA-256 of the migration's text
    applied_at  timestamptz NOT NULL,
    duration_ms double precision NOT NULL,
    PRIMARY KEY (schema, version)
)
"""
"""Creates the table of a new tenant's schema in which the migrator records the applied migrations."""

LOCK_SECONDS_MAX: Final = 5.0
"""The default of `MigratedSchema.lock_seconds_max`. All later readers of the table wait behind the migration."""

_SELECT: Final = "SELECT schema, version, checksum FROM {}.schema_migrations ORDER BY schema, version"
_INSERT: Final = "INSERT INTO {}.schema_migrations VALUES (%s, %s, %s, %s, %s, %s)"
_LOCK_OWNER: Final = "SELECT 1 FROM {}.tenantry_owner WHERE tenant_uid = {} AND epoch = {} FOR UPDATE"
_TRANSACTION_TIMEOUT_VERSION: Final = 170_000  # the first version of the server that has transaction_timeout
_TRANSIENT: Final = (CONNECTION_CLASS, *TRANSIENT)
_MACHINE_FAILURES: Final = (*_TRANSIENT, "58", "XX")

Planner: TypeAlias = Callable[[Sequence[AppliedMigration]], "tuple[Migration, ...]"]
"""Takes the applied migrations, and returns the pending migrations."""


class MigratedSchema(NamedTuple):
    """A schema to migrate.

    Attributes:
        name: The schema's name.
        tenant_uid: The uid in the owner's row.
        epoch: The epoch in the owner's row, as this process knows it.
        tenant_id: The tenant's id for messages; None for the catalog.
        role: The role that owns the tables; None for the connection's own role.
        lock_seconds_max: The longest time that a migration waits for the lock of a table.
    """

    name: str
    tenant_uid: str
    epoch: int
    tenant_id: str | None = None
    role: str | None = None
    lock_seconds_max: float = LOCK_SECONDS_MAX


async def migrate(
    connection: psycopg.AsyncConnection,
    schema: MigratedSchema,
    planner: Planner,
    *,
    clock: "Clock",
    log: "EventLog",
) -> MigrationReport:
    """Apply the pending migrations in order, each in a transaction with its row.

    Another process may apply some of the pending migrations. A failed migration is rolled back; earlier migrations stay applied. If the
    caller is cancelled, the running statement is cancelled, and the step is rolled back. After any error, close the connection.

    Args:
        connection: A connection outside pipeline mode and with autocommit, which nobody else uses.
        schema: The schema, with the tables of `CREATE_SQL` and the owner's row.
        planner: Finds the pending migrations, see `tenantry.storage.migrations.plan_migrations`.
        clock: The source of the time in the migrations' rows.
        log: The event log, bound to the tenant.

    Raises:
        MigrationError: A step failed, or the planner refuses the database.
        TenantOwnedElsewhereError: Another process owns the tenant, or the schema was replaced.
        ConnectionLostError: The connection ended, and the running step was rolled back, or only its answer was lost.
        QueryError: The server refused to read the migrations.
    """
    try:
        before = await _applied(schema, connection)
        pending = planner(before)
        if not pending:
            log.debug(events.MIGRATION_SKIPPED)
            return _report(before, ())
        log.info(events.MIGRATION_STARTED, pending=[str(migration) for migration in pending])
        applied: list[Migration] = []
        while pending:
            migration, pending = await _apply_next(schema, planner, clock, connection)
            if migration is not None:
                applied.append(migration)
        log.info(events.MIGRATION_COMPLETED, applied=len(applied))
        return _report(await _applied(schema, connection), applied)
    except psycopg.errors.UndefinedTable as error:
        raise _taken_over(schema) from error
    except psycopg.Error as error:
        if connection.closed:
            raise ConnectionLostError(
                f"the connection ended during the migrations: {_text(error)}", code=error.sqlstate
            ) from error
        raise QueryError(
            f"cannot read the migrations of the schema {schema.name}: {_text(error)}",
            code=error.sqlstate,
            is_transient=(error.sqlstate or "").startswith(_TRANSIENT),
        ) from error


async def _apply_next(
    schema: MigratedSchema, planner: Planner, clock: "Clock", connection: psycopg.AsyncConnection
) -> "tuple[Migration | None, tuple[Migration, ...]]":
    """Apply the first pending migration. Return this migration and the migrations after it; None and an empty list if nothing is pending."""
    migration = None
    try:
        async with _step(schema, connection):
            pending = planner(await _applied(schema, connection))
            if not pending:
                return None, ()
            migration = pending[0]
            await _apply(migration, schema, clock, connection)
    except (psycopg.Error, BrokenScriptError) as error:
        if migration is None or connection.closed:
            raise
        raise _failure(migration, error) from error
    return migration, pending[1:]


@asynccontextmanager
async def _step(schema: MigratedSchema, connection: psycopg.AsyncConnection) -> AsyncIterator[None]:
    """Begin a transaction in the schema, lock the owner's row, and commit the transaction after the block, or roll it back."""
    await connection.execute(_begin(schema, connection))
    try:
        await _lock_owner(schema, connection)
        yield
        await connection.execute("COMMIT")
    except Exception:
        with suppress(psycopg.Error):  # a closed connection has no transaction
            await connection.execute("ROLLBACK")
        raise


def _begin(schema: MigratedSchema, connection: psycopg.AsyncConnection) -> Composed:
    """Return the statements, sent as one message, that begin a step's transaction and make its settings."""
    settings = {
        "search_path": Identifier(schema.name).as_string(connection),
        "TimeZone": "UTC",
        "statement_timeout": "0",
        "lock_timeout": "0",  # another process may be migrating the tenant
        "idle_in_transaction_session_timeout": "0",
    }
    if connection.info.server_version >= _TRANSACTION_TIMEOUT_VERSION:
        settings["transaction_timeout"] = "0"
    if schema.role is not None:
        settings["role"] = schema.role
    made = [SQL("set_config({}, {}, true)").format(name, value) for name, value in settings.items()]
    # Each statement must see what the owner's last holder committed.
    return SQL("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT {}").format(SQL(", ").join(made))


async def _lock_owner(schema: MigratedSchema, connection: psycopg.AsyncConnection) -> None:
    statement = SQL(_LOCK_OWNER).format(Identifier(schema.name), schema.tenant_uid, schema.epoch)
    if await (await connection.execute(statement)).fetchone() is None:
        raise _taken_over(schema)
    await connection.execute(
        SQL("SET LOCAL lock_timeout TO {}").format(f"{schema.lock_seconds_max * 1000:.0f}ms")
    )


def _taken_over(schema: MigratedSchema) -> TenantOwnedElsewhereError:
    return TenantOwnedElsewhereError(
        f"another process has taken over the schema {schema.name}, or has replaced or removed it, so its migrations did not run: try "
        "again",
        tenant_id=schema.tenant_id,
        pid=None,
        host=None,
    )


async def _applied(schema: MigratedSchema, connection: psycopg.AsyncConnection) -> list[AppliedMigration]:
    cursor = await connection.execute(SQL(_SELECT).format(Identifier(schema.name)))
    return [AppliedMigration(*row) for row in await cursor.fetchall()]


async def _apply(
    migration: "Migration", schema: MigratedSchema, clock: "Clock", connection: psycopg.AsyncConnection
) -> None:
    started = time.perf_counter()
    if migration.function is None:
        await connection.execute(step_of(migration.sql).encode())
    else:
        await run_function(migration.function, connection)
    await connection.execute(END_STEP)
    row = (
        migration.schema,
        migration.version,
        migration.name,
        migration.checksum,
        clock.now(),
        (time.perf_counter() - started) * 1000,
    )
    await connection.execute(SQL(_INSERT).format(Identifier(schema.name)), row)


def _failure(migration: "Migration", error: psycopg.Error | BrokenScriptError) -> MigrationError:
    code = error.code if isinstance(error, BrokenScriptError) else error.sqlstate or type(error).__name__
    return failed_step(
        migration,
        _text(error),
        line=failed_line(migration, error) or _line_in_script(migration, error),
        code=code,
        is_machine_failure=code.startswith(_MACHINE_FAILURES),
        is_retryable=code.startswith(_TRANSIENT),
    )


def _line_in_script(migration: "Migration", error: BaseException) -> int | None:
    """Return the line of the script at which the server's parser failed; the server does not report other lines."""
    if migration.function is not None or not isinstance(error, psycopg.Error):
        return None
    position = error.diag.internal_position
    return None if position is None else line_of(migration.sql, int(position))


def _text(error: Exception) -> str:
    """Return the message of an error without the values of rows."""
    if not isinstance(error, psycopg.Error):
        return str(error)
    primary = error.diag.message_primary or (str(error).strip().splitlines() or [repr(error)])[0]
    shown = without_value(primary, error.sqlstate)
    return shown if error.sqlstate is None else f"{shown} ({error.sqlstate})"


def _report(applied: "Sequence[AppliedMigration]", now: "Sequence[Migration]") -> MigrationReport:
    versions = {row.schema: row.version for row in applied}
    return MigrationReport(applied=tuple(now), versions=versions)
