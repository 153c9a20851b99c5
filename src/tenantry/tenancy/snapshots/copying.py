"""Copies of a tenant's database: made while it is used or closed, checked and described."""

from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from tenantry.errors import DatabaseCorruptError, SnapshotCorruptError, SnapshotError
from tenantry.eventlog import EventLog
from tenantry.lifecycle import Permission
from tenantry.storage import artifacts
from tenantry.storage.archive.manifest import Manifest, wrong_fields
from tenantry.storage.archive.sealed_gzip import CompressedFile
from tenantry.storage.artifacts import SQLITE_VERSION, DatabaseReport
from tenantry.storage.protocol import Backend
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.tenant_opener import TenantOpener

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
        opener: Tells which tenants lack migrations, and quarantines damaged ones.
        backend: Opens a tenant that does not serve calls, without migrating it.
    """

    def __init__(self, pool: ActorPool, opener: TenantOpener, backend: Backend) -> None:
        self._pool = pool
        self._opener = opener
        self._backend = backend
        self._log = EventLog()

    async def copy(self, tenant: "TenantRecord", path: Path) -> DatabaseReport:
        """Write a consistent copy of the tenant's present state into a new file, check it, and say what is in it.

        One that is closed and lacks migrations is copied as it is, and not migrated for that; its callers wait meanwhile.

        A copy that is damaged says nothing of the tenant, for it is on a disk too: the tenant's own database is looked at
        then. If that is damaged, a tenant that serves calls is quarantined.

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
                # What is found damaged is quarantined by the actor.
                return await _copied(tenant, lease.actor, path)
            finally:
                self._pool.release(lease)
        if not tenant.state.allows(Permission.COPY):
            raise SnapshotError(f"tenant {tenant.id!r} is {tenant.state}: there is nothing to copy")
        return await self._copy_closed(tenant, path)

    async def _copy_closed(self, tenant: "TenantRecord", path: Path) -> DatabaseReport:
        """Copy a tenant that nobody can open, because its state serves no calls: its file is not migrated for that."""
        store = self._backend.store(
            tenant.place, limits=tenant.limits, log=self._log.bind(tenant_id=tenant.id)
        )
        await store.connect()
        try:
            return await _copied(tenant, store, path)
        finally:
            await store.disconnect()


async def _copied(tenant: "TenantRecord", source: _Source, path: Path) -> DatabaseReport:
    """Copy an open database and check the copy.

    Raises:
        DatabaseCorruptError: The database is damaged.
        SnapshotError: The copy is, and the database is not.
    """
    try:
        await source.copy_to(path)
        return await artifacts.check(path)
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
    database_sha256: str,
    snapshot_id: str | None = None,
    stored: CompressedFile | None = None,
) -> Manifest:
    """Return the manifest of a copy of the tenant's database.

    Args:
        tenant: The tenant.
        report: What is in the copy.
        now: When it was made.
        trigger: What asked for it.
        database_sha256: The copy's SHA-256, in hexadecimal.
        snapshot_id: The snapshot that it is; None in a bundle.
        stored: The copy as it is stored; None in a bundle, which contains it as it is.

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
            database_sha256=database_sha256,
            stored_bytes=report.size_bytes if stored is None else stored.size_bytes,
            stored_sha256=database_sha256 if stored is None else stored.sha256,
            tenantry_version=version("tenantry"),
            sqlite_version=SQLITE_VERSION,
        )
    except ValidationError as error:
        raise SnapshotError(
            f"tenant {tenant.id!r} cannot be described in a manifest: {wrong_fields(error)}: too many tables, or a name that is too "
            "long"
        ) from error
