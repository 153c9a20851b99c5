"""Copies a tenant's open or closed database, and checks and describes the copy."""

from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from tenantry.errors import DatabaseCorruptError, SnapshotCorruptError, SnapshotError
from tenantry.eventlog import EventLog
from tenantry.lifecycle import Permission
from tenantry.schemas.schema import Schema
from tenantry.storage import artifacts
from tenantry.storage.archive.compression import CompressedFile
from tenantry.storage.archive.manifest import Manifest, wrong_fields
from tenantry.storage.artifacts import SQLITE_VERSION, DatabaseReport
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord


class _Source(Protocol):
    """An open database to copy: a tenant's actor or store, in this process or another."""

    async def copy_to(self, path: Path) -> None:
        """Write a consistent copy into a new file."""

    async def check_integrity(self) -> None:
        """Raise `DatabaseCorruptError` if the database is damaged."""


class Copies:
    """Makes and checks copies of tenants' databases.

    A tenant that serves calls is copied through its actor, without blocking its writer. A tenant that serves no calls, or a
    closed tenant that lacks migrations, is copied through a temporary store, without being migrated. Calls wait until the copy
    through a temporary store has ended, even if the tenant is resumed during the copy.
    """

    def __init__(self, tools: OperationTools, schemas: Sequence[Schema]) -> None:
        self._schemas = schemas
        self._tools = tools
        self._pool = tools.pool
        self._log = EventLog()

    async def copy(self, tenant: TenantRecord, path: Path) -> DatabaseReport:
        """Write a consistent copy of the tenant's current state into a new file, check the copy, and return the copy's report.

        If the copy is damaged, the copy's disk may be the cause, so the tenant's own database is checked too. If the tenant's
        database is damaged and the tenant serves calls, the tenant is quarantined.

        Raises:
            DatabaseCorruptError, TenantQuarantinedError: The tenant's database is damaged.
            SnapshotError: The tenant has no database, the tenant was closed during the copy, or only the copy is damaged.
            TenantError, PersistenceError: The tenant's database cannot be opened or read.
        """
        if not tenant.is_served:
            if not tenant.state.allows(Permission.COPY):
                raise SnapshotError(f"tenant {tenant.id!r} is {tenant.state} and has no database to copy")
            return await self._copy_unserved(tenant, path)
        if self._tools.opener.is_behind(tenant) and not self._pool.has(tenant.id):
            return await self._copy_held(tenant, path)
        return await self._copy_open(tenant, path)

    async def _copy_open(self, tenant: TenantRecord, path: Path) -> DatabaseReport:
        """Copy a tenant through its actor, here or in the process that has it open; the actor quarantines a damaged tenant."""
        return await self._tools.owners.do(
            tenant,
            lambda: self._copy_leased(tenant, path),
            lambda owned: self._copied(tenant, owned, path),
        )

    async def _copy_leased(self, tenant: TenantRecord, path: Path) -> DatabaseReport:
        lease = await self._pool.lease(tenant.id)
        try:
            if lease.actor.uid != tenant.uid:
                raise SnapshotError(
                    f"tenant {tenant.id!r} was renamed before it could be copied: try again",
                    is_retryable=True,
                )
            return await self._copied(tenant, lease.actor, path)
        finally:
            self._pool.release(lease)

    async def _copy_unserved(self, tenant: TenantRecord, path: Path) -> DatabaseReport:
        """Copy a tenant that serves no calls, after its last calls have ended; new calls wait for the copy."""
        async with self._pool.held(tenant.id, "snapshot"):
            found = await self._tools.catalog.find_by_uid(tenant.uid)
            if found is None or found.id != tenant.id or not found.state.allows(Permission.COPY):
                raise SnapshotError(
                    f"tenant {tenant.id!r} was renamed or purged before it could be copied: try again",
                    is_retryable=True,
                )
            return await self._copy_closed(found, path)

    async def _copy_held(self, tenant: TenantRecord, path: Path) -> DatabaseReport:
        """Close a tenant that serves calls, and copy the closed tenant while its callers wait."""
        async with self._pool.held(tenant.id, "snapshot"):
            try:
                return await self._copy_closed(tenant, path)
            except DatabaseCorruptError as error:
                if not await self._tools.opener.is_damaged(tenant):
                    raise SnapshotError(
                        f"the disk failed to read the database of tenant {tenant.id!r} for a moment: try again",
                        is_retryable=True,
                    ) from error
                raise await self._tools.opener.quarantine(tenant, error) from error

    async def _copy_closed(self, tenant: TenantRecord, path: Path) -> DatabaseReport:
        """Copy a tenant that nobody else can open during the copy; if another process has it open, that process makes the copy."""
        return await self._tools.owners.do(
            tenant,
            lambda: self._copy_store(tenant, path),
            lambda owned: self._copied(tenant, owned, path),
        )

    async def _copy_store(self, tenant: TenantRecord, path: Path) -> DatabaseReport:
        store = self._tools.backend_of(tenant).store(
            tenant.place, limits=tenant.limits, log=self._log.bind(tenant_id=tenant.id)
        )
        await store.connect()
        try:
            return await self._copied(tenant, store, path)
        finally:
            await store.disconnect()

    async def _copied(self, tenant: TenantRecord, source: _Source, path: Path) -> DatabaseReport:
        """Copy an open database and check the copy; raise `SnapshotError` if only the copy is damaged."""
        try:
            await source.copy_to(path)
            return await artifacts.check(path, self._schemas)
        except DatabaseCorruptError as error:
            await source.check_integrity()
            raise SnapshotError(
                f"a copy of tenant {tenant.id!r} is damaged, but the tenant's database is sound: check the disk of {path.parent}"
            ) from error


def manifest_of(
    tenant: TenantRecord,
    report: DatabaseReport,
    now: datetime,
    trigger: str,
    *,
    database_sha256: str,
    snapshot_id: str | None = None,
    stored: CompressedFile | None = None,
) -> Manifest:
    """Return the manifest of a copy of the tenant's database.

    Raises:
        SnapshotCorruptError: The copied database belongs to another tenant.
        SnapshotError: The database has more tables, or longer names, than a manifest may have.
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
            f"tenant {tenant.id!r} cannot be described in a manifest ({wrong_fields(error)}): it has too many tables, "
            "or a name is too long"
        ) from error
