"""One schema of a PostgreSQL database with its own connections, for a company without a registry."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from tenantry.clock import Clock
from tenantry.errors import PersistenceConnectionError, SnapshotError
from tenantry.eventlog import EventLog
from tenantry.postgres_config import PostgresConfig
from tenantry.schemas.schema import Schema
from tenantry.storage.postgres.connections.pipeline import Pipeline
from tenantry.storage.postgres.connections.pool import ConnectionPool
from tenantry.storage.postgres.connections.startup_checks import check_database
from tenantry.storage.postgres.migrations.created_objects import check_created_objects
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.statements.head import session_settings
from tenantry.storage.postgres.store import PostgresStore, PostgresStoreOptions

CONNECTIONS_MAX: Final = 4
"""The largest number of connections unless the settings of the database have another number."""

_STATEMENT_SECONDS_MAX: Final = 60.0


class SingleSchema:
    """A store, and the connections that open and close with the store.

    Args:
        config: The settings of the database.
        name: The name of the schema, which is created if it does not exist.
        schemas: The schema packs.
        clock: The source of the time in the migrations' rows.
        log: The event log.
    """

    def __init__(
        self, config: PostgresConfig, name: str, schemas: Sequence[Schema], *, clock: Clock, log: EventLog
    ) -> None:
        self._config = config
        self._schemas = tuple(schemas)
        self._log = log
        self._session = session_settings(_STATEMENT_SECONDS_MAX)
        self._pool: ConnectionPool | None = None
        options = PostgresStoreOptions(
            owner=Owner(name, f"standalone-{name}", None),
            is_new=True,
            settings=self._session if config.is_pooled else {},
        )
        self.store = PostgresStore(
            options, schemas, connections=self, copy=_refuse_copy, clock=clock, log=log
        )

    def check_objects(self) -> None:
        """Raise `MigrationError` if two packs create objects with the same name."""
        check_created_objects(self._schemas)

    def connection(
        self, tenant_uid: str | None = None, *, timeout_seconds: float
    ) -> AbstractAsyncContextManager[Pipeline]:
        """Return a connection for the block; see `ConnectionPool.connection`."""
        return self._connected().connection(tenant_uid, timeout_seconds=timeout_seconds)

    def transaction(
        self, tenant_uid: str | None = None, *, timeout_seconds: float
    ) -> AbstractAsyncContextManager[Pipeline]:
        """Return a connection for a transaction over several calls; see `ConnectionPool.transaction`."""
        return self._connected().transaction(tenant_uid, timeout_seconds=timeout_seconds)

    def claim(self, tenant_uid: str) -> bool:
        """Claim the store's home connection; see `ConnectionPool.claim`."""
        return self._pool is None or self._pool.claim(tenant_uid)

    async def connect(self) -> None:
        """Check the server, and connect the store; a no-op if the store is connected. After an error, nothing is left open.

        Raises:
            PersistenceConnectionError: The server cannot be reached, or cannot be used as it is.
        """
        if self.store.is_connected:
            return
        pool = ConnectionPool.of(
            self._config,
            connections_max=self._config.connections_max or CONNECTIONS_MAX,
            session=self._session,
        )
        self._pool = pool
        try:
            await check_database(
                pool, self._config, log=self._log, timeout_seconds=self._config.connect_timeout_seconds
            )
            await self.store.connect()
        except BaseException:
            self._pool = None
            pool.aclose_nowait()
            raise

    async def disconnect(self) -> None:
        """Disconnect the store, and close the connections; idempotent."""
        await self.store.disconnect()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    def _connected(self) -> ConnectionPool:
        if self._pool is None:
            raise PersistenceConnectionError(
                f"the database {self._config.address} is not connected", is_retryable=False
            )
        return self._pool


async def _refuse_copy(_: Path) -> None:
    raise SnapshotError("a company without a registry has no snapshots")
