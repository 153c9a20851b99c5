"""Compares the code's and the database's migrations to find the pending migrations, without I/O."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tenantry.errors import MigrationError
from tenantry.schemas.migration import Migration
from tenantry.schemas.schema import Schema


class AppliedMigration(NamedTuple):
    """A row of ``schema_migrations``."""

    schema: str
    version: int
    checksum: str


def plan_migrations(
    schemas: Iterable[Schema], backend: str, applied: Sequence[AppliedMigration], file_version: int
) -> tuple[Migration, ...]:
    """Return the migrations that a database lacks, in the order to apply them.

    Migrations of packs that are not among `schemas` are ignored, because packs do not use each other's tables.

    Args:
        schemas: The packs, in order.
        backend: The back end's name, which selects the migrations.
        applied: The migrations that the database lists as applied.
        file_version: SQLite's ``user_version``. Each migration raises the number by one, so a wrong number shows that
            another program changed the database.

    Raises:
        MigrationError: The database is newer than the code, a checksum changed, or an applied migration is missing.
    """
    if file_version != len(applied):
        relation = "newer than" if file_version > len(applied) else "older than"
        raise MigrationError(
            f"the database has version {file_version}, which is {relation} the {len(applied)} migrations in its table: a newer "
            "tenantry or another program changed the database; use the newer tenantry, or restore a snapshot",
            version=file_version,
        )
    pending: list[Migration] = []
    for schema in schemas:
        known = schema.migrations(backend)
        mine = sorted(row for row in applied if row.schema == schema.name)
        for expected, row in enumerate(mine, start=1):
            _check_applied(row, expected, known)
        pending.extend(known[len(mine) :])
    return tuple(pending)


def _check_applied(row: AppliedMigration, expected: int, known: Sequence[Migration]) -> None:
    if row.version != expected:
        raise MigrationError(
            f"schema {row.schema!r}: migration {row.version:04d} was applied, but migration {expected:04d} was not: restore the "
            "database from a snapshot",
            schema=row.schema,
            version=expected,
        )
    if row.version > len(known):
        raise MigrationError(
            f"schema {row.schema!r}: the database has migration {row.version:04d}, which is newer than the code with its last "
            f"migration {len(known):04d}: deploy the newer code",
            schema=row.schema,
            version=row.version,
        )
    migration = known[row.version - 1]
    if row.checksum != migration.checksum:
        raise MigrationError(
            f"migration {migration} was changed after it was applied: restore the migration's file, and put the change into a "
            "new migration",
            schema=row.schema,
            version=row.version,
        )
