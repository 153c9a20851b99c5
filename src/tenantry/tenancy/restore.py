"""Puts another database in the place of a tenant's, in one rename, and keeps the one that was there.

Theory of operation. The new database is made ready in a scratch directory, checked and migrated, before anything is
decided. Then the tenant is closed here and its callers wait, and after the intent is written:

    placed    it is moved to ``restore-<name>.db`` in the tenant's directory
    closed    the tenant is closed elsewhere too, and its lock is taken
    kept      what its write-ahead log holds is in the database, and that file has a second name, ``points/<name>/tenant.db``
    exchanged the logs are gone, and ``restore-<name>.db`` is renamed to ``tenant.db``: the moment at which one becomes the other
    finished  the intent is gone and callers go on

``<name>`` is this restore's own, and the intent contains it. A file that an earlier restore gave up, and that a power failure brings
back, therefore has another name and is never put in place; the next restore removes it.

After a crash the intent says how far the restore can have come: with ``restore-<name>.db`` there, the rest is done again; without it
and without the kept file, nothing was done.
"""

import shutil
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from tenantry.errors import (
    DatabaseCorruptError,
    SnapshotCorruptError,
    SnapshotError,
    SnapshotNotFoundError,
    TenantStateError,
)
from tenantry.ids import TenantPaths, tenant_paths
from tenantry.lifecycle import TenantState
from tenantry.schema import Schema
from tenantry.storage.disk_space import check_copy_fits
from tenantry.storage.draft import storage_errors
from tenantry.storage.durable_files import (
    FILE_MODE,
    link,
    make_directories,
    move,
    remove_files,
    remove_tree,
    sync_directory,
    sync_file,
)
from tenantry.storage.sqlite import log_note, maintenance
from tenantry.storage.sqlite.foreign import check_foreign
from tenantry.storage.sqlite.opening import RestingFile
from tenantry.tenancy.calls import CallRunner
from tenantry.tenancy.copies import Copies
from tenantry.tenancy.files import owned_files
from tenantry.tenancy.lifecycle_call import LifecycleCall
from tenantry.tenancy.pool import ActorPool
from tenantry.tenancy.scratch import Scratch
from tenantry.tenancy.snapshot import begin_of_ids, check_snapshot_id, new_snapshot_id
from tenantry.tenancy.snapshot_archive import SnapshotArchive
from tenantry.tenancy.tenant import Tenant
from tenantry.threads import run_in_thread

POINTS_KEPT_MAX: Final = 3
"""How many replaced databases are kept of a tenant; the oldest goes first."""

_RESTORABLE: Final = frozenset(
    [TenantState.ACTIVE, TenantState.SUSPENDED, TenantState.ARCHIVED, TenantState.QUARANTINED]
)
_POINT: Final = "before-"
_UNDONE: Final = "undone:"
_PLACED: Final = "restore-{}.db"
_ANY_PLACED: Final = "restore*.db*"
"""Also what a crash left of a copy, see `move`."""

_FOREIGN: Final = ".db-wal-of-another-database"
REPLACE_FILE: Final = "replace_file"


