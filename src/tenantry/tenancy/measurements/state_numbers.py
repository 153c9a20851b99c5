"""The numbers of a registry's current state."""

from collections.abc import Iterator, Mapping

from tenantry.storage.protocol import ConnectionCounts
from tenantry.tenancy.measurements.families import Labels, Measured, by, counter, gauge, number
from tenantry.tenancy.statistics import PeerStatistics, RegistryStatistics


def state_numbers(statistics: RegistryStatistics, forwarded_calls: Mapping[str, int]) -> Iterator[Measured]:
    """Yield the numbers of the registry's current state.

    Args:
        statistics: The registry's statistics.
        forwarded_calls: The number of calls that this process forwarded, by outcome.
    """
    pool = statistics.pool
    yield number("tenantry_pool_open_tenants", "Tenants opening, open or closing.", pool.open_tenants)
    yield number("tenantry_pool_capacity_tenants", "Places in the pool.", pool.open_tenants_max)
    yield number("tenantry_pool_idle_tenants", "Open tenants not in use.", pool.idle_tenants)
    yield number("tenantry_pool_waiters", "Callers that wait for a place.", pool.waiters)
    yield counter(
        "tenantry_pool_evictions", "Tenants closed, by reason.", by(pool.closed_by_reason), "reason"
    )
    tenants = by({str(state): count for state, count in statistics.tenants.items()})
    yield gauge("tenantry_tenants", "Tenants in the catalog, by state.", tenants, "state")
    yield gauge(
        "tenantry_mailbox_requests",
        "Calls that wait in all mailboxes.",
        by(statistics.mailbox_requests),
        "channel",
    )
    yield gauge(
        "tenantry_mailbox_peak_requests",
        "Calls that wait in the fullest mailbox.",
        by(statistics.mailbox_requests_peak),
        "channel",
    )
    yield gauge(
        "tenantry_lifecycle_unfinished_calls",
        "Tenants with an unfinished lifecycle operation that cannot continue for now.",
        by(statistics.unfinished_operations),
        "action",
    )
    yield from _connections(statistics.connections)
    yield from _peers(statistics.peers, forwarded_calls)
    yield gauge(
        "tenantry_engine_info",
        "The engine that runs the statements of SQLite databases, and the version of SQLite.",
        {(statistics.engine.name, statistics.engine.sqlite_version): 1.0},
        *("engine", "sqlite"),
    )
    yield number(
        "tenantry_opened_timestamp_seconds",
        "The time at which the process opened the data directory.",
        statistics.opened_at_seconds,
    )
    yield number(
        "tenantry_clock_held_seconds",
        "The remaining time without deletions by age, after the machine's clock leapt.",
        statistics.clock_held_seconds,
    )
    disk = statistics.disk
    yield number(
        "tenantry_disk_size_bytes", "The size of the data directory's disk.", disk and disk.size_bytes
    )
    yield number("tenantry_disk_free_bytes", "The disk's usable free space.", disk and disk.free_bytes)
    yield number(
        "tenantry_snapshot_interval_seconds",
        "The interval between a tenant's scheduled snapshots; no sample without a schedule.",
        statistics.snapshot_interval_seconds,
    )


def _peers(peers: PeerStatistics, forwarded_calls: Mapping[str, int]) -> Iterator[Measured]:
    """Yield the numbers of the calls between processes. Direction ``out``: this process forwards; ``in``: it is the owner."""
    calls: dict[Labels, float] = {
        ("out", outcome): float(count) for outcome, count in forwarded_calls.items()
    }
    calls |= {("in", outcome): float(count) for outcome, count in peers.answered_calls.items()}
    yield counter(
        "tenantry_forwarded_calls",
        "Calls between this process and other processes of the data directory: out to a tenant's owner, in from others.",
        calls,
        *("direction", "outcome"),
    )
    yield gauge(
        "tenantry_peers",
        "Connections to other processes of the data directory (out), and from them (in).",
        by({"out": peers.connected_out, "in": peers.connected_in}),
        "direction",
    )
    yield number(
        "tenantry_forwarded_tenants",
        "Tenants that this process knows another process to have open.",
        peers.forwarded_tenants,
    )


def _connections(connections: Mapping[str, ConnectionCounts]) -> Iterator[Measured]:
    """Yield the numbers of the connections to database servers; without a server they have no series."""
    open_now: dict[Labels, float] = {}
    capacity: dict[Labels, float] = {}
    waiters: dict[Labels, float] = {}
    opened: dict[Labels, float] = {}
    ended: dict[Labels, float] = {}
    for backend, counts in connections.items():
        open_now |= {(backend, "in_use"): counts.in_use, (backend, "idle"): counts.idle}
        capacity[backend,] = counts.connections_max
        waiters[backend,] = counts.waiting
        opened |= {(backend, "ok"): counts.opened_total, (backend, "failed"): counts.failed_total}
        ended |= {(backend, "broken"): counts.broken_total, (backend, "recycled"): counts.recycled_total}
    yield gauge(
        "tenantry_database_connections",
        "Connections to the database server: in_use or idle.",
        open_now,
        *("backend", "state"),
    )
    yield gauge(
        "tenantry_database_capacity_connections",
        "Connections that this process may open to the database server.",
        capacity,
        "backend",
    )
    yield gauge("tenantry_database_waiters", "Calls that wait for a connection.", waiters, "backend")
    yield counter(
        "tenantry_database_connects",
        "Connections opened, by outcome.",
        opened,
        *("backend", "outcome"),
    )
    yield counter(
        "tenantry_database_disconnects",
        "Connections that ended: broken, or recycled because of their age or their tenants.",
        ended,
        *("backend", "reason"),
    )
