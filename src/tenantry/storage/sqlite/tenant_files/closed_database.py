"""Works on the SQLite file of a tenant that no store has open, under a lock that excludes other processes."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from tenantry.errors import DataDirectoryError, TenantOwnedElsewhereError
from tenantry.files.durable_files import check_own_path, remove_tree, sync_file
from tenantry.schemas.schema import Schema
from tenantry.storage.protocol import Place
from tenantry.storage.sqlite.database_files import log_note
from tenantry.storage.sqlite.database_files.layout import TenantPaths
from tenantry.storage.sqlite.database_files.ownership import FileOwnership
from tenantry.storage.sqlite.limits import SQLiteLimits
from tenantry.storage.sqlite.maintenance import integrity, maintenance, second_look
from tenantry.storage.sqlite.tenant_files import replacement
from tenantry.threads import run_in_thread

_LOOK_AGAIN_SECONDS: Final = 0.05


class SQLiteClosedDatabase:
    """See `ClosedDatabase`."""

    def __init__(self, paths: TenantPaths, limits: SQLiteLimits, schemas: Sequence[Schema]) -> None:
        self._paths = paths
        self._limits = limits
        self._schemas = schemas

    async def exists(self) -> bool:
        """Return whether the file exists, and make its name durable; see `ClosedDatabase.exists`."""
        return await run_in_thread(self._exists)

    async def check(self, *, is_thorough: bool) -> None:
        """Check for damage; see `ClosedDatabase.check`."""
        await run_in_thread(
            integrity.check_closed, self._paths.database, is_thorough=is_thorough, schemas=self._schemas
        )

    async def is_damaged(self) -> bool:
        """Read the files again, byte by byte, and check them; see `ClosedDatabase.is_damaged`."""
        return await run_in_thread(second_look.is_damaged, self._paths.database, schemas=self._schemas)

    async def compact(self) -> None:
        """Rebuild the file; see `ClosedDatabase.compact`."""
        await run_in_thread(log_note.check_fits, self._paths.lock, self._paths.database)
        await run_in_thread(maintenance.compact, self._paths.database, schemas=self._schemas)

    async def check_repairable(self) -> None:
        """Compare the write-ahead log with the file; see `ClosedDatabase.check_repairable`."""
        await run_in_thread(
            log_note.check_fits,
            self._paths.lock,
            self._paths.database,
            changed_seconds_max=self._limits.changed_seconds_max,
        )

    async def repair(self) -> None:
        """Rebuild the indexes if only indexes are damaged; see `ClosedDatabase.repair`."""
        busy_seconds = self._limits.repair_busy_seconds
        await run_in_thread(
            maintenance.repair, self._paths.database, busy_seconds=busy_seconds, schemas=self._schemas
        )

    async def keep(self, point: str, *, is_as_found: bool) -> None:
        """Keep the file under a second name; see `ClosedDatabase.keep`."""
        await run_in_thread(replacement.keep, self._paths, point, is_merged=not is_as_found)

    async def exchange(self, point: str) -> None:
        """Rename the staged file; see `ClosedDatabase.exchange`."""
        await run_in_thread(replacement.exchange, self._paths, point)

    async def remove(self) -> None:
        """Remove the tenant's directory; see `ClosedDatabase.remove`."""
        await run_in_thread(_remove_directory, self._paths.directory)

    def _exists(self) -> bool:
        if not self._paths.database.exists():
            return False
        # The process that renamed the file to this path may have died before it synced the directory.
        sync_file(self._paths.database)
        return True


@asynccontextmanager
async def closed_database(
    place: Place,
    paths: TenantPaths,
    *,
    data_dir: Path,
    limits: SQLiteLimits,
    schemas: Sequence[Schema],
    wait_seconds: float,
    monotonic_seconds: Callable[[], float],
    socket_name: str | None,
) -> AsyncIterator[SQLiteClosedDatabase]:
    """Hold the lock of a tenant that is closed in this process; see `Backend.exclusive`. A tenant without a directory needs no lock.

    With the name of its socket in the lock file, this process gets the calls of other processes, which then wait here.
    """
    await run_in_thread(check_own_path, data_dir, paths.database)
    if not await run_in_thread(paths.directory.exists):
        yield SQLiteClosedDatabase(paths, limits, schemas)
        return
    ownership = FileOwnership(paths.lock, place.uid, place.tenant_id, socket_name=socket_name)
    try:
        await _acquire(ownership, monotonic_seconds, wait_seconds)
        yield SQLiteClosedDatabase(paths, limits, schemas)
    finally:
        # The thread may acquire the lock after the caller was cancelled. The release is not clean, so the next owner checks the file.
        ownership.release(is_clean=False)


async def _acquire(
    ownership: FileOwnership, monotonic_seconds: Callable[[], float], wait_seconds: float
) -> None:
    deadline = monotonic_seconds() + wait_seconds
    while True:
        try:
            await run_in_thread(ownership.acquire)
        except TenantOwnedElsewhereError:
            if monotonic_seconds() >= deadline:
                raise
        else:
            return
        await anyio.sleep(_LOOK_AGAIN_SECONDS)


def _remove_directory(directory: Path) -> None:
    try:
        remove_tree(directory)
    except OSError as error:
        raise DataDirectoryError(f"cannot remove {directory}: {error}", path=str(directory)) from error
