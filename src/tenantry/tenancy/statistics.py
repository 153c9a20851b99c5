"""Statistics of the registry and of a tenant, at one moment."""

from dataclasses import dataclass

from tenantry.lifecycle import TenantState
from tenantry.tenancy.actors.actor import ActorStatistics
from tenantry.tenancy.actors.pool import ActorPool, PoolStatistics
from tenantry.tenancy.data_directory import DiskSpace


@dataclass(frozen=True, slots=True)
class RegistryStatistics:
    """The registry at one moment; no I/O was done for it.

    Attributes:
        pool: The open tenants, see `PoolStatistics`.
        tenants: How many tenants are in each state; at most ``catalog_poll_interval_seconds`` old.
        mailbox_requests: Calls that wait, of all open tenants, by channel (``write``, ``read``).
        mailbox_requests_peak: The same of the tenant where most wait.
        threads_max: How many threads there are; each job that takes too long adds one.
        disk: The space under the data directory, at most `CHORES_INTERVAL_SECONDS` old; None before the first look.
        snapshot_interval_seconds: How often each active tenant's snapshot is taken; None if never by itself.
        unfinished_operations: How many tenants have a lifecycle operation that was begun and cannot be finished for now, by its action.
        clock_held_seconds: How much longer nothing is deleted because of its age, after the clock leapt; 0 if it did not.
    """

    pool: PoolStatistics
    tenants: dict[TenantState, int]
    mailbox_requests: dict[str, int]
    mailbox_requests_peak: dict[str, int]
    threads_max: int
    disk: DiskSpace | None
    snapshot_interval_seconds: float | None
    unfinished_operations: dict[str, int]
    clock_held_seconds: float


@dataclass(frozen=True, slots=True)
class TenantStatistics:
    """One tenant at one moment.

    Attributes:
        database_bytes: The size of its database with its write-ahead log.
        actor: Its counters since it was opened here; None while it is closed.
    """

    database_bytes: int
    actor: ActorStatistics | None


def count_mailboxes(pool: ActorPool) -> tuple[dict[str, int], dict[str, int]]:
    """Return the calls that wait, by channel: of all open tenants, and of the tenant where most wait."""
    totals, peaks = {"write": 0, "read": 0}, {"write": 0, "read": 0}
    for _, actor in pool.tenants():
        if actor is not None:
            channels = actor.statistics()
            for name, channel in (("write", channels.write), ("read", channels.read)):
                totals[name] += channel.mailbox_requests
                peaks[name] = max(peaks[name], channel.mailbox_requests)
    return totals, peaks
