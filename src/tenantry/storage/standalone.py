"""One company's persistence without a registry: a store, and the repositories of the schema packs."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar, cast

# Python 3.11's own `runtime_checkable` reads every property, and these properties raise while the back end is not connected.
from typing_extensions import Protocol, override, runtime_checkable

from tenantry import events
from tenantry.clock import SystemClock
from tenantry.company import (
    COMPANY,
    AuditRepository,
    CompanyRepositories,
    CostRecordRepository,
    MessageRepository,
    TaskRepository,
)
from tenantry.config import MEMORY_PATH, PersistenceConfig, SQLiteConfig
from tenantry.errors import PersistenceConnectionError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.schemas.pack_repositories import PackRepositories
from tenantry.schemas.schema import Schema, check_schemas
from tenantry.sql.repository import Repository
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import Store
from tenantry.storage.sqlite.connections.connect_hooks import NamedHook, hooks_of
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.thread_pool import ThreadPools
from tenantry.storage.sqlite.migrations.memory_database import check_objects
from tenantry.storage.sqlite.store import SQLiteStore
from tenantry.threads import run_in_thread

T = TypeVar("T")
R = TypeVar("R", bound=Repository)


@runtime_checkable
class PersistenceBackend(CompanyRepositories, Protocol):
    """A store and the company's repositories. A new back end is not connected.

    Before `connect` and after `disconnect`, every repository raises `PersistenceConnectionError`. Without the built-in pack, the
    pack's four repositories raise AttributeError.
    """

    @property
    def is_connected(self) -> bool:
        """Whether the back end is connected, from a successful `connect` until a successful `disconnect`."""

    @property
    def backend_name(self) -> str:
        """``sqlite`` or ``postgres``."""

    def repository(self, repository_type: type[R]) -> R:
        """Return a repository of a schema pack of your own.

        Raises:
            PersistenceConnectionError: The back end is not connected.
        """

    async def connect(self) -> None:
        """Open the database; a no-op if the database is open.

        Raises:
            PersistenceConnectionError: The database cannot be opened; nothing is left open.
            DatabaseCorruptError: The file is not a database; the file was not changed.
        """

    async def disconnect(self) -> None:
        """Close the database; a no-op if the database is closed.

        Raises:
            PersistenceConnectionError: The database could not be closed. The database is still open; call `disconnect` again.
        """

    async def health_check(self) -> bool:
        """Return whether the database answers a query; False if the back end is not connected."""

    async def migrate(self) -> None:
        """Apply the pending migrations, each in a transaction with its version number.

        Raises:
            MigrationError: A migration failed and was rolled back, the database is newer than the code, or two packs create
                objects with the same name.
            PersistenceConnectionError: The back end is not connected.
        """


_READ_THREADS: Final = 2


class StoreSession:
    """Runs a repository's statements directly on a store; see `tenantry.sql.statements.Session`.

    If a caller is cancelled, a write that has started is still committed, and a write that has not started does not run.
    """

    def __init__(self, store: Store, log: EventLog) -> None:
        self._store = store
        self._log = log
        self._writing = asyncio.Lock()

    @property
    def log(self) -> EventLog:
        """The event log."""
        return self._log

    async def dialect(self) -> str:
        """Return the name of the database's SQL dialect."""
        return self._store.backend

    async def write(self, *statements: Statement) -> list[Result]:
        """Run the statements as one transaction; a no-op without statements."""
        if not statements:
            return []
        # Writes run one at a time. If a caller is cancelled during this wait, nothing was written.
        await self._writing.acquire()
        try:
            running = asyncio.ensure_future(self._store.write([statements]))
        except BaseException:
            self._writing.release()
            raise
        running.add_done_callback(lambda _: self._writing.release())
        # The shield lets a started write finish, because otherwise nobody would know whether the write was committed.
        (outcome,) = await asyncio.shield(running)
        if isinstance(outcome, TenantryError):
            raise outcome
        return outcome

    async def read(self, statement: Statement[T]) -> T:
        """Run one read-only statement."""
        outcome: T | TenantryError = (await self._store.read([statement]))[0]
        if isinstance(outcome, TenantryError):
            raise outcome
        return outcome


