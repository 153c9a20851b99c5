"""A tenant's database as one SQLite file: copies, snapshots and bundles contain it, whatever the back end is.

These functions work on a thread. Cancelling one stops its work and leaves the file to its caller.
"""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from tenantry.files.digests import file_sha256
from tenantry.files.durable_files import sync_file
from tenantry.schema import Schema
from tenantry.storage.sqlite.foreign import foreign
from tenantry.storage.sqlite.maintenance import integrity, maintenance
from tenantry.storage.sqlite.maintenance.integrity import DatabaseReport
from tenantry.storage.sqlite.tenant_files import replacement
from tenantry.storage.sqlite.version import SQLITE_VERSION
from tenantry.threads import run_in_thread

__all__ = [
    "SQLITE_VERSION",
    "DatabaseReport",
    "assign_to",
    "check",
    "check_schema",
    "copy_file",
    "digest",
    "leave_one_file",
    "make_durable",
    "owner_of",
]


async def check(path: Path, *, is_thorough: bool = False) -> DatabaseReport:
    """Check a file and return what is in it.

    Args:
        path: The file; it is neither locked nor written.
        is_thorough: Whether indexes are compared with their tables too.

    Raises:
        DatabaseCorruptError: It is damaged, or no database.
        SnapshotError: It is sound, and a virtual table in it cannot be read.
        QueryError: The check took too long for a database of this size, or was cancelled.
    """
    return await run_in_thread(partial(integrity.check, path, is_thorough=is_thorough))


async def digest(path: Path) -> str:
    """Return the file's SHA-256, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    return await run_in_thread(partial(file_sha256, path))


async def check_schema(path: Path, schemas: Sequence[Schema], accepted_tables: Collection[str]) -> None:
    """Check the schema of a file that came from elsewhere, before any of it runs.

    Args:
        path: The file.
        schemas: The packs that make the objects that it may have.
        accepted_tables: Names of further tables that it may have.

    Raises:
        ForeignSchemaError: It has other objects.
        DatabaseCorruptError: It is no database, or its schema is too large to be read.
        MigrationError: It is newer than the code.
    """
    await run_in_thread(partial(foreign.check_foreign, path, schemas, accepted_tables=accepted_tables))


async def copy_file(source: Path, path: Path) -> None:
    """Copy a database that is one plain file.

    Raises:
        SnapshotError: It is not a file, a log or journal is beside it, or it was changed during the copy.
        StorageFullError: There is no room for it.
    """
    await run_in_thread(partial(replacement.copy_plain_file, source, path))


async def owner_of(path: Path) -> str | None:
    """Return the uid of the tenant that a file says it belongs to; None if it does not say.

    Raises:
        DatabaseCorruptError: It is no database.
    """
    return await run_in_thread(partial(integrity.read_tenant_uid, path))


async def assign_to(path: Path, tenant_uid: str) -> None:
    """Make a file the database of another tenant, without the idempotency keys of the tenant that it came from.

    Raises:
        PersistenceError: SQLite refused.
    """
    await run_in_thread(partial(maintenance.assign_to_tenant, path, tenant_uid))


async def make_durable(path: Path) -> None:
    """Wait until the file's content survives a power failure.

    Raises:
        OSError: The disk failed.
    """
    await run_in_thread(partial(sync_file, path))


async def leave_one_file(path: Path) -> None:
    """Give a file a rollback journal, so that it can be read where nothing can be written beside it.

    Raises:
        PersistenceError: SQLite refused.
    """
    await run_in_thread(partial(maintenance.use_rollback_journal, path))
