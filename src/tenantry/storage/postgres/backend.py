"""The `Backend` that stores each tenant as a schema of one PostgreSQL database, see `layout`.

Several processes may have a tenant open and write at the same time. The tenants' stores share the connections of a pool. The catalog
has a pool of its own: if tenants' transactions or slow statements hold every connection, operators can still see and suspend tenants.
The calls of the lifecycle have connections of their own too (`lifecycle_tools`), so that neither delays the other.
"""

import hashlib
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from psycopg import Connection

from tenantry.clock import Clock
from tenantry.config import RegistryConfig
from tenantry.errors import DatabaseCorruptError, DataDirectoryError, PersistenceError, SnapshotError
from tenantry.eventlog import EventLog
from tenantry.files.durable_files import remove_files
from tenantry.files.lock_file import Holder
from tenantry.ids import TenantId
from tenantry.limits import TenantLimits
from tenantry.postgres_config import PostgresConfig
from tenantry.schemas.schema import Schema
from tenantry.storage.artifacts import Preparation
from tenantry.storage.postgres import citus
from tenantry.storage.postgres.connections import locks
from tenantry.storage.postgres.connections.lifecycle_tools import LifecycleTools
from tenantry.storage.postgres.connections.pool import ConnectionPool
from tenantry.storage.postgres.connections.startup_checks import check_database
from tenantry.storage.postgres.copies.copy_out import read_mark
from tenantry.storage.postgres.copies.new_schema import make_schema
from tenantry.storage.postgres.migrations.created_objects import check_created_objects
from tenantry.storage.postgres.moves.original import PostgresOriginal
from tenantry.storage.postgres.moves.replica import PostgresReplica
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.statements.head import session_settings
from tenantry.storage.postgres.statements.translation import DIALECT
from tenantry.storage.postgres.store import PostgresStore, PostgresStoreOptions
from tenantry.storage.postgres.tenant_schemas.closed_database import closed_database
from tenantry.storage.postgres.tenant_schemas.layout import (
    CATALOG,
    free_location,
    is_location,
    location_of,
    staged_schema,
)
from tenantry.storage.postgres.tenant_schemas.restore_points import (
    PostgresRestorePoints,
    copy_schema,
    read_schemas,
    rename_schema,
)
from tenantry.storage.postgres.tenant_schemas.roles import role_of
from tenantry.storage.protocol import (
    BackendReport,
    Capability,
    ClosedDatabase,
    ConnectionCounts,
    Place,
    RestorePoints,
)
from tenantry.threads import run_in_thread

CATALOG_UID: Final = "catalog"
"""The key in the owner's row of the catalog's schema."""

CATALOG_SPARE_CONNECTIONS: Final = 2
"""The connections of the catalog beside those of its reads: one for its writes, and one for a check."""

STATEMENT_SECONDS_MORE: Final = 5.0
"""How long after a call's deadline the server ends the call's statement, for which nobody waits any more."""

_DAMAGE: Final = "XX"
_OWNED: Final = """
SELECT n.nspname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = 'tenantry_owner' AND c.relkind IN ('r', 'p')
"""
_SIZE: Final = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_catalog.pg_class AS c
WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s) AND c.relkind IN ('r', 'm', 'S')
"""


_IDENTITY_CHARACTERS: Final = 32
_NUMBERS: Final = """
SELECT concat_ws(' ', (SELECT system_identifier FROM pg_control_system()),
                 (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()),
                 (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s))
