"""Stores each snapshot as two objects, whose keys begin with the tenant's stable key.

    ``<uid>/<snapshot id>.db.gz``  The compressed database.
    ``<uid>/<snapshot id>.json``   The sealed manifest, written last. A database without a manifest is not a snapshot.

The storage is not trusted. Before a stored database is used, the archive checks the manifest's seal and the SHA-256 of both the
compressed object and the database. The archive also checks the database for damage, and compares it with the manifest.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio

from tenantry.errors import SnapshotCorruptError, SnapshotError, SnapshotNotFoundError, TenantryError
from tenantry.files.disk_space import check_copy_fits
from tenantry.schemas.schema import Schema
from tenantry.storage import artifacts
from tenantry.storage.archive.compression import CompressedFile, decompress
from tenantry.storage.archive.manifest import MANIFEST_BYTES_MAX, Manifest, seal, unseal
from tenantry.storage.artifacts import DatabaseReport
from tenantry.storage.objects.protocol import ObjectStorage
from tenantry.tenancy.clock_watch import ClockWatch
from tenantry.tenancy.snapshot_storage.owner import StorageOwner
from tenantry.tenancy.snapshots.snapshot import (
    Snapshot,
    begin_of_ids,
    check_snapshot_id,
    is_snapshot_id,
    newest_first,
)
from tenantry.threads import run_in_thread

UNFINISHED_SECONDS: Final = 86_400.0
"""The age at which a database without a manifest is deleted, because the process that stored the database must have died."""
MANIFEST_SUFFIX: Final = ".json"
_DATABASE: Final = ".db.gz"


class ObjectsLeftError(SnapshotError):
    """Some objects of a tenant could not be deleted.

    Attributes:
        objects: The number of objects that remain.
    """

    def __init__(self, objects: int, error: SnapshotError) -> None:
        super().__init__(f"{objects} objects remain: {error}", is_retryable=error.is_retryable)
        self.objects = objects


class SnapshotArchive:
    """Stores, fetches and deletes snapshots.

    Args:
        owner: The check that the storage belongs to this data directory, made before each write, delete or restore.
        schemas: The registry's schema packs.
    """

    def __init__(self, storage: ObjectStorage, owner: StorageOwner, schemas: Sequence[Schema]) -> None:
        self._schemas = schemas
        self._storage = storage
        self._owner = owner

    async def store(self, manifest: Manifest, database: CompressedFile) -> Snapshot:
        """Store a compressed database with its manifest.

        Raises:
            SnapshotStorageOwnedError: The storage belongs to another data directory.
            SnapshotError, StorageFullError: The snapshot cannot be stored; no partial snapshot is listed.
        """
        await self._owner.check()
        sealed = seal(manifest)
        key = _key(manifest.tenant_uid, manifest.snapshot_id, _DATABASE)
        await self._storage.put(key, database.path)
        try:
            await self._storage.put_bytes(
                _key(manifest.tenant_uid, manifest.snapshot_id, MANIFEST_SUFFIX), sealed
            )
        except BaseException:
            # Without a manifest the object is not listed, and only retention would remove the object.
            with anyio.CancelScope(shield=True), suppress(TenantryError):
                await self._storage.delete(key)
            raise
        return Snapshot.of(manifest)

    async def ids(self, tenant_uid: str) -> Sequence[str]:
        """Return the ids of the tenant's snapshots, oldest first."""
        return sorted(_ids(await self._names(tenant_uid), MANIFEST_SUFFIX))

    async def manifest(self, tenant_uid: str, snapshot_id: str) -> Manifest:
        """Return the manifest of a snapshot.

        Raises:
            SnapshotNotFoundError: The snapshot does not exist.
            SnapshotCorruptError: The manifest was changed, or belongs to another snapshot.
        """
        check_snapshot_id(snapshot_id)
        key = _key(tenant_uid, snapshot_id, MANIFEST_SUFFIX)
        try:
            content = await self._storage.get_bytes(key, bytes_max=MANIFEST_BYTES_MAX)
        except SnapshotNotFoundError as error:
            raise SnapshotNotFoundError(
                f"this tenant has no snapshot {snapshot_id!r}: list the tenant's snapshots",
                snapshot_id=snapshot_id,
            ) from error
        try:
            manifest = unseal(content)
        except SnapshotCorruptError as error:
            raise SnapshotCorruptError(f"snapshot {snapshot_id!r} at {key}: {error}") from error
        if (manifest.tenant_uid, manifest.snapshot_id) != (tenant_uid, snapshot_id):
            raise SnapshotCorruptError(
                f"the manifest at {key} is of the wrong snapshot ({manifest.snapshot_id!r}): restore a different snapshot"
            )
        return manifest

    async def fetch(self, manifest: Manifest, path: Path) -> None:
        """Write a snapshot's database into a new file, and check the database.

        Raises:
            SnapshotCorruptError: The object was altered, or its database belongs to another tenant or differs from the manifest.
            DatabaseCorruptError: The database was already damaged when the snapshot was taken.
            SnapshotStorageOwnedError: The storage belongs to another data directory.
            SnapshotError, StorageFullError: The snapshot cannot be read, or the file cannot be written.
        """
        await self._owner.check()
        compressed = path.with_name(f"{path.name}.gz")
        size_bytes = manifest.database_bytes
        await run_in_thread(check_copy_fits, path.parent, manifest.stored_bytes + size_bytes, size_bytes)
        await self._storage.get(_key(manifest.tenant_uid, manifest.snapshot_id, _DATABASE), compressed)
        try:
            await run_in_thread(_unpack, manifest, compressed, path)
            report = await check_contents(manifest, path, self._schemas)
        finally:
            compressed.unlink(missing_ok=True)
        if report.tenant_uid != manifest.tenant_uid:
            raise SnapshotCorruptError(
                f"snapshot {manifest.snapshot_id!r} contains the database of another tenant"
            )

    async def delete(self, tenant_uid: str, snapshot_id: str) -> None:
        """Delete a snapshot; a missing snapshot is not an error. Raises the errors of `delete_all`."""
        check_snapshot_id(snapshot_id)
        await self._owner.check()
        # Delete the manifest first: a database without a manifest is not a snapshot.
        for suffix in (MANIFEST_SUFFIX, _DATABASE):
            await self._storage.delete(_key(tenant_uid, snapshot_id, suffix))

    async def delete_all(self, tenant_uid: str) -> None:
        """Delete all objects of a tenant, including objects that are not snapshots.

        If an object cannot be deleted, the other objects are deleted nevertheless.

        Raises:
            SnapshotStorageOwnedError: The storage belongs to another data directory.
            ObjectsLeftError: Some objects remain.
            SnapshotError: The storage cannot list the objects.
        """
        await self._owner.check()
        await self._delete_each([stored.key for stored in await self._storage.list(f"{tenant_uid}/")])
        await self._storage.remove_leftovers(f"{tenant_uid}/")

    async def apply_retention(
        self, tenant_uid: str, newest: str, *, kept_max: int, age_seconds_max: float, watch: ClockWatch
    ) -> Sequence[str]:
        """Delete surplus and expired snapshots and leftovers of crashed processes, and return the deleted ids.

        The newest snapshot is always kept. Snapshots dated in the future are kept, and do not count towards `kept_max`. A
        database without a manifest is deleted when it is a day old.
        """
        await self._owner.check()
        names = await self._names(tenant_uid)
        ids = _ids(names, MANIFEST_SUFFIX)
        past = newest_first(ids - {newest}, watch.latest_plausible()).past
        too_old = begin_of_ids(watch.expired_before(age_seconds_max))
        surplus = [
            snapshot_id
            for place, snapshot_id in enumerate(past, start=1)
            if place >= kept_max or snapshot_id < too_old
        ]
        # Keep younger databases without a manifest: another process may be about to write the manifest.
        unfinished = begin_of_ids(watch.expired_before(UNFINISHED_SECONDS))
        surplus += sorted(
            snapshot_id for snapshot_id in _ids(names, _DATABASE) - ids if snapshot_id < unfinished
        )
        # Delete each manifest first: a database without a manifest is not a snapshot.
        await self._delete_each(
            [
                _key(tenant_uid, snapshot_id, suffix)
                for snapshot_id in surplus
                for suffix in (MANIFEST_SUFFIX, _DATABASE)
            ]
        )
        await self._storage.remove_leftovers(f"{tenant_uid}/")
        return surplus

    async def _delete_each(self, keys: Sequence[str]) -> None:
        left, first_error = 0, None
        for place, key in enumerate(keys):
            try:
                await self._storage.delete(key)
            except SnapshotError as error:
                left, first_error = left + 1, first_error or error
                if error.is_retryable:  # stop: the storage is busy or unreachable for all keys
                    left += len(keys) - place - 1
                    break
        if first_error is not None:
            raise ObjectsLeftError(left, first_error) from first_error

    async def _names(self, tenant_uid: str) -> set[str]:
        return {stored.key.rpartition("/")[2] for stored in await self._storage.list(f"{tenant_uid}/")}


