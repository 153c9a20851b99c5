"""What the lifecycle calls of one database share: connections, the packs and the limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection

from tenantry.clock import Clock
from tenantry.eventlog import EventLog
from tenantry.postgres_config import PostgresConfig
from tenantry.schemas.schema import Schema
from tenantry.storage.postgres.connections.thread_connections import ThreadConnections

WORK_CONNECTIONS_MAX: Final = 4
"""The connections for short work on closed tenants."""

COPY_CONNECTIONS_MAX: Final = 4
"""The connections for copies, of which each takes as long as the tenant is large; the others wait."""

COPY_STALLED_SECONDS_MAX: Final = 600.0
"""The longest wait for the server's next message during a copy: the server may be checking the foreign keys of a large table."""

MOVE_CONNECTIONS_MAX: Final = 8
"""The largest number of tenants that move from or to the database at the same time; the others wait before they follow."""

EXCLUSIVE_CONNECTIONS_MAX: Final = 16
"""The largest number of tenants that one process keeps closed at the same time."""

LOCK_CONNECTIONS_MAX: Final = 64
"""The largest number of named locks that one process holds: one for each operation and each fleet job that runs."""

_SET_LOCK_TIMEOUT: Final = "SELECT set_config('lock_timeout', %s, true)"


@dataclass(frozen=True, slots=True)
class LifecycleTools:
    """The tools of lifecycle calls.

    Attributes:
        config: The settings of the database.
        schemas: The packs.
        work, copies, moves, exclusives, locks: The connections, separate for each kind of work: a call that holds one kind may need another.
        wait_seconds_max: How long a call waits for another process's lock on a tenant's row or tables.
    """

    config: PostgresConfig
    schemas: Sequence[Schema]
    clock: Clock
    log: EventLog
    work: ThreadConnections
    copies: ThreadConnections
    moves: ThreadConnections
    exclusives: ThreadConnections
    locks: ThreadConnections
    wait_seconds_max: float

    @classmethod
    def of(
        cls,
        config: PostgresConfig,
        schemas: Sequence[Schema],
        *,
        clock: Clock,
        log: EventLog,
        wait_seconds_max: float,
    ) -> "LifecycleTools":
        """Return the tools, without an open connection.

        Raises:
            SettingsError: The URL has an option that libpq does not know.
        """
        return cls(
            config,
            tuple(schemas),
            clock,
            log,
            ThreadConnections(
                config, connections_max=WORK_CONNECTIONS_MAX, wait_seconds_max=wait_seconds_max
            ),
            ThreadConnections(
                config,
                connections_max=COPY_CONNECTIONS_MAX,
                wait_seconds_max=None,
                stalled_seconds_max=COPY_STALLED_SECONDS_MAX,
            ),
            ThreadConnections(
                config,
                connections_max=MOVE_CONNECTIONS_MAX,
                wait_seconds_max=None,
                stalled_seconds_max=COPY_STALLED_SECONDS_MAX,
            ),
            ThreadConnections(
                config, connections_max=EXCLUSIVE_CONNECTIONS_MAX, wait_seconds_max=wait_seconds_max
            ),
            ThreadConnections(
                config, connections_max=LOCK_CONNECTIONS_MAX, wait_seconds_max=wait_seconds_max
            ),
            wait_seconds_max,
        )

    def open(self) -> None:
        """Keep connections that become idle; idempotent."""
        for connections in (self.work, self.copies, self.moves, self.exclusives, self.locks):
            connections.open()

    def close(self) -> None:
        """Close the idle connections; idempotent."""
        for connections in (self.work, self.copies, self.moves, self.exclusives, self.locks):
            connections.close()

    def limit_waiting(self, connection: Connection[tuple[Any, ...]]) -> None:
        """Limit the waiting for locks in the current transaction."""
        connection.execute(_SET_LOCK_TIMEOUT, (f"{self.wait_seconds_max * 1000:.0f}ms",))
