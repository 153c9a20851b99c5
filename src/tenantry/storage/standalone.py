"""One company's persistence without a registry: a store, and the repositories of the schema packs."""

import asyncio
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast

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
from tenantry.config import MEMORY_PATH, POSTGRES, SQLITE, PersistenceConfig, SQLiteConfig
from tenantry.errors import PersistenceConnectionError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.postgres_config import PostgresConfig
from tenantry.schemas.pack_repositories import PackRepositories
from tenantry.schemas.schema import Schema, check_schemas
from tenantry.sql.repository import Repository
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import Store
from tenantry.storage.sqlite.connections.connect_hooks import NamedHook, hooks_of
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.thread_pool import ThreadPools
from tenantry.storage.sqlite.engine.choice import choose, module
from tenantry.storage.sqlite.migrations.memory_database import check_objects
from tenantry.storage.sqlite.store import SQLiteStore
from tenantry.threads import run_in_thread

if TYPE_CHECKING:
    from tenantry.storage.postgres.single_schema import SingleSchema

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


class StandaloneBackend(PersistenceBackend):
    """One company's persistence in a store of any kind; see `PersistenceBackend`.

    Args:
        store: The store, which is not connected.
        schemas: The schema packs of the store's database.
        log: The event log.

    Raises:
        MigrationError: The packs cannot be used together.
    """

    def __init__(self, store: Store, schemas: Sequence[Schema], log: EventLog) -> None:
        check_schemas(schemas)
        self._schemas = tuple(schemas)
        self._store = store
        self._repositories = PackRepositories(StoreSession(store, log), self._schemas)

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
        self._check_connected()
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

    def _check_connected(self) -> None:
        if not self._store.is_connected:
            raise PersistenceConnectionError(
                f"the {self.backend_name} database is not connected: await connect() first",
                is_retryable=False,
            )

    def _company(self) -> CompanyRepositories:
        self._check_connected()
        return cast("CompanyRepositories", self._repositories)


class SQLitePersistenceBackend(StandaloneBackend):
    """One company's persistence in one SQLite database; see `PersistenceBackend`.

    Args:
        config: The settings of the database.
        schemas: The schema packs of the database.

    Raises:
        MigrationError: The packs cannot be used together.
        SettingsError: The setting ``engine`` is ``native``, and this process cannot use the engine in C.
    """

    def __init__(self, config: SQLiteConfig, *, schemas: Sequence[Schema] = (COMPANY,)) -> None:
        check_schemas(schemas)
        choose(config.engine)  # raises if the engine cannot be used
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
                *hooks_of(schemas),
                *(NamedHook("SQLiteConfig.on_connect", hook) for hook in config.on_connect),
            ),
        )
        log = EventLog()
        self._sqlite_store = SQLiteStore(
            options,
            tuple(schemas),
            clock=SystemClock(),
            log=log,
            thread_pools=ThreadPools.of(
                write_threads=1, read_threads=_READ_THREADS, engine=module(config.engine)
            ),
        )
        super().__init__(self._sqlite_store, schemas, log)

    @override
    def _check_connected(self) -> None:
        self._sqlite_store.check_connected()


class PostgresPersistenceBackend(StandaloneBackend):
    """One company's persistence in one schema of a PostgreSQL database; see `PersistenceBackend`.

    Args:
        config: The settings of the database.
        schema_name: The name of the schema, which `connect` creates if it does not exist.
        schemas: The schema packs of the database.

    Raises:
        MigrationError: The packs cannot be used together.
        PersistenceConnectionError: The extra ``postgres`` is not installed.
    """

    def __init__(
        self, config: PostgresConfig, *, schema_name: str, schemas: Sequence[Schema] = (COMPANY,)
    ) -> None:
        check_schemas(schemas)
        log = EventLog()
        self._database = _single_schema()(config, schema_name, tuple(schemas), clock=SystemClock(), log=log)
        super().__init__(self._database.store, schemas, log)

    @override
    async def connect(self) -> None:
        await self._database.connect()

    @override
    async def disconnect(self) -> None:
        await self._database.disconnect()

    @override
    async def migrate(self) -> None:
        self._database.check_objects()
        await super().migrate()


def _single_schema() -> "type[SingleSchema]":
    """Return the class for a PostgreSQL database, whose driver is loaded only if such a database is used."""
    try:
        module = import_module("tenantry.storage.postgres.single_schema")
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        raise PersistenceConnectionError(
            "a PostgreSQL database needs the driver psycopg: pip install 'tenantry[postgres]'",
            is_retryable=False,
        ) from error
    found: type[SingleSchema] = module.SingleSchema
    return found


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
        SettingsError: The setting ``engine`` is ``native``, and this process cannot use the engine in C.
    """
    log = EventLog()
    made: PersistenceBackend
    if config.backend == SQLITE and config.sqlite is not None:
        made = SQLitePersistenceBackend(config.sqlite, schemas=schemas)
    elif config.backend == POSTGRES and config.postgres is not None:
        made = PostgresPersistenceBackend(
            config.postgres, schema_name=config.postgres_schema, schemas=schemas
        )
    else:
        log.error(events.BACKEND_UNKNOWN, backend=config.backend)
        advice = {
            SQLITE: "pass sqlite=SQLiteConfig(path=…)",
            POSTGRES: "pass postgres=PostgresConfig(url=…)",
        }.get(config.backend)
        raise PersistenceConnectionError(
            f"unknown back end {config.backend!r}: use {SQLITE!r} or {POSTGRES!r}"
            if advice is None
            else f"backend {config.backend!r} needs its settings: {advice}",
            is_retryable=False,
        )
    log.debug(events.BACKEND_CREATED, backend=config.backend)
    return made