class Restorer:
    """Restores tenants and undoes it."""

    def __init__(
        self,
        runner: CallRunner,
        pool: ActorPool,
        archive: SnapshotArchive,
        copies: Copies,
        scratch: Scratch,
        schemas: Sequence[Schema],
    ) -> None:
        self._runner = runner
        self._context = runner.context
        self._pool = pool
        self._archive = archive
        self._copies = copies
        self._scratch = scratch
        self._schemas = schemas
        actions = ("restore", "undo_restore", REPLACE_FILE)
        runner.finishers |= dict.fromkeys(actions, self._finish_leftover)

    async def restore(self, snapshot_id: str, call: LifecycleCall, *, is_migrated: bool) -> Tenant:
        """See `Snapshots.restore`."""
        tenant = await call.get()
        _check_restorable(tenant, "restore")
        async with self._scratch.directory() as directory:
            database = directory / "tenant.db"
            with self._runner.preparing():
                if snapshot_id.startswith(_POINT):
                    await self._bring_point(tenant, snapshot_id, database)
                else:
                    await self._bring_snapshot(tenant, snapshot_id, database)
            return await self._replace(call, tenant, database, is_migrated=is_migrated)

    async def replace_file(
        self, path: Path, owner: str | None, accepted_tables: Collection[str], call: LifecycleCall
    ) -> Tenant:
        """See `Snapshots.replace_file`."""
        tenant = await call.get()
        _check_restorable(tenant, REPLACE_FILE)
        async with self._scratch.directory() as directory:
            database = directory / "tenant.db"
            with self._runner.preparing():
                await run_in_thread(partial(copy_plain_file, path, database))
                await run_in_thread(
                    partial(check_foreign, database, self._schemas, accepted_tables=accepted_tables)
                )
                await run_in_thread(partial(_check_owner, database, tenant, owner, call))
                if owner is not None and owner != tenant.uid:
                    await run_in_thread(partial(maintenance.give_to, database, tenant.uid))
            return await self._replace(call, tenant, database, is_migrated=True)

    async def undo(self, call: LifecycleCall) -> Tenant:
        """See `Snapshots.undo_restore`."""
        tenant = await call.get()
        if tenant.restore_point is None:
            raise SnapshotNotFoundError(f"tenant {tenant.id!r} was never restored: there is nothing to undo")
        if tenant.restore_point.startswith(_UNDONE):
            return tenant
        _check_restorable(tenant, "undo_restore")
        async with self._scratch.directory() as directory:
            database = directory / "tenant.db"
            with self._runner.preparing():
                await self._bring_point(tenant, tenant.restore_point, database)
            return await self._replace(call, tenant, database, is_migrated=True)

    async def points(self, tenant: Tenant) -> Sequence[str]:
        """Return the names of the replaced databases that are kept of the tenant, oldest first."""
        directory = self._paths(tenant).directory / "points"
        return await run_in_thread(partial(_points, directory))

    async def drop_point(self, point: str, call: LifecycleCall) -> None:
        """See `Snapshots.drop_point`."""
        tenant = await call.get()
        kept = _kept(self._paths(tenant), check_snapshot_id(point, prefix=_POINT))
        if tenant.restore_point in {point, f"{_UNDONE}{point}"}:
            await call.change(tenant, restore_point=None)
        try:
            await run_in_thread(partial(remove_tree, kept.parent))
        except OSError as error:
            raise SnapshotError(f"cannot remove {kept.parent}: {error}") from error

    async def _bring_snapshot(self, tenant: Tenant, snapshot_id: str, database: Path) -> None:
        manifest = await self._archive.manifest(tenant.uid, snapshot_id)
        report = await self._archive.fetch(manifest, database)
        if report.tenant_uid != tenant.uid:
            raise SnapshotCorruptError(f"snapshot {snapshot_id!r} is the database of another tenant")

    async def _bring_point(self, tenant: Tenant, point: str, database: Path) -> None:
        kept = _kept(self._paths(tenant), check_snapshot_id(point, prefix=_POINT))
        if not await run_in_thread(kept.exists):
            raise SnapshotNotFoundError(
                f"there is no {point!r} of tenant {tenant.id!r} any more: the last {POINTS_KEPT_MAX} are kept",
                snapshot_id=point,
            )
        try:
            await run_in_thread(partial(_copy_kept, kept, database))
        except DatabaseCorruptError as error:
            raise SnapshotCorruptError(
                f"what was replaced is damaged; it stays as it is, at {kept}"
            ) from error

    async def _replace(
        self, call: LifecycleCall, tenant: Tenant, database: Path, *, is_migrated: bool
    ) -> Tenant:
        """Make a database ready and put it in the place of the tenant's."""
        with self._runner.preparing():
            versions = await self._copies.make_ready(database) if is_migrated else None
        await run_in_thread(partial(sync_file, database))
        point = f"{_POINT}{new_snapshot_id(self._context.clock.now())}"
        call.detail["point"] = point
        paths = self._paths(tenant)
        arguments = {"point": point, "is_migrated": "yes" if is_migrated else None}
        # Held from before the intent on: a caller that finds the intent in the catalog is refused, and one that is held waits.
        async with (
            self._pool.held(tenant.id, call.action),
            call.begun(tenant, arguments=arguments, is_reversible=False) as restoring,
        ):
            try:
                await run_in_thread(partial(_place, database, paths, point, self._context.config.data_dir))
                call.step("placed")
                return await self._exchange(call, restoring, versions)
            except Exception:
                with anyio.CancelScope(shield=True):
                    if await run_in_thread(partial(_give_up, paths, point)):
                        await call.take_back(restoring)
                raise

    async def _exchange(self, call: LifecycleCall, tenant: Tenant, versions: dict[str, int] | None) -> Tenant:
        """Exchange the databases of a tenant that is held."""
        assert tenant.intent is not None
        point = tenant.intent.arguments["point"]
        assert point is not None
        call.step("closed")
        async with owned_files(tenant, self._context) as paths:
            is_merged = call.action != REPLACE_FILE
            await run_in_thread(partial(_keep, paths, point, is_merged=is_merged))
            call.step("kept")
            await run_in_thread(partial(_exchange, paths, point))
            call.step("exchanged")
        known = {} if versions is None else {"schema_versions": versions, "last_error": None}
        # Damage of the database that is gone may have been noted meanwhile.
        latest = await self._runner.catalog.find_by_uid(tenant.uid) or tenant
        is_kept = await run_in_thread(_kept(paths, point).exists)
        undone = f"{_UNDONE}{point}" if call.action == "undo_restore" else point
        restored = await call.finish(
            latest,
            restore_point=undone if is_kept else None,
            **self._as_active(latest),
            **known,
        )
        latest_plausible = self._context.watch.latest_plausible()
        await run_in_thread(partial(_forget_points, paths, point, latest_plausible))
        return restored

    def _as_active(self, tenant: Tenant) -> dict[str, object]:
        """Return what changes because the database is sound now: a quarantined tenant serves calls again.

        Not if it was not migrated: that may be what it was set apart for.
        """
        assert tenant.intent is not None
        is_migrated = tenant.intent.arguments["is_migrated"] is not None
        if tenant.state is not TenantState.QUARANTINED or not is_migrated:
            return {}
        now = self._context.clock.now()
        return {"state": TenantState.ACTIVE, "reason": None, "state_changed_at": now}

    async def _finish_leftover(self, call: LifecycleCall, tenant: Tenant) -> None:
        assert tenant.intent is not None
        paths = self._paths(tenant)
        point = tenant.intent.arguments["point"]
        assert point is not None
        if _placed(paths, point).exists() or _kept(paths, point).parent.exists():
            async with self._pool.held(tenant.id, call.action):
                await self._exchange(call, tenant, None)
        else:
            await call.take_back(tenant)

    def _paths(self, tenant: Tenant) -> TenantPaths:
        return tenant_paths(self._context.config.data_dir, tenant.directory)