def _ids(names: set[str], suffix: str) -> set[str]:
    """Return the ids of the snapshots that have an object with this suffix."""
    return set(filter(is_snapshot_id, (name.removesuffix(suffix) for name in names if name.endswith(suffix))))


def _key(tenant_uid: str, snapshot_id: str | None, suffix: str) -> str:
    return f"{tenant_uid}/{snapshot_id}{suffix}"


def _unpack(manifest: Manifest, compressed: Path, path: Path) -> None:
    check_copy_fits(path.parent, manifest.database_bytes, manifest.database_bytes)
    try:
        decompress(
            compressed,
            path,
            bytes_max=manifest.database_bytes,
            content_sha256=manifest.database_sha256,
            sha256=manifest.stored_sha256,
        )
    except SnapshotCorruptError as error:
        raise SnapshotCorruptError(
            f"snapshot {manifest.snapshot_id!r} is corrupt: the stored object was altered; restore an older snapshot"
        ) from error


async def check_contents(manifest: Manifest, path: Path, schemas: Sequence[Schema]) -> DatabaseReport:
    """Check a database that was unpacked from a snapshot or a bundle, and compare its contents with the manifest.

    The caller has already compared the database's SHA-256.

    Raises:
        SnapshotCorruptError: The database's contents differ from the manifest.
        DatabaseCorruptError: The database was already damaged when it was copied.
    """
    report = await artifacts.check(path, schemas)
    described = (manifest.database_bytes, manifest.schema_versions, manifest.row_counts)
    if (report.size_bytes, report.schema_versions, report.row_counts) != described:
        raise SnapshotCorruptError(
            f"the contents of the database of {manifest.snapshot_id or manifest.tenant_id!r} differ from its manifest"
        )
    return report
