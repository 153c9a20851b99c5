"""A check of schema packs that are for both back ends."""

from tenantry.postgres_config import PostgresConfig
from tenantry.schemas.schema import Schema
from tenantry.storage.pack_comparison import compare_pack


async def check_pack(schema: Schema, *, postgres: PostgresConfig | str | None = None) -> str | None:
    """Check that a pack's migrations for SQLite and for PostgreSQL make the same tables.

    The numbers of the migrations must be the same. After each migration the names of the tables and columns must be the same, and the
    values of a column must be of one kind, such as whole numbers. Snapshots, restores and moves rely on this.

    Args:
        schema: The pack.
        postgres: A PostgreSQL database in which the role may create a schema, or its URL. The migrations run in a schema that is dropped
            afterwards. Without a database, only the numbers are compared, and the SQLite migrations run.

    Returns:
        What was not compared, as a sentence; None if everything was compared. A test can assert None, or skip with the sentence.

    Raises:
        MigrationError: The migrations differ, or one of them failed. The message names the tables and columns.
        PersistenceError: The database cannot be used.
    """
    database = postgres if postgres is None else PostgresConfig.model_validate(postgres)
    return await compare_pack(schema, database)
