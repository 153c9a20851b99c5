"""Copies of a tenant's database: made while it is used or closed, checked, described, and made ready to be one again."""

import asyncio
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from tenantry.errors import DatabaseCorruptError, SnapshotCorruptError, SnapshotError
from tenantry.files.disk_space import room_bytes
from tenantry.lifecycle import Permission
from tenantry.limits import DATABASE_BYTES_MAX, DATABASE_BYTES_MIN, TenantLimits
from tenantry.storage.archive.manifest import Manifest, wrong_fields
from tenantry.storage.sqlite import integrity, maintenance
from tenantry.storage.sqlite.hardening import check_seconds_max
from tenantry.storage.sqlite.integrity import DatabaseReport
from tenantry.storage.sqlite.version import SQLITE_VERSION
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.tenant_opener import TenantOpener
from tenantry.threads import run_in_thread

if TYPE_CHECKING:
    from tenantry.tenancy.tenant_record import TenantRecord


class _Source(Protocol):
    """An open database: a tenant's actor, or its store."""

    async def copy_to(self, path: Path) -> None:
        """Write a consistent copy into a new file."""
        ...

    async def check_integrity(self) -> None:
        """Raise if it is damaged."""
        ...


class Copies:
    """Makes and checks copies.

    Args:
        pool: A tenant that serves calls is copied through its actor, beside its writer.
        opener: Opens one that does not, without migrating it.
    """

    def __init__(self, pool: ActorPool, opener: TenantOpener) -> None:
        self._pool = pool
        self._opener = opener

    async def copy(self, tenant: "TenantRecord", path: Path) -> DatabaseReport:
        """Write a consistent copy of the tenant's present state into a new file, check it, and say what is in it.

        One that is closed and lacks migrations is copied as it is, and not migrated for that; its callers wait meanwhile.

        A copy that is damaged says nothing of the tenant, for it is on a disk too: the tenant's own database is looked at
        then. If that is damaged, a tenant that serves calls is set apart.

        Raises:
            DatabaseCorruptError, TenantQuarantinedError: The tenant's database is damaged.
            SnapshotError: The tenant has no files, or was closed meanwhile; or only the copy is damaged.
            TenantError, PersistenceError: It cannot be opened or read.
        """
        is_served = tenant.state.allows(Permission.SERVE) and tenant.intent is None
        if is_served and self._opener.is_behind(tenant) and not self._pool.has(tenant.id):
            async with self._pool.held(tenant.id, "snapshot"):
                try:
                    return await self._copy_closed(tenant, path)
                except DatabaseCorruptError as error:
                    if not await self._opener.is_damaged(tenant):
                        raise SnapshotError(
                            f"the disk failed to read the database of tenant {tenant.id!r} for a moment: try again",
                            is_retryable=True,
                        ) from error
                    raise await self._opener.quarantine(tenant, error) from error
        if is_served:
            lease = await self._pool.lease(tenant.id)
            try:
                if lease.actor.uid != tenant.uid:
                    raise SnapshotError(f"tenant {tenant.id!r} was renamed meanwhile: call again")
                # What is found damaged is set apart by the actor.
                return await _copied(tenant, lease.actor, path)
            finally:
                self._pool.release(lease)
        if not tenant.state.allows(Permission.COPY):
            raise SnapshotError(f"tenant {tenant.id!r} is {tenant.state}: there is nothing to copy")
        return await self._copy_closed(tenant, path)

    async def make_ready(self, path: Path) -> dict[str, int]:
        """Migrate a copy to what the code knows and leave one file; return the version of each schema.

        The copy may come from a storage that others can write, with triggers that run without an end. So it may take only as long
        as a check of it, and grow by half of the space that copies may take.

        Raises:
            MigrationError: It is newer than the code, or a migration fails.
            DatabaseCorruptError: It is no database.
            SnapshotError: It took too long.
        """
        seconds_max = await run_in_thread(partial(check_seconds_max, path))
        store = self._opener.store(path, limits=await run_in_thread(partial(_limits_of, path)))
        await store.connect()
        try:
            async with asyncio.timeout(seconds_max):
                versions = (await store.migrate()).versions
        except TimeoutError as error:
            raise SnapshotError(
                f"{path} was not migrated in {seconds_max:.0f} seconds, which is enough for a database of its size: look "
                "for triggers of its own"
            ) from error
        finally:
            await store.disconnect()
        # Closing does not say whether all of the log came into the file: a full disk keeps it out silently.
        await run_in_thread(partial(maintenance.checkpoint, path))
        await run_in_thread(partial(integrity.check, path))
        return versions

    async def _copy_closed(self, tenant: "TenantRecord", path: Path) -> DatabaseReport:
        """Copy a tenant that nobody can open, because its state serves no calls: its file is not migrated for that."""
        store = self._opener.tenant_store(tenant)
        await store.connect()
        try:
            return await _copied(tenant, store, path)
        finally:
            await store.disconnect()


def _limits_of(path: Path) -> TenantLimits:
    """Return how large a copy may become. The other half of the space is for the write-ahead log."""
    bytes_max = path.stat().st_size + room_bytes(path.parent) // 2
    return TenantLimits(database_bytes_max=min(max(bytes_max, DATABASE_BYTES_MIN), DATABASE_BYTES_MAX))


async def _copied(tenant: "TenantRecord", source: _Source, path: Path) -> DatabaseReport:
    """Copy an open database and check the copy.

    Raises:
        DatabaseCorruptError: The database is damaged.
        SnapshotError: The copy is, and the database is not.
    """
    try:
        await source.copy_to(path)
        return await run_in_thread(partial(integrity.check, path))
    except DatabaseCorruptError as error:
        await source.check_integrity()
        raise SnapshotError(
            f"a copy of tenant {tenant.id!r} came out damaged, and its own database is sound: look at the disk below {path.parent}"
        ) from error


def manifest_of(
    tenant: "TenantRecord",
    report: DatabaseReport,
    now: datetime,
    trigger: str,
    *,
    snapshot_id: str | None = None,
) -> Manifest:
    """Return the manifest of a copy of the tenant's database.

    Raises:
        SnapshotCorruptError: It is another tenant's database.
        SnapshotError: It has more tables, or longer names, than a manifest may have.
    """
    if report.tenant_uid != tenant.uid:
        raise SnapshotCorruptError(f"the database of tenant {tenant.id!r} is marked as another tenant's")
    try:
        return Manifest(
            kind="bundle" if snapshot_id is None else "snapshot",
            snapshot_id=snapshot_id,
            tenant_id=tenant.id,
            tenant_uid=tenant.uid,
            display_name=tenant.display_name,
            created_at=now,
            trigger=trigger,
            schema_versions=report.schema_versions,
            row_counts=report.row_counts,
            database_bytes=report.size_bytes,
            database_sha256=report.sha256,
            stored_bytes=report.size_bytes,
            stored_sha256=report.sha256,
            tenantry_version=version("tenantry"),
            sqlite_version=SQLITE_VERSION,
        )
    except ValidationError as error:
        raise SnapshotError(
            f"tenant {tenant.id!r} cannot be described in a manifest: {wrong_fields(error)}: too many tables, or a name that is too "
            "long"
        ) from error
