"""Compares the migrations of a schema pack for SQLite and for PostgreSQL.

A copy of a tenant is a SQLite file with every back end. A copy of a PostgreSQL tenant gets its tables by the pack's SQLite migrations, at
the versions that the tenant has, and a restore or a move works the other way round. So after each migration both back ends must have the
same tables and columns.
"""

from importlib import import_module

from tenantry.errors import MigrationError
from tenantry.postgres_config import PostgresConfig
from tenantry.schemas.schema import Schema
from tenantry.storage.pack_tables import differences
from tenantry.storage.sqlite.migrations import created_tables
from tenantry.threads import run_in_thread


async def compare_pack(schema: Schema, database: PostgresConfig | None) -> str | None:
    """Compare the numbers of a pack's migrations, and with a database also the tables and columns after each migration.

    Returns:
        What could not be compared without a database, as a sentence; None if everything was compared.

    Raises:
        MigrationError: The migrations differ. A pack lacks migrations for a back end, or a migration failed.
        PersistenceError: The database cannot be used.
    """
    counts = {dialect: len(schema.migrations(dialect)) for dialect in ("sqlite", "postgres")}
    if counts["sqlite"] != counts["postgres"]:
        raise MigrationError(
            f"the pack {schema.name!r} has {counts['sqlite']} migrations for SQLite and {counts['postgres']} for PostgreSQL: add the "
            "missing ones; a migration that a back end does not need is a file with a comment",
            schema=schema.name,
            version=min(counts.values()) + 1,
        )
    sqlite = await run_in_thread(created_tables.tables_after_each, schema)
    if database is None:
        return f"the tables and columns of the pack {schema.name!r} were made in SQLite only: name a PostgreSQL database to compare them"
    module = import_module("tenantry.storage.postgres.copies.created_tables")  # psycopg is optional
    postgres = await module.tables_after_each(schema, database)
    for migration, one, other in zip(schema.migrations("postgres"), sqlite, postgres, strict=True):
        if found := differences(one, other):
            raise MigrationError(
                f"the pack {schema.name!r} differs after its migration {migration.version:04d}: {'; '.join(found)}",
                schema=schema.name,
                version=migration.version,
            )
    return None
