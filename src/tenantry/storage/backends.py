"""The back ends of a registry: the data directory, and the databases that the settings name."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from tenantry.clock import Clock
from tenantry.config import SQLITE, RegistryConfig, database_variable
from tenantry.errors import (
    BackendNotConfiguredError,
    PersistenceConnectionError,
    SettingsError,
    TenantryError,
    UnsupportedByBackend,
)
from tenantry.eventlog import EventLog
from tenantry.schemas.schema import Schema
from tenantry.storage.protocol import (
    Backend,
    BackendReport,
    Capability,
    ConnectionCounts,
    EngineChoice,
    Place,
)
from tenantry.storage.sqlite.backend import SQLiteBackend
from tenantry.storage.sqlite.database_files.open_files import fit_to_open_files

REPORT_SECONDS_MAX: Final = 5.0
"""How long a back end's report may take. An operator asks for it when a server may be down."""


@dataclass(frozen=True, slots=True)
class AskedBackend:
    """A back end's answer about itself.

    Attributes:
        name: The back end's name in the settings.
        dialect: The back end's dialect.
        report: The report; None if the database server could not be asked.
        error: The error of the server that could not be asked.
    """

    name: str
    dialect: str
    report: BackendReport | None = None
    error: TenantryError | None = None


class Backends:
    """The back ends of a registry, by name. Each tenant's record names the tenant's back end.

    Args:
        backends: The back ends, which have different names.
        default: The name of the back end that new tenants get unless the caller names another one.
        catalog: The name of the back end that keeps the catalog, and the locks of operations and fleet jobs.
    """

    def __init__(self, backends: Sequence[Backend], *, default: str = SQLITE, catalog: str = SQLITE) -> None:
        self._backends = {backend.name: backend for backend in backends}
        self.default = self.of(default)
        self.catalog = self.of(catalog)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._backends.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the back ends, in the order of the settings; the data directory is first."""
        return tuple(self._backends)

    def of(self, name: str) -> Backend:
        """Return the back end with this name.

        Raises:
            BackendNotConfiguredError: The settings do not name the back end.
        """
        if (backend := self._backends.get(name)) is None:
            raise not_configured(name, self.names)
        return backend

    def find(self, name: str) -> Backend | None:
        """Return the back end with this name, or None if the settings do not name the back end."""
        return self._backends.get(name)

    async def fence(self, name: str, place: Place) -> None:
        """Make sure that no write of the tenant is acknowledged after this call by a process that had the tenant open before.

        A back end whose tenants only one process may have open needs no fence: this call does nothing there.

        Args:
            name: The name of the tenant's back end.
            place: The place of the tenant's database. The caller has changed the tenant's record in the catalog, so that no process
                opens the tenant again.

        Raises:
            TenantOwnedElsewhereError: Another process kept the database to itself for too long; call again.
            PersistenceConnectionError: The database cannot be reached; call again.
        """
        backend = self.of(name)
        if Capability.SHARED in backend.capabilities:
            async with backend.exclusive(place):
                pass  # to be exclusive is to fence off the others

    def connections(self) -> dict[str, ConnectionCounts]:
        """Return the numbers of connections to each database server, by the name of the back end, without I/O."""
        counted = ((backend.name, backend.connections()) for backend in self)
        return {name: counts for name, counts in counted if counts is not None}

    def engine(self) -> EngineChoice:
        """Return the engine that runs the statements of the SQLite databases in this process.

        Raises:
            SettingsError: The settings name an engine that cannot be used in this process. No registry opens then.
        """
        return next(engine for backend in self if (engine := backend.engine()) is not None)

    async def reports(self, *, seconds_max: float = REPORT_SECONDS_MAX) -> Sequence[AskedBackend]:
        """Ask all back ends for their reports at the same time; the default one comes first. A server that cannot be asked hides no other.

        Args:
            seconds_max: The time after which a server counts as one that cannot be asked.
        """
        backends = sorted(self, key=lambda one: one is not self.default)
        return await asyncio.gather(*(_asked(backend, seconds_max) for backend in backends))

    async def open(self) -> None:
        """Open every back end; see `Backend.open`. If one cannot be opened, the others are closed again."""
        async with AsyncExitStack() as opened:
            for backend in self:
                await backend.open()
                opened.push_async_callback(backend.aclose)
            opened.pop_all()

    async def aclose(self) -> None:
        """Close every back end, even if closing another one fails; idempotent. The caller disconnects every store first."""
        async with AsyncExitStack() as steps:
            for backend in self:
                steps.push_async_callback(backend.aclose)

    def abandon(self) -> None:
        """Release what the back ends hold, from any thread and without waiting; see `Backend.abandon`."""
        for backend in self:
            backend.abandon()


def fit_pool(config: RegistryConfig) -> RegistryConfig:
    """Return the settings with a default pool for which this process may open enough files; see `fit_to_open_files`."""
    return fit_to_open_files(config)


def make_backends(
    config: RegistryConfig,
    schemas: Sequence[Schema],
    *,
    clock: Clock,
    log: EventLog,
    socket_name: Callable[[], str | None] = lambda: None,
) -> Backends:
    """Return the back ends for the settings; the back ends are not open yet.

    `socket_name` returns the name under which this process listens to other processes; by default it does not listen.

    Raises:
        SettingsError: The settings name a PostgreSQL database, and the extra ``postgres`` is not installed.
    """
    files = SQLiteBackend(config, schemas, clock=clock, log=log, socket_name=socket_name)
    databases = [
        _postgres_backend(name, config, schemas, clock=clock, log=log) for name in config.all_databases
    ]
    return Backends([files, *databases], default=config.new_tenants_backend, catalog=config.catalog_backend)


def _postgres_backend(
    name: str, config: RegistryConfig, schemas: Sequence[Schema], *, clock: Clock, log: EventLog
) -> Backend:
    """Return the back end of a PostgreSQL database, whose driver only registries with such a database load."""
    try:
        from tenantry.storage.postgres.backend import PostgresBackend  # noqa: PLC0415  # an extra
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        raise SettingsError(
            "the settings name a PostgreSQL database, which needs the driver psycopg: pip install 'tenantry[postgres]'"
        ) from error
    database = config.all_databases[name]
    return PostgresBackend(config, schemas, name=name, database=database, clock=clock, log=log)


async def _asked(backend: Backend, seconds_max: float) -> AskedBackend:
    try:
        async with asyncio.timeout(seconds_max):
            return AskedBackend(backend.name, backend.dialect, report=await backend.report())
    except TenantryError as error:
        return AskedBackend(backend.name, backend.dialect, error=error)
    except TimeoutError:
        late = PersistenceConnectionError(
            f"the server of the back end {backend.name!r} did not answer within {seconds_max:g} s: look at the server"
        )
        return AskedBackend(backend.name, backend.dialect, error=late)


def check_supports(backend: Backend, capability: Capability, what: str) -> None:
    """Raise `UnsupportedByBackend` unless the back end has a feature.

    Args:
        backend: The back end.
        capability: The feature.
        what: The beginning of the error's message, such as "a limit of the database's size".
    """
    if capability not in backend.capabilities:
        raise UnsupportedByBackend(
            f"{what} is not possible on the back end {backend.name!r} ({backend.dialect}), and nothing was changed",
            capability=capability.value,
            backend=backend.name,
        )


def not_configured(name: str, known: Sequence[str]) -> BackendNotConfiguredError:
    """Return the error for a back end that the settings do not name."""
    setting = database_variable(name)
    return BackendNotConfiguredError(
        f"the back end {name!r} is not in the settings of this process, which has {', '.join(known)}: set {setting} to the "
        "address of its database, or name the database in the program's RegistryConfig",
        backend=name,
        setting=setting,
    )
