"""Migrates a copy of a tenant's database to the packs' newest versions, before the copy becomes a database or is staged."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tenantry.clock import Clock
from tenantry.errors import DatabaseCorruptError, SnapshotError
from tenantry.eventlog import EventLog
from tenantry.files.disk_space import room_bytes
from tenantry.limits import DATABASE_BYTES_MAX, DATABASE_BYTES_MIN
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections.connect_hooks import hooks_of
from tenantry.storage.sqlite.connections.hardening import check_seconds_max
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.thread_pool import ThreadPools
from tenantry.storage.sqlite.limits import SQLITE_LIMITS, SQLiteLimits
from tenantry.storage.sqlite.maintenance import integrity, maintenance
from tenantry.storage.sqlite.store import SQLiteStore
from tenantry.threads import run_in_thread


class Preparation:
    """Migrates copies; see `Backend.prepare`. Every back end prepares the same files in this way."""

    def __init__(
        self,
        schemas: Sequence[Schema],
        *,
        clock: Clock,
        log: EventLog,
        thread_pools: ThreadPools | None = None,
        limits: SQLiteLimits = SQLITE_LIMITS,
    ) -> None:
        self._schemas = schemas
        self._connect_hooks = hooks_of(schemas)
        self._clock = clock
        self._log = log
        self._thread_pools = thread_pools or ThreadPools.of(write_threads=1, read_threads=1)
        self._limits = limits

    async def prepare(self, path: Path) -> dict[str, int]:
        """Migrate a database file, and check the file if a migration was applied; see `Backend.prepare`.

        Triggers in the file might never end. So migrating may take only as long as a check of the file, and the file may grow only by
        half of the disk space for copies. A migration that fails with damage is repeated, because a failed disk read looks like damage.
        """
        try:
            return await self._prepare(path)
        except DatabaseCorruptError:
            return await self._prepare(path)

    async def _prepare(self, path: Path) -> dict[str, int]:
        seconds_max = await run_in_thread(check_seconds_max, path, self._limits.prepare_seconds_min)
        bytes_max = await run_in_thread(
            _bytes_max, path, growth_bytes_max=self._limits.prepare_growth_bytes_max
        )
        options = SQLiteOptions(
            path=path,
            root=path.parent,
            must_exist=True,
            database_bytes_max=bytes_max,
            connect_hooks=self._connect_hooks,
        )
        store = SQLiteStore(
            options, self._schemas, clock=self._clock, log=self._log, thread_pools=self._thread_pools
        )
        await store.connect()
        try:
            async with asyncio.timeout(seconds_max):
                report = await store.migrate()
        except TimeoutError as error:
            raise SnapshotError(
                f"migrating {path} was stopped after {seconds_max:.0f} seconds, which are enough for a database of this size: look for a "
                "trigger or a migration that is slow or never ends, then try again"
            ) from error
        finally:
            await store.disconnect()
        # Closing reports no error if a full disk prevents the checkpoint of the log, so checkpoint explicitly.
        await run_in_thread(maintenance.checkpoint, path)
        if report.applied:
            await run_in_thread(integrity.check_closed, path, schemas=self._schemas)
        return report.versions


def _bytes_max(path: Path, *, growth_bytes_max: int) -> int:
    """Return the size limit for a copy of a database. The other half of the free space is for the write-ahead log."""
    bytes_max = path.stat().st_size + min(room_bytes(path.parent) // 2, growth_bytes_max)
    return min(max(bytes_max, DATABASE_BYTES_MIN), DATABASE_BYTES_MAX)