def copy_plain_file(source: Path, database: Path) -> None:
    """Copy a database that is one plain file.

    Raises:
        SnapshotError: It is not a file, something lies beside it, or it changed meanwhile.
        StorageFullError: There is no room for it.
    """
    found = RestingFile.found(source)
    if found is None:
        raise SnapshotError(
            f"{source} is not a database in one plain file: it is missing or empty, or has a -wal or -journal beside it. Where one "
            f"lies there that belongs to it: sqlite3 {source} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )
    with storage_errors(f"copy {source}"):
        size_bytes = source.stat().st_size
        check_copy_fits(database.parent, size_bytes, size_bytes)
        shutil.copyfile(source, database)
    if not found.is_at_rest():
        raise SnapshotError(f"{source} was changed while it was copied: close it first", is_retryable=True)


def _check_owner(database: Path, tenant: Tenant, owner: str | None, call: LifecycleCall) -> None:
    """Check a database thoroughly, and that it is the tenant's, or the one whose key was given.

    Raises:
        SnapshotCorruptError: It is another tenant's.
        DatabaseCorruptError: It is damaged.
    """
    report = maintenance.check(database, is_thorough=True)
    call.detail["sha256"] = report.sha256
    if report.tenant_uid not in {tenant.uid, owner} or report.tenant_uid is None:
        mark = "no tenant" if report.tenant_uid is None else f"the tenant with the uid {report.tenant_uid!r}"
        raise SnapshotCorruptError(
            f"the file is marked as the database of {mark}, and tenant {tenant.id!r} has the uid {tenant.uid!r}: give the right "
            "file, or name that uid as its owner to make it this tenant's"
        )


def _check_restorable(tenant: Tenant, action: str) -> None:
    if tenant.state not in _RESTORABLE:
        raise TenantStateError(
            f"tenant {tenant.id!r} is {tenant.state}: {action} is not possible (undelete it first)",
            tenant_id=tenant.id,
            state=tenant.state,
            event=action,
        )


def _kept(paths: TenantPaths, point: str) -> Path:
    return paths.directory / "points" / point / paths.database.name


def _points(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def _copy_kept(kept: Path, database: Path) -> None:
    """Copy what a restore replaced, with its log: until the exchange it is all that there is of that state."""
    try:
        size_bytes = sum(path.stat().st_size for path in (kept, _log_of(kept)) if path.exists())
        check_copy_fits(database.parent, size_bytes, size_bytes)
        shutil.copyfile(kept, database)
        if _log_of(kept).exists():
            shutil.copyfile(_log_of(kept), _log_of(database))
    except OSError as error:
        raise SnapshotError(f"cannot copy {kept}: {error}") from error
    maintenance.checkpoint(database)
    maintenance.check(database)


def _log_of(database: Path) -> Path:
    return Path(f"{database}-wal")


def _placed(paths: TenantPaths, point: str) -> Path:
    return paths.directory / _PLACED.format(point)


def _place(database: Path, paths: TenantPaths, point: str, data_dir: Path) -> None:
    try:
        make_directories(data_dir, paths.directory)
        # The operation's lock is held: no other restore of this tenant is under way.
        for stale in paths.directory.glob(_ANY_PLACED):
            remove_files(stale)
        database.chmod(FILE_MODE)
        move(database, _placed(paths, point))
    except OSError as error:
        raise SnapshotError(f"cannot put the restored database into {paths.directory}: {error}") from error


def _give_up(paths: TenantPaths, point: str) -> bool:
    """Take back what was done before the exchange; return whether it had not come to that."""
    placed, kept = _placed(paths, point), _kept(paths, point)
    if not placed.exists() and kept.parent.exists():
        return False
    if _log_of(kept).exists() and not _log_of(paths.database).exists():
        link(_log_of(kept), _log_of(paths.database))
    # In this order: what is placed says, until it goes, that nothing was exchanged.
    remove_tree(kept.parent)
    remove_files(placed)
    return True


def _keep(paths: TenantPaths, point: str, *, is_merged: bool) -> None:
    """Give the tenant's database a second name; a no-op when it was exchanged, because a crash came in between.

    The directory of that name is there in any case: it says that the exchange may have come.

    Args:
        paths: The tenant's.
        point: The name of what is kept.
        is_merged: Whether what the log holds is written into the database. Of files that somebody put there by hand nobody knows
            whether they belong together: both are kept as they are.
    """
    kept = _kept(paths, point)
    if not _placed(paths, point).exists():
        return
    make_directories(paths.directory, kept.parent)
    if kept.exists() or not paths.database.exists():
        sync_directory(kept.parent)
        return
    log, kept_log = _log_of(paths.database), _log_of(kept)
    if log_note.is_foreign(paths.lock, paths.database):
        link(log, kept_log.with_suffix(_FOREIGN))
        link(paths.database, kept)
        return
    if log.exists() and log.stat().st_size:
        # Before SQLite opens it: beside what it takes for no database it removes the log.
        remove_files(kept_log)
        link(log, kept_log)
    if is_merged:
        try:
            maintenance.checkpoint(paths.database)
        except DatabaseCorruptError:
            pass  # It is kept as it is, with its log. Whatever else is in the way is an error before anything is exchanged.
        else:
            remove_files(kept_log)
    link(paths.database, kept)


def _exchange(paths: TenantPaths, point: str) -> None:
    """Put the restored database in the place of the old one, which has another name by now; a no-op when it is there."""
    placed = _placed(paths, point)
    if not placed.exists():
        sync_directory(paths.directory)
        return
    # SQLite would apply the old database's log to the new one.
    remove_files(*(Path(f"{paths.database}{suffix}") for suffix in ("-wal", "-shm", "-journal")))
    move(placed, paths.database)


def _forget_points(paths: TenantPaths, newest: str, latest_plausible: datetime) -> None:
    """Forget the oldest; never the one that was just made, nor those dated in the future, which do not count."""
    directory = paths.directory / "points"
    future_begin = f"{_POINT}{begin_of_ids(latest_plausible)}"
    others = [point for point in _points(directory) if point != newest and point <= future_begin]
    for old in others[: max(0, len(others) + 1 - POINTS_KEPT_MAX)]:
        shutil.rmtree(directory / old, ignore_errors=True)
