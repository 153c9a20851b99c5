"""The part of migrations that all back ends share, without I/O: which migrations are pending, and the error of a failed step."""

from collections.abc import Iterable, Mapping, Sequence
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


def migrations_up_to(
    versions: Mapping[str, int], schemas: Sequence[Schema], dialect: str
) -> tuple[Migration, ...]:
    """Return the migrations that make the tables of a copy with these versions, in the order to apply them.

    Raises:
        MigrationError: A pack lacks a migration for the dialect.
    """
    wanted: list[Migration] = []
    for schema in schemas:
        known, version = schema.migrations(dialect), versions.get(schema.name, 0)
        if version > len(known):
            raise MigrationError(
                f"schema {schema.name!r}: the copy has migration {version:04d}, but the last migration for {dialect} is "
                f"{len(known):04d}: deploy the newer code, with migrations of the same numbers for both back ends",
                schema=schema.name,
                version=version,
            )
        wanted.extend(known[:version])
    return tuple(wanted)


def failed_step(
    migration: Migration,
    reason: str,
    *,
    line: int | None,
    code: str,
    is_machine_failure: bool,
    is_retryable: bool,
) -> MigrationError:
    """Return the error of a migration that failed and was rolled back.

    Args:
        migration: The failed migration.
        reason: The message of the error that ended the migration.
        line: The line of the migration's file that failed, if it is known.
        code: The back end's name of the error.
        is_machine_failure: Whether the machine or the server caused the failure, and not the migration.
        is_retryable: Whether the same migration may succeed later.
    """
    place = "" if line is None else f" at line {line} of {migration.file_name}"
    failure = MigrationError(
        f"migration {migration} failed{place} and was rolled back: {reason}",
        schema=migration.schema,
        version=migration.version,
        is_step_failure=not is_machine_failure,
        code=code,
    )
    failure.is_retryable = is_retryable
    return failure


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
