"""Makes a schema from a tenant file: the schema, the packs' tables at the file's versions, and the rows.

The migrator commits each migration, so the schema exists before it is complete. A schema is made under the name of a staged database,
which no store opens. The transaction of the rows also completes the schema: it gives the schema the comment of a staged database, or
the tenant's own name. An incomplete schema that a crash left is dropped by the next call for the same tenant, and when the tenant is
removed.

These functions block, but for `make_schema`.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from psycopg import Connection

from tenantry.errors import PersistenceError
from tenantry.schemas.migration import Migration
from tenantry.storage.artifacts import file_rows
from tenantry.storage.migrations import AppliedMigration, migrations_up_to
from tenantry.storage.postgres.connections.connecting import connect
from tenantry.storage.postgres.connections.lifecycle_tools import LifecycleTools
from tenantry.storage.postgres.connections.settings import connection_parameters
from tenantry.storage.postgres.connections.thread_connections import on_thread
from tenantry.storage.postgres.copies.copy_in import copy_in
from tenantry.storage.postgres.copies.copy_out import check_packs
from tenantry.storage.postgres.migrations.migrator import MigratedSchema, migrate
from tenantry.storage.postgres.owner import FIRST_EPOCH, schema_statements
from tenantry.storage.postgres.quoting import quoted
from tenantry.storage.protocol import Place

Complete = Callable[[Connection[tuple[Any, ...]]], None]
"""Completes a filled schema, in the transaction that has filled it."""


class _Contents(NamedTuple):
    """What the owner's row and the migrations of the new schema are to say."""

    tenant_uid: str
    epoch: int
    migrations: tuple[Migration, ...]


async def make_schema(tools: LifecycleTools, place: Place, name: str, path: Path, complete: Complete) -> None:
    """Make a schema with the contents of a tenant file. An error leaves no schema.

    Args:
        tools: The tools of the database.
        place: The tenant to which the schema will belong, unless the file names another tenant.
        name: The schema. One that exists is replaced.
        path: The tenant file.
        complete: Completes the schema.

    Raises:
        MissingSchemaError: The file has packs that this process lacks.
        MigrationError: A pack lacks a migration, or a migration failed.
        SnapshotError: A row cannot be stored; see `copy_in`.
        DatabaseCorruptError: The file is damaged.
        PersistenceError: The server failed.
    """
    doing = f"cannot load {path} into the database {tools.config.address}"
    try:
        # The connection is kept during the migrations, which have another one, so that the number of those is limited, too.
        async with tools.copies.connection() as connection:
            contents = await on_thread(doing, connection, _begin, tools, place, name, path)
            await _migrate(tools, place, name, contents)
            await on_thread(doing, connection, _fill, tools, name, path, complete)
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(PersistenceError):
            await tools.work.run(f"cannot drop the schema {name}", drop_schema, tools, name)
        raise


def drop_schema(connection: Connection[tuple[Any, ...]], tools: LifecycleTools, name: str) -> None:
    """Drop a schema with everything in it; a missing schema is not an error."""
    with connection.transaction():
        tools.limit_waiting(connection)
        connection.execute(f"DROP SCHEMA IF EXISTS {quoted(name)} CASCADE".encode())


def _begin(
    connection: Connection[tuple[Any, ...]], tools: LifecycleTools, place: Place, name: str, path: Path
) -> _Contents:
    """Create the schema with tenantry's own tables."""
    with file_rows(path, tools.schemas) as file:
        uid, epoch = file.owner
        check_packs(file.versions, tools.schemas)
        migrations = migrations_up_to(file.versions, tools.schemas, "postgres")
    contents = _Contents(uid or place.uid, max(epoch, FIRST_EPOCH), migrations)
    drop_schema(connection, tools, name)
    with connection.transaction():
        connection.execute("SELECT set_config('search_path', %s, true)", (quoted(name),))
        for statement in schema_statements(name, is_tenant=True):
            connection.execute(statement.encode())
        connection.execute(
            "INSERT INTO tenantry_owner (id, tenant_uid, epoch) VALUES (1, %s, %s)",
            (contents.tenant_uid, contents.epoch),
        )
    return contents


async def _migrate(tools: LifecycleTools, place: Place, name: str, contents: _Contents) -> None:
    """Create the packs' tables at the file's versions."""

    def plan(applied: Sequence[AppliedMigration]) -> tuple[Migration, ...]:
        done = {(row.schema, row.version) for row in applied}
        return tuple(one for one in contents.migrations if (one.schema, one.version) not in done)

    schema = MigratedSchema(name, contents.tenant_uid, contents.epoch, place.tenant_id)
    parameters = connection_parameters(tools.config)
    pipeline = await connect(tools.config, parameters, tools.config.connect_timeout_seconds)
    try:
        async with pipeline.outside() as connection:
            await migrate(connection, schema, plan, clock=tools.clock, log=tools.log)
    finally:
        pipeline.close()


def _fill(
    connection: Connection[tuple[Any, ...]],
    tools: LifecycleTools,
    name: str,
    path: Path,
    complete: Complete,
) -> None:
    with file_rows(path, tools.schemas) as file, connection.transaction():
        copy_in(connection, name, file, tools.schemas)
        complete(connection)
