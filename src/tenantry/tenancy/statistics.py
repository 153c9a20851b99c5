"""Statistics of the registry and of a tenant, at one moment."""

from dataclasses import dataclass

from tenantry.lifecycle import TenantState
from tenantry.storage.protocol import ConnectionCounts, EngineChoice
from tenantry.tenancy.actors.actor import ActorStatistics
from tenantry.tenancy.actors.pool import ActorPool, PoolStatistics
from tenantry.tenancy.data_directory import DiskSpace


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """The connections between a registry and other processes, and the calls over them.

    Attributes:
        connected_out: The number of processes to which this one is connected.
        connected_in: The number of processes that are connected to this one.
        forwarded_tenants: The number of tenants that this process knows another process to have open.
        answered_calls: The number of answers to calls of other processes, by outcome: ``ok``, the error's `outcome`, ``not_owner``
            for a tenant that is not open here, or ``cancelled``.
    """

    connected_out: int
    connected_in: int
    forwarded_tenants: int
    answered_calls: dict[str, int]


@dataclass(frozen=True, slots=True)
class RegistryStatistics:
    """The statistics of a registry at one moment.

    Attributes:
        pool: The statistics of the pool of open tenants.
        tenants: The number of tenants in each state, at most ``catalog_poll_interval_seconds`` old.
        mailbox_requests: The number of waiting calls of all open tenants, by channel (``write``, ``read``).
        mailbox_requests_peak: The largest number of waiting calls of one tenant, by channel.
        engine: The engine that runs the statements of SQLite databases.
        threads_max: The largest number of threads, not counting an extra thread for each job that takes too long.
        disk: The size and free space of the disk, at most `CHORES_INTERVAL_SECONDS` old; None before the first measurement.
        snapshot_interval_seconds: The interval of each tenant's scheduled snapshots; None without a schedule.
        unfinished_operations: The number of tenants with a lifecycle operation that cannot be finished for now, by action.
        connections: The connections to each database server, by the name of its back end.
        peers: The connections to other processes that have the data directory open.
        opened_at_seconds: The time at which the registry was opened, in seconds since 1970; None before.
        clock_held_seconds: The remaining time for which no old data is deleted after a jump of the clock; 0 without a jump.
    """

    pool: PoolStatistics
    tenants: dict[TenantState, int]
    mailbox_requests: dict[str, int]
    mailbox_requests_peak: dict[str, int]
    engine: EngineChoice
    threads_max: int
    disk: DiskSpace | None
    snapshot_interval_seconds: float | None
    unfinished_operations: dict[str, int]
    connections: dict[str, ConnectionCounts]
    peers: PeerStatistics
    opened_at_seconds: float | None
    clock_held_seconds: float


@dataclass(frozen=True, slots=True)
class TenantOwner:
    """The process that has a tenant open.

    Attributes:
        pid: The process id. Each container may have a process 1; `host` tells them apart.
        host: The name of the process's host, or of its container.
    """

    pid: int
    host: str


@dataclass(frozen=True, slots=True)
class TenantStatistics:
    """The statistics of a tenant at one moment.

    Attributes:
        database_bytes: The size of the tenant's database and its write-ahead log.
        actor: The tenant's counters since the process that has it open has opened it; None while the tenant is closed, or if that
            process does not answer.
    """

    database_bytes: int
    actor: ActorStatistics | None


def count_mailboxes(pool: ActorPool) -> tuple[dict[str, int], dict[str, int]]:
    """Return the number of waiting calls by channel: the sum over all open tenants, and the largest number for one tenant."""
    totals, peaks = {"write": 0, "read": 0}, {"write": 0, "read": 0}
    for _, actor in pool.tenants():
        if actor is not None:
            channels = actor.statistics()
            for name, channel in (("write", channels.write), ("read", channels.read)):
                totals[name] += channel.mailbox_requests
                peaks[name] = max(peaks[name], channel.mailbox_requests)
    return totals, peaks
