"""Collects the statistics of a registry from its parts."""

from tenantry.tenancy.compose import Parts
from tenantry.tenancy.statistics import PeerStatistics, RegistryStatistics, count_mailboxes


def registry_statistics(parts: Parts) -> RegistryStatistics:
    """Return the current statistics of a registry, without I/O."""
    waiting, waiting_peak = count_mailboxes(parts.pool)
    connected_out, connected_in = parts.peers.counts()
    return RegistryStatistics(
        pool=parts.pool.statistics(),
        tenants=dict(parts.periodic_tasks.states),
        mailbox_requests=waiting,
        mailbox_requests_peak=waiting_peak,
        engine=parts.backends.engine(),
        threads_max=parts.config.threads_max,
        disk=parts.periodic_tasks.disk,
        snapshot_interval_seconds=parts.config.snapshot_interval_seconds,
        unfinished_operations=parts.runner.unfinished(),
        connections=parts.backends.connections(),
        peers=PeerStatistics(
            connected_out, connected_in, parts.leases.forwarded_tenants, parts.served.answered_calls
        ),
        opened_at_seconds=parts.state.opened_at_seconds,
        clock_held_seconds=parts.watch.held_seconds,
    )