class SQLitePersistenceBackend(PersistenceBackend):
    """One company's persistence in one SQLite database; see `PersistenceBackend`.

    Args:
        config: The settings of the database.
        schemas: The schema packs of the database.

    Raises:
        MigrationError: The packs cannot be used together.
    """

    def __init__(self, config: SQLiteConfig, *, schemas: Sequence[Schema] = (COMPANY,)) -> None:
        check_schemas(schemas)
        self._schemas = tuple(schemas)
        self._log = EventLog()
        is_memory = config.path == MEMORY_PATH
        options = SQLiteOptions(
            # The path is absolute because readers are opened later, when the working directory may have changed.
            path=None if is_memory else Path(config.path).absolute(),
            is_wal=config.wal_mode,
            # After a crash the first reader must recover a rollback journal, which a read-only connection cannot do.
            is_read_by_writer=is_memory or not config.wal_mode,
            journal_size_limit_bytes=config.journal_size_limit,
            wal_bytes_max=config.wal_bytes_max,
            connect_hooks=(
                *hooks_of(self._schemas),
                *(NamedHook("SQLiteConfig.on_connect", hook) for hook in config.on_connect),
            ),
        )
        self._store = SQLiteStore(
            options,
            self._schemas,
            clock=SystemClock(),
            log=self._log,
            thread_pools=ThreadPools.of(write_threads=1, read_threads=_READ_THREADS),
        )
        self._repositories = PackRepositories(StoreSession(self._store, self._log), self._schemas)

    @property
    @override
    def is_connected(self) -> bool:
        return self._store.is_connected

    @property
    @override
    def backend_name(self) -> str:
        return self._store.backend

    @property
    @override
    def tasks(self) -> TaskRepository:
        return self._company().tasks

    @property
    @override
    def cost_records(self) -> CostRecordRepository:
        return self._company().cost_records

    @property
    @override
    def messages(self) -> MessageRepository:
        return self._company().messages

    @property
    @override
    def audit_entries(self) -> AuditRepository:
        return self._company().audit_entries

    @override
    def repository(self, repository_type: type[R]) -> R:
        self._store.check_connected()
        return self._repositories.repository(repository_type)

    @override
    async def connect(self) -> None:
        await self._store.connect()

    @override
    async def disconnect(self) -> None:
        await self._store.disconnect()

    @override
    async def health_check(self) -> bool:
        return await self._store.health_check()

    @override
    async def migrate(self) -> None:
        await run_in_thread(check_objects, self._schemas)
        await self._store.migrate()

    def _company(self) -> CompanyRepositories:
        self._store.check_connected()
        return cast("CompanyRepositories", self._repositories)


def create_backend(
    config: PersistenceConfig, *, schemas: Sequence[Schema] = (COMPANY,)
) -> PersistenceBackend:
    """Return a disconnected back end.

    Args:
        config: The back end's name and settings.
        schemas: The schema packs of the database.

    Raises:
        MigrationError: The packs cannot be used together.
        PersistenceConnectionError: The back end's name is unknown, or the settings are missing.
    """
    log = EventLog()
    if config.backend != "sqlite":
        log.error(events.BACKEND_UNKNOWN, backend=config.backend)
        raise PersistenceConnectionError(
            f"unknown back end {config.backend!r}: use 'sqlite'", is_retryable=False
        )
    if config.sqlite is None:
        log.error(events.BACKEND_UNKNOWN, backend=config.backend)
        raise PersistenceConnectionError(
            "backend 'sqlite' needs its settings: pass sqlite=SQLiteConfig(path=…)", is_retryable=False
        )
    log.debug(events.BACKEND_CREATED, backend=config.backend)
    return SQLitePersistenceBackend(config.sqlite, schemas=schemas)
