"""The `Backend` that stores tenants as SQLite files in a data directory."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from tenantry.clock import Clock
from tenantry.config import RegistryConfig
from tenantry.errors import DataDirectoryError, SnapshotError
from tenantry.eventlog import EventLog
from tenantry.files.durable_files import FILE_MODE, make_directories, move, sync_file
from tenantry.files.lock_file import Holder, LockFile, LockHeldError, lock_error, remove_abandoned
from tenantry.ids import TenantId
from tenantry.limits import TenantLimits
from tenantry.schemas.schema import Schema
from tenantry.storage.protocol import (
    BackendReport,
    Capability,
    ClosedDatabase,
    EngineChoice,
    LockTakenError,
    Place,
    RestorePoints,
)
from tenantry.storage.sqlite.connections.connect_hooks import hooks_of
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.thread_pool import ThreadPools
from tenantry.storage.sqlite.database_files.data_files import find_tenant_directories, prepare_data_files
from tenantry.storage.sqlite.database_files.database_file import log_of
from tenantry.storage.sqlite.database_files.layout import TenantPaths, tenant_paths
from tenantry.storage.sqlite.database_files.open_files import (
    check_open_files,
    fit_to_open_files,
    log_fitted_pool,
)
from tenantry.storage.sqlite.database_files.ownership import FileOwnership
from tenantry.storage.sqlite.engine.choice import choose, module
from tenantry.storage.sqlite.limits import SQLITE_LIMITS, SQLiteLimits
from tenantry.storage.sqlite.maintenance import integrity, second_look
from tenantry.storage.sqlite.migrations.memory_database import check_objects
from tenantry.storage.sqlite.moves.original import SQLiteOriginal
from tenantry.storage.sqlite.moves.replica import SQLiteReplica
from tenantry.storage.sqlite.store import SQLiteStore
from tenantry.storage.sqlite.tenant_files.closed_database import closed_database
from tenantry.storage.sqlite.tenant_files.preparation import Preparation
from tenantry.storage.sqlite.tenant_files.restore_points import SQLiteRestorePoints
from tenantry.storage.sqlite.version import SQLITE_VERSION, log_sqlite_version
from tenantry.threads import run_in_thread

LOCKS_NOT_SWEPT: Final = "tenantry.locks.not_swept"


class SQLiteBackend:
    """The `Backend` for SQLite files.

    Args:
        socket_name: Returns the name under which this process listens to other processes; the lock file of each open tenant has it.
    """

    name = "sqlite"
    dialect = "sqlite"
    capabilities = frozenset(
        [Capability.BYTE_LIMIT, Capability.COMPACT, Capability.REPAIR, Capability.ATOMIC_MIGRATIONS]
    )

    def __init__(
        self,
        config: RegistryConfig,
        schemas: Sequence[Schema],
        *,
        clock: Clock,
        log: EventLog,
        socket_name: Callable[[], str | None] = lambda: None,
        limits: SQLiteLimits = SQLITE_LIMITS,
    ) -> None:
        self._config = fit_to_open_files(config)
        self._socket_name = socket_name
        self._limits = limits
        self._schemas = tuple(schemas)
        self._connect_hooks = hooks_of(schemas)
        self._clock = clock
        self._log = log
        self._thread_pools = ThreadPools.of(
            write_threads=config.write_threads,
            read_threads=config.read_threads,
            engine=module(config.engine),
        )
        self._preparation = Preparation(
            self._schemas, clock=clock, log=log, thread_pools=self._thread_pools, limits=limits
        )
        self._is_open = False

    async def open(self) -> None:
        """Check the engine, the packs and the files, remove lock files of dead processes, and keep the threads running.

        See `Backend.open`.
        """
        self.engine()
        await run_in_thread(check_open_files, self._config)
        await run_in_thread(check_objects, self._schemas)
        has_catalog = self._config.catalog_backend == self.name
        await run_in_thread(partial(prepare_data_files, self._config.data_dir, has_catalog=has_catalog))
        try:
            await run_in_thread(remove_abandoned, self._locks_directory)
        except OSError as error:
            self._log.warning(LOCKS_NOT_SWEPT, error=str(error))
        if not self._is_open:
            self._is_open = True
            log_sqlite_version(self._log)
            log_fitted_pool(self._config, self._log)
            self._thread_pools.retain()

    async def aclose(self) -> None:
        """End the threads; see `Backend.aclose`."""
        self.abandon()

    def abandon(self) -> None:
        """End the threads when the last store is closed; see `Backend.abandon`."""
        if self._is_open:
            self._is_open = False
            self._thread_pools.unregister()

    async def locations(self) -> set[str]:
        """Return the names of the tenants' directories; see `Backend.locations`."""
        paths = await run_in_thread(list, find_tenant_directories(self._config.data_dir))
        return {path.name for path in paths}

    async def has_catalog(self) -> bool:
        """Return whether the data directory has a ``catalog.db``; see `Backend.has_catalog`."""
        return await run_in_thread((self._config.data_dir / "catalog.db").is_file)

    def catalog(self, schema: Schema, *, log: EventLog) -> SQLiteStore:
        """Return the store of ``catalog.db``, which several processes may write at the same time; see `Backend.catalog`.

        The catalog uses a rollback journal, because a bug of SQLite's write-ahead log can affect two writers (see `SQLiteStore`). The
        writer's connection also reads the catalog, because only a writing connection can recover the journal of a killed process.
        """
        options = SQLiteOptions(
            path=self._config.data_dir / "catalog.db",
            root=self._config.data_dir,
            is_wal=False,
            is_read_by_writer=True,
        )
        # The catalog has separate threads, so that no tenant's load delays the catalog.
        thread_pools = ThreadPools.of(write_threads=1, read_threads=1, engine=module(self._config.engine))
        return SQLiteStore(options, [schema], clock=self._clock, log=log, thread_pools=thread_pools)

    def store(
        self, place: Place, *, limits: TenantLimits, log: EventLog, is_new: bool = False
    ) -> SQLiteStore:
        """Return the store of a tenant's file. The store acquires the tenant's lock when it connects; see `Backend.store`."""
        paths = self._paths(place)
        config = self._config
        options = SQLiteOptions(
            path=paths.database,
            root=config.data_dir,
            must_exist=not is_new,
            durability=limits.durability or config.durability,
            database_bytes_max=limits.database_bytes_max,
            readers_max=config.readers_per_tenant,
            wal_bytes_max=config.wal_bytes_max,
            connect_hooks=self._connect_hooks,
            engine=self._thread_pools.write.engine,
        )
        return SQLiteStore(
            options,
            self._schemas,
            clock=self._clock,
            log=log,
            thread_pools=self._thread_pools,
            ownership=FileOwnership(paths.lock, place.uid, place.tenant_id, socket_name=self._socket_name()),
        )

    def location_of(self, tenant_id: TenantId) -> str:
        """Return the id, which is a safe name of a directory; see `Backend.location_of`."""
        return tenant_id

    async def new_location(self, tenant_id: TenantId, taken: Collection[str]) -> str:
        """Return the tenant's id, with a counter if an earlier tenant used that location; see `Backend.new_location`."""
        names = (tenant_id, *(f"{tenant_id}.{number}" for number in range(1, len(taken) + 1)))
        name = next(name for name in names if name not in taken)
        directory = tenant_paths(self._config.data_dir, name).directory
        if await run_in_thread(directory.exists):
            # The catalog does not know this directory, so a new tenant must neither use it nor remove it.
            raise DataDirectoryError(
                f"{directory} exists but belongs to no tenant in the catalog: restore the catalog that lists its tenant, or move "
                "the directory away",
                path=str(directory),
            )
        return name

    def exclusive(
        self, place: Place, *, is_waited_for: bool = True
    ) -> AbstractAsyncContextManager[ClosedDatabase]:
        """Hold the tenant's lock during a block; see `Backend.exclusive`."""
        return closed_database(
            place,
            self._paths(place),
            data_dir=self._config.data_dir,
            limits=self._limits,
            schemas=self._schemas,
            wait_seconds=self._config.call_timeout_seconds if is_waited_for else 0.0,
            monotonic_seconds=self._clock.monotonic_seconds,
            socket_name=self._socket_name(),
        )

    async def owner(self, place: Place) -> Holder | None:
        """Return the process that holds the tenant's lock; see `Backend.owner`."""
        return await run_in_thread(LockFile(self._paths(place).lock).holder)

    @asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[None]:
        """Hold a lock file in the directory ``operations`` during a block; see `Backend.lock`."""
        lock = LockFile(self._locks_directory / name)
        try:
            try:
                await run_in_thread(lock.acquire)
            except LockHeldError as error:
                raise LockTakenError from error
            except OSError as error:
                raise lock_error(lock.path, error) from error
            yield
        finally:
            # Remove the lock even if the caller was cancelled, because the thread has acquired the lock at this point.
            lock.remove()

    async def may_be_locked(self, name: str) -> bool:
        """Return whether a process holds the lock file; see `Backend.may_be_locked`."""
        return await run_in_thread(LockFile(self._locks_directory / name).holder) is not None

    async def closed_versions(self, place: Place) -> dict[str, int] | None:
        """Read the versions from the closed database's file; see `Backend.closed_versions`."""
        return await run_in_thread(integrity.read_closed_versions, self._paths(place).database)

    async def size_bytes(self, place: Place) -> int:
        """Return the size of the tenant's database file and write-ahead log together."""
        return await run_in_thread(_size_bytes, self._paths(place).database)

    def may_be_transient(self, error: BaseException) -> bool:
        """Return whether the error may come from a single failed read of the disk, which SQLite reports as damage."""
        return second_look.is_doubtful(error)

    async def prepare(self, path: Path) -> dict[str, int]:
        """Migrate a database file, and check the file if a migration was applied; see `Preparation`."""
        return await self._preparation.prepare(path)

    async def adopt(self, place: Place, path: Path) -> None:
        """Move a prepared file to the path of the tenant's database; see `Backend.adopt`."""
        await run_in_thread(self._adopt, self._paths(place).database, path)

    def points(self, place: Place) -> RestorePoints:
        """Return the tenant's restore points: the database files that restores have replaced."""
        return SQLiteRestorePoints(self._paths(place), self._config.data_dir, self._schemas)

    def original(self, place: Place) -> SQLiteOriginal:
        """Return the tenant's file as the original of a move; see `Backend.original`."""
        return SQLiteOriginal(self._paths(place), self._schemas)

    def replica(self, place: Place) -> SQLiteReplica:
        """Return the file at the place as the replica of a move; see `Backend.replica`."""
        return SQLiteReplica(self._paths(place).database, self._schemas)

    def connections(self) -> None:
        """Return None: files have no server; see `Backend.connections`."""

    def engine(self) -> EngineChoice:
        """Return the engine that the settings choose; see `Backend.engine`."""
        return choose(self._config.engine)

    async def identity(self) -> None:
        """Return None: the data directory has an identity of its own; see `Backend.identity`."""

    async def report(self) -> BackendReport:
        """Return the dialect and SQLite's version."""
        return BackendReport(self.dialect, SQLITE_VERSION)

    @property
    def _locks_directory(self) -> Path:
        return self._config.data_dir / "operations"

    def _paths(self, place: Place) -> TenantPaths:
        return tenant_paths(self._config.data_dir, place.location)

    def _adopt(self, target: Path, path: Path) -> None:
        try:
            make_directories(self._config.data_dir, target.parent)
            path.chmod(FILE_MODE)
            sync_file(path)
            move(path, target)
        except OSError as error:
            raise SnapshotError(f"cannot put the database into {target.parent}: {error}") from error


def _size_bytes(database: Path) -> int:
    size = 0
    for path in (database, log_of(database)):
        with suppress(FileNotFoundError):  # the log exists only while the database has a writer
            size += path.stat().st_size
    return size