"""


class PostgresBackend:
    """The `Backend` for the schemas of one PostgreSQL database.

    Args:
        config: The settings of the registry.
        schemas: The packs.
        name: The back end's name in the settings.
        database: The settings of the database.
        clock: The clock.
        log: The event log.

    Raises:
        SettingsError: The URL has an option that libpq does not know.
    """

    dialect = DIALECT
    capabilities = frozenset([Capability.ATOMIC_MIGRATIONS, Capability.SHARED])

    def __init__(
        self,
        config: RegistryConfig,
        schemas: Sequence[Schema],
        *,
        name: str,
        database: PostgresConfig,
        clock: Clock,
        log: EventLog,
    ) -> None:
        self.name = name
        self._config = config
        self._schemas = tuple(schemas)
        self._database = database
        self._clock = clock
        self._log = log
        self._settings = session_settings(config.call_timeout_seconds + STATEMENT_SECONDS_MORE)
        self._pool = self._new_pool(database.connections_max_of(config.write_jobs_max, config.read_jobs_max))
        self._catalog_pool = self._new_pool(config.readers_per_tenant + CATALOG_SPARE_CONNECTIONS)
        self._tools = LifecycleTools.of(
            database, schemas, clock=clock, log=log, wait_seconds_max=config.call_timeout_seconds
        )
        self._preparation = Preparation(schemas, clock=clock, log=log)
        self._is_open = False
        self._is_sharded = False

    async def open(self) -> None:
        """Check the server and the database; see `Backend.open`."""
        if not self._is_open:
            check_created_objects(self._schemas)
            self._pool.open()
            try:
                facts = await check_database(
                    self._pool,
                    self._database,
                    log=self._log,
                    timeout_seconds=self._database.connect_timeout_seconds,
                )
            except BaseException:
                await self._pool.aclose()
                raise
            self._is_sharded = facts.has_citus
            self._catalog_pool.open()
            self._tools.open()
            self._is_open = True

    async def aclose(self) -> None:
        """Close all connections; see `Backend.aclose`."""
        self._is_open = False
        self._tools.close()
        await self._catalog_pool.aclose()
        await self._pool.aclose()

    def abandon(self) -> None:
        """Close all connections without waiting; see `Backend.abandon`."""
        self._is_open = False
        self._tools.close()
        self._catalog_pool.abandon()
        self._pool.abandon()

    async def locations(self) -> set[str]:
        """Return the schemas that are tenants' databases; see `Backend.locations`."""
        what = f"cannot read the schemas of {self._database.address}"
        return await self._tools.work.run(what, _locations)

    async def has_catalog(self) -> bool:
        """Return whether the database has the catalog's schema; see `Backend.has_catalog`."""
        what = f"cannot read the schemas of {self._database.address}"
        return await self._tools.work.run(what, _exists, CATALOG)

    def catalog(self, schema: Schema, *, log: EventLog) -> PostgresStore:
        """Return the store of the catalog's schema, which several processes may write at the same time; see `Backend.catalog`."""
        owner = Owner(CATALOG, CATALOG_UID, None)
        return self._store(owner, [schema], TenantLimits(), self._catalog_pool, log, is_new=True)

    def store(
        self, place: Place, *, limits: TenantLimits, log: EventLog, is_new: bool = False
    ) -> PostgresStore:
        """Return the store of a tenant's schema; see `Backend.store`."""
        owner = Owner(place.location, place.uid, place.tenant_id)
        return self._store(owner, self._schemas, limits, self._pool, log, is_new=is_new)

    def location_of(self, tenant_id: TenantId) -> str:
        """Return the schema of the first tenant with an id; see `layout`."""
        return location_of(tenant_id)

    async def new_location(self, tenant_id: TenantId, taken: Collection[str]) -> str:
        """Return a schema that no tenant has; see `Backend.new_location`."""
        name = free_location(tenant_id, taken)
        if await self._tools.work.run(f"cannot read the schemas of {self._database.address}", _exists, name):
            # The catalog does not know this schema, so a new tenant must neither use it nor remove it.
            raise DataDirectoryError(
                f"the schema {name} of the database {self._database.address} exists but belongs to no tenant in the catalog: restore the "
                "catalog that lists its tenant, or rename the schema",
                path=name,
            )
        return name

    def exclusive(
        self, place: Place, *, is_waited_for: bool = True
    ) -> AbstractAsyncContextManager[ClosedDatabase]:
        """Hold the tenant's lock during a block, and fence off all stores; see `Backend.exclusive`."""
        return closed_database(self._tools, place, backend=self.name, is_waited_for=is_waited_for)

    async def owner(self, place: Place) -> Holder | None:
        """Return None, because several processes may have the tenant open; see `Backend.owner`."""
        del place
        return None

    @asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[None]:
        """Hold an advisory lock during a block; see `Backend.lock`."""
        async with locks.held(self._tools.locks, locks.name_key(name)):
            yield

    async def may_be_locked(self, name: str) -> bool:
        """Return True: a query would cost more than the wait that it could save; see `Backend.may_be_locked`."""
        del name
        return True

    async def closed_versions(self, place: Place) -> dict[str, int] | None:
        """Read the versions from the schema; see `Backend.closed_versions`. They are right even while a store is connected."""
        try:
            mark = await self._tools.work.run(
                f"cannot read the schema {place.location}", read_mark, place.location
            )
        except DatabaseCorruptError:  # opening the database reports this error
            return None
        return dict(mark.versions) if mark.tenant_uid == place.uid else None

    async def size_bytes(self, place: Place) -> int:
        """Return the size of the tenant's tables with their indexes; see `Backend.size_bytes`."""
        return await self._tools.work.run(
            f"cannot read the size of the schema {place.location}", _size_bytes, place.location
        )

    def may_be_transient(self, error: BaseException) -> bool:
        """Return whether the server reported damage, which a failed read of its disk looks like."""
        return isinstance(error, DatabaseCorruptError) and (error.code or "").startswith(_DAMAGE)

    async def prepare(self, path: Path) -> dict[str, int]:
        """Migrate a copy, which is a SQLite file; see `Preparation`."""
        return await self._preparation.prepare(path)

    async def adopt(self, place: Place, path: Path) -> None:
        """Load a prepared copy into the tenant's schema, and remove the copy; see `Backend.adopt`."""
        staged = staged_schema(place.location)
        try:
            await make_schema(
                self._tools, place, staged, path, partial(rename_schema, schema=staged, name=place.location)
            )
        except PersistenceError as error:
            if isinstance(error, SnapshotError):
                raise
            raise SnapshotError(str(error), code=error.code, is_retryable=error.is_retryable) from error
        await run_in_thread(remove_files, path)

    def points(self, place: Place) -> RestorePoints:
        """Return the tenant's restore points: the schemas that restores have replaced."""
        return PostgresRestorePoints(self._tools, place)

    def original(self, place: Place) -> PostgresOriginal:
        """Return the tenant's schema as the original of a move; see `Backend.original`."""
        return PostgresOriginal(self._tools, place.location)

    def replica(self, place: Place) -> PostgresReplica:
        """Return the schema at the place as the replica of a move; see `Backend.replica`."""
        return PostgresReplica(self._tools, place.location)

    def connections(self) -> ConnectionCounts:
        """Return the counts of the pool that all tenants' stores share; see `Backend.connections`."""
        return self._pool.counts()

    def engine(self) -> None:
        """Return None: the server runs the statements; see `Backend.engine`."""

    async def identity(self) -> str | None:
        """Return a digest of the cluster's, the database's and the catalog's own numbers; see `Backend.identity`.

        A replica has the same numbers. A dump that is loaded elsewhere has others, and so has a database that was upgraded with
        ``pg_upgrade``: https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-CONTROLDATA
        """
        return await self._tools.work.run(f"cannot ask the database {self._database.address}", _identity)

    async def report(self) -> BackendReport:
        """Return the server's version, the address without a secret, and how Citus has spread the tenants; see `Backend.report`."""
        address = self._database.address
        version, sharding = await self._tools.work.run(f"cannot ask the database {address}", _ask)
        counts = self._pool.counts()
        details = {
            "host": ", ".join(host or "(default host)" for host in address.hosts),
            "database": address.database,
            "user": address.user,
            "connections": f"{counts.in_use} of {counts.connections_max} in use",
            "pooler": "transaction mode" if self._database.is_pooled else "none",
            "sharding": sharding,
        }
        return BackendReport(DIALECT, version, details)

    def _new_pool(self, connections_max: int) -> ConnectionPool:
        return ConnectionPool.of(self._database, connections_max=connections_max, session=self._settings)

    def _store(
        self,
        owner: Owner,
        schemas: Sequence[Schema],
        limits: TenantLimits,
        pool: ConnectionPool,
        log: EventLog,
        *,
        is_new: bool,
    ) -> PostgresStore:
        config = self._config
        options = PostgresStoreOptions(
            owner=owner,
            is_new=is_new,
            durability=limits.durability or config.durability,
            role=role_of(owner.uid) if self._database.roles and owner.tenant_id is not None else None,
            # The catalog's schema is not distributed.
            is_sharded=self._is_sharded and owner.tenant_id is not None,
            settings=self._settings if self._database.is_pooled else {},
            call_timeout_seconds=config.call_timeout_seconds,
            transaction_timeout_seconds=config.transaction_timeout_seconds,
        )
        return PostgresStore(
            options,
            schemas,
            connections=pool,
            copy=partial(copy_schema, self._tools, owner.schema, packs=schemas),
            clock=self._clock,
            log=log,
        )


def _locations(connection: Connection[tuple[Any, ...]]) -> set[str]:
    return {name for (name,) in connection.execute(_OWNED).fetchall() if is_location(name)}


def _exists(connection: Connection[tuple[Any, ...]], name: str) -> bool:
    return name in read_schemas(connection, name)


def _size_bytes(connection: Connection[tuple[Any, ...]], schema: str) -> int:
    (size,) = connection.execute(_SIZE, (schema,)).fetchone() or (0,)
    return int(size)


def _identity(connection: Connection[tuple[Any, ...]]) -> str:
    (numbers,) = connection.execute(_NUMBERS, (CATALOG,)).fetchone() or ("",)
    return hashlib.sha256(str(numbers).encode()).hexdigest()[:_IDENTITY_CHARACTERS]


def _ask(connection: Connection[tuple[Any, ...]]) -> tuple[str, str]:
    """Return the server's version, and how the tenants are spread over the nodes of a cluster."""
    (version,) = connection.execute("SELECT current_setting('server_version')").fetchone() or ("",)
    return version, citus.describe_spread(connection)
