"""The tables that a pack's migrations make in PostgreSQL, after each migration."""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import anyio

from tenantry.clock import SystemClock
from tenantry.errors import PersistenceError
from tenantry.eventlog import EventLog
from tenantry.postgres_config import PostgresConfig
from tenantry.schemas.schema import Schema
from tenantry.storage.pack_tables import Tables, kind_of_postgres
from tenantry.storage.postgres.connections.connecting import connect
from tenantry.storage.postgres.connections.pipeline import Pipeline
from tenantry.storage.postgres.connections.settings import connection_parameters
from tenantry.storage.postgres.copies.tables import COLUMNS_SQL, CONTROL_TABLES
from tenantry.storage.postgres.migrations.migrator import MigratedSchema, migrate
from tenantry.storage.postgres.owner import FIRST_EPOCH, Owner, create_schema
from tenantry.storage.postgres.quoting import quoted

_STEP_SECONDS_MAX: Final = 60.0


async def tables_after_each(schema: Schema, config: PostgresConfig) -> Sequence[Tables]:
    """Return the tables after the first migration, after the second, and so on.

    The migrations run in a new schema of the database, which is dropped afterwards.

    Raises:
        MigrationError: A migration failed in an empty schema.
        PersistenceError: The database cannot be reached, or the schema cannot be created.
    """
    owner = Owner(f"tenantry_check_{uuid.uuid4().hex[:12]}", "check", None)
    pipeline = await connect(config, connection_parameters(config), config.connect_timeout_seconds)
    try:
        await create_schema(owner, pipeline, _STEP_SECONDS_MAX)
        return [
            await _tables_after(count, schema, owner, pipeline)
            for count in range(1, len(schema.migrations("postgres")) + 1)
        ]
    finally:
        pipeline.close()
        with anyio.CancelScope(shield=True), suppress(PersistenceError):
            await _drop(owner, config)


async def _tables_after(count: int, schema: Schema, owner: Owner, pipeline: Pipeline) -> Tables:
    """Apply one more migration, and return the tables."""
    known = schema.migrations("postgres")
    async with pipeline.outside() as connection:
        await migrate(
            connection,
            MigratedSchema(owner.schema, owner.uid, FIRST_EPOCH),
            lambda applied: known[len(applied) : count],
            clock=SystemClock(),
            log=EventLog(),
        )
        rows = await (await connection.execute(COLUMNS_SQL, (owner.schema,))).fetchall()
    tables: dict[str, dict[str, str]] = {}
    for table, column, type_name, *_ in rows:
        if table not in CONTROL_TABLES:
            columns = tables.setdefault(table, {})
            if column is not None:
                columns[column] = kind_of_postgres(type_name)
    return tables


async def _drop(owner: Owner, config: PostgresConfig) -> None:
    pipeline = await connect(config, connection_parameters(config), config.connect_timeout_seconds)
    try:
        pipeline.send(f"DROP SCHEMA IF EXISTS {quoted(owner.schema)} CASCADE".encode())
        pipeline.sync()
        await pipeline.results(_STEP_SECONDS_MAX)
    finally:
        pipeline.close()
