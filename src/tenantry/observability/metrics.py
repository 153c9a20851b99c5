"""Prometheus metrics of a registry.

Events are counted in plain integers, which become metric families only at a scrape. A prometheus_client histogram would take
longer for each call than all other bookkeeping together. The number of label values is bounded: tenants' ids are not labels,
and appear only in OpenMetrics exemplars.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from tenantry.events import (
    BatchFinished,
    CallRefused,
    Event,
    FleetTenantFinished,
    Hook,
    OperationEnded,
    PoolWaited,
    StoreConnected,
    StoreMigrated,
    TenantMoved,
    TenantOpened,
)
from tenantry.storage.protocol import ConnectionCounts
from tenantry.tenancy.catalog.actor import CATALOG_NAME
from tenantry.tenancy.statistics import RegistryStatistics

# Cached reads take tens of microseconds, durable commits hundreds, and migrations or a slow disk seconds.
SECONDS_BUCKETS: Final = (
    *(25e-6, 50e-6, 100e-6, 250e-6, 500e-6),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
REQUESTS_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
OPERATIONS_MAX: Final = 200
"""The maximum number of operations with a label of their own; further operations are counted as ``other``."""

Labels = tuple[str, ...]


class Observed(Protocol):
    """An object with metrics: a `TenantRegistry`, or another object with these two methods."""

    def add_hook(self, hook: Hook) -> None:
        """Register a hook that is called with every later event."""

    def statistics(self) -> RegistryStatistics:
        """Return the registry's current state."""


def export_metrics(observed: Observed, collector_registry: CollectorRegistry) -> "RegistryMetrics":
    """Export the metrics of `observed` in `collector_registry`, and return the collector of these metrics.

    To export another registry's metrics instead, call ``collector_registry.unregister(metrics)`` first.
    """
    metrics = RegistryMetrics(observed.statistics)
    observed.add_hook(metrics.observe)
    collector_registry.register(metrics)
    return metrics


class _Series:
    """The counts of a histogram for one set of label values."""

    __slots__ = ("counts", "exemplars", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.exemplars: list[tuple[str, float, float] | None] = [None] * (buckets + 1)
        self.total = 0.0


class _Histogram:
    """A histogram with a fast method `observe`."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = tuple(bounds)
        self._texts = [*(format(bound, "g") for bound in bounds), "+Inf"]
        self._series: dict[Labels, _Series] = {}

    def observe(self, labels: Labels, value: float, tenant_id: str, at_seconds: float) -> None:
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Series(len(self._bounds))
        bucket = bisect_left(self._bounds, value)
        series.counts[bucket] += 1
        series.total += value
        series.exemplars[bucket] = (tenant_id, value, at_seconds)

    def merge(self, labels: Labels, other: _Series) -> None:
        """Add the counts of another histogram with the same bounds."""
        series = self._series.setdefault(labels, _Series(len(self._bounds)))
        series.counts = [one + another for one, another in zip(series.counts, other.counts, strict=True)]
        series.total += other.total
        series.exemplars = [
            max(one, another, key=_newest)
            for one, another in zip(series.exemplars, other.exemplars, strict=True)
        ]

    def series(self) -> list[tuple[Labels, _Series]]:
        """Return a copy of the counts by label values, because a scrape and the events may run on different threads."""
        return list(self._series.items())

    def family(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, series in self.series():
            buckets: list[Any] = []
            cumulative = 0
            for text, count, exemplar in zip(self._texts, list(series.counts), series.exemplars, strict=True):
                cumulative += count
                buckets.append((text, cumulative, _exemplar(exemplar)))
            family.add_metric(labels, buckets, series.total)
        return family


_HISTOGRAMS: Final[dict[str, tuple[str, Labels]]] = {
    "connect_duration_seconds": ("The time to connect a store.", ("backend", "outcome")),
    "migrate_duration_seconds": ("The time to check and apply a store's migrations.", ("backend", "outcome")),
    "open_duration_seconds": ("The time to open a tenant, until its first call.", ("backend", "outcome")),
    "query_duration_seconds": (
        "The time of a repository call, including its wait in the mailbox.",
        ("backend", "operation", "outcome"),
    ),
    "queue_wait_duration_seconds": ("The wait of a repository call in the mailbox.", ("backend", "channel")),
    "batch_duration_seconds": ("The time of one batch on the store.", ("backend", "channel")),
    "batch_requests": ("The number of calls in one batch.", ("backend", "channel")),
    "pool_wait_duration_seconds": ("The wait of a caller for a tenant that was not open.", ("outcome",)),
    "lifecycle_duration_seconds": (
        "The time of a lifecycle operation, such as create.",
        ("action", "outcome"),
    ),
    "move_pause_duration_seconds": (
        "The time for which a tenant's callers waited during its move to another back end.",
        ("source", "target"),
    ),
    "fleet_duration_seconds": ("The time of a fleet job's work on one tenant.", ("kind", "outcome")),
}


_OPENINGS: Final[dict[type[Event], str]] = {
    StoreConnected: "connect_duration_seconds",
    StoreMigrated: "migrate_duration_seconds",
    TenantOpened: "open_duration_seconds",
}


def _bounds(name: str) -> Sequence[float]:
    return REQUESTS_BUCKETS if name.endswith("_requests") else SECONDS_BUCKETS


class RegistryMetrics(Collector):
    """Counts the events of a registry, and returns the counts as metric families when Prometheus scrapes."""

    def __init__(self, statistics: Callable[[], RegistryStatistics]) -> None:
        self._statistics = statistics
        self._histograms = {
            name: _Histogram(f"tenantry_{name}", documentation, labels, _bounds(name))
            for name, (documentation, labels) in _HISTOGRAMS.items()
        }
        self._query = self._histograms["query_duration_seconds"]
        self._queue_wait = self._histograms["queue_wait_duration_seconds"]
        self._batch = self._histograms["batch_duration_seconds"]
        self._batch_requests = self._histograms["batch_requests"]
        self._pool_wait = self._histograms["pool_wait_duration_seconds"]
        self._refused: dict[str, int] = {}
        self._moved_rows: dict[Labels, int] = {}
        self._succeeded_seconds: dict[str, float] = {}
        self._operations: set[str] = set()
        self._channels: dict[str, str] = {}

    def observe(self, event: Event) -> None:
        """Count one event; the registry calls this method as a hook."""
        match event:
            case BatchFinished():
                self._observe_batch(event)
            case StoreConnected() | StoreMigrated() | TenantOpened():
                self._timed(_OPENINGS[type(event)], (event.backend, event.outcome), event)
            case PoolWaited():
                self._timed("pool_wait_duration_seconds", (event.outcome,), event)
            case OperationEnded():
                self._timed("lifecycle_duration_seconds", (event.action, event.outcome), event)
                if event.outcome == "ok":
                    self._succeeded_seconds[event.action] = time.time()
            case FleetTenantFinished():
                self._timed("fleet_duration_seconds", (event.kind, event.outcome), event)
            case TenantMoved():
                self._observe_move(event)
            case CallRefused():
                self._refused[event.outcome] = self._refused.get(event.outcome, 0) + 1
                labels = (event.backend, self._operation(event.operation), event.outcome)
                self._timed("query_duration_seconds", labels, event)

    def describe(self) -> Iterable[Metric]:
        """Return the metric families without the registry's state, because registration must not read the state."""
        return [histogram.family() for histogram in self._histograms.values()]

    def collect(self) -> Iterable[Metric]:
        """Return all metric families with their current samples."""
        yield from self.describe()
        yield self._calls().family()
        refused = CounterMetricFamily(
            "tenantry_calls_refused", "Calls refused by a limit or a deadline.", labels=("outcome",)
        )
        for outcome, count in list(self._refused.items()):
            refused.add_metric((outcome,), count)
        yield refused
        moved = CounterMetricFamily(
            "tenantry_moved_rows", "Rows of tenants moved to another back end.", labels=("source", "target")
        )
        for labels, rows in list(self._moved_rows.items()):
            moved.add_metric(labels, rows)
        yield moved
        succeeded = GaugeMetricFamily(
            "tenantry_lifecycle_last_success_timestamp_seconds",
            "The time of the last successful lifecycle operation in this process.",
            labels=("action",),
        )
        for action, at_seconds in list(self._succeeded_seconds.items()):
            succeeded.add_metric((action,), at_seconds)
        yield succeeded
        yield from _state_families(self._statistics())

    def _observe_move(self, event: TenantMoved) -> None:
        labels = (event.source, event.target)
        self._moved_rows[labels] = self._moved_rows.get(labels, 0) + event.rows
        pauses = self._histograms["move_pause_duration_seconds"]
        pauses.observe(labels, event.pause_seconds, event.tenant_id, time.time())

    def _observe_batch(self, event: BatchFinished) -> None:
        now = time.time()
        tenant_id, backend, channel = event.tenant_id, event.backend, (event.backend, event.channel)
        for operation, outcome, submitted_seconds in event.calls:
            name = self._operation(operation)
            if name not in self._channels and tenant_id != CATALOG_NAME:
                self._channels[name] = event.channel
            labels = (backend, name, outcome)
            self._query.observe(labels, event.finished_seconds - submitted_seconds, tenant_id, now)
            self._queue_wait.observe(channel, event.started_seconds - submitted_seconds, tenant_id, now)
        self._batch.observe(channel, event.finished_seconds - event.started_seconds, tenant_id, now)
        self._batch_requests.observe(channel, len(event.calls), tenant_id, now)

    def _calls(self) -> _Histogram:
        """Return a histogram of the tenants' calls by channel; the calls are added up at each scrape.

        The channel of an operation is unknown until its first call has run. Earlier, refused calls are added after this call.
        """
        calls = _Histogram(
            "tenantry_call_duration_seconds",
            "The duration of the calls of all tenants. A call that did not reach its tenant has the channel none.",
            ("backend", "channel", "outcome"),
            SECONDS_BUCKETS,
        )
        for (backend, operation, outcome), series in self._query.series():
            if operation in self._channels:
                calls.merge((backend, self._channels[operation], outcome), series)
        for (outcome,), series in self._pool_wait.series():
            if outcome != "ok":
                calls.merge(("none", "none", outcome), series)
        return calls

    def _timed(self, name: str, labels: Labels, event: Any) -> None:
        self._histograms[name].observe(labels, event.duration_seconds, event.tenant_id, time.time())

    def _operation(self, operation: str) -> str:
        if operation not in self._operations:
            if len(self._operations) >= OPERATIONS_MAX:
                return "other"
            self._operations.add(operation)
        return operation


def _state_families(statistics: RegistryStatistics) -> Iterable[Metric]:
    """Return the gauges of the registry's current state."""
    pool = statistics.pool
    yield GaugeMetricFamily(
        "tenantry_pool_open_tenants", "Tenants opening, open or closing.", pool.open_tenants
    )
    yield GaugeMetricFamily("tenantry_pool_capacity_tenants", "Places in the pool.", pool.open_tenants_max)
    yield GaugeMetricFamily("tenantry_pool_idle_tenants", "Open tenants not in use.", pool.idle_tenants)
    yield GaugeMetricFamily("tenantry_pool_waiters", "Callers that wait for a place.", pool.waiters)
    yield _labelled(
        CounterMetricFamily("tenantry_pool_evictions", "Tenants closed, by reason.", labels=("reason",)),
        pool.closed_by_reason,
    )
    yield _labelled(
        GaugeMetricFamily("tenantry_tenants", "Tenants in the catalog, by state.", labels=("state",)),
        statistics.tenants,
    )
    yield _labelled(
        GaugeMetricFamily(
            "tenantry_mailbox_requests", "Calls that wait in all mailboxes.", labels=("channel",)
        ),
        statistics.mailbox_requests,
    )
    yield _labelled(
        GaugeMetricFamily(
            "tenantry_mailbox_peak_requests", "Calls that wait in the fullest mailbox.", labels=("channel",)
        ),
        statistics.mailbox_requests_peak,
    )
    yield _labelled(
        GaugeMetricFamily(
            "tenantry_lifecycle_unfinished_calls",
            "Tenants with an unfinished lifecycle operation that cannot continue for now.",
            labels=("action",),
        ),
        statistics.unfinished_operations,
    )
    yield from _connection_families(statistics.connections)
    yield GaugeMetricFamily(
        "tenantry_clock_held_seconds",
        "The remaining time without deletions by age, after the machine's clock leapt.",
        statistics.clock_held_seconds,
    )
    disk = statistics.disk
    yield _optional(
        "tenantry_disk_size_bytes", "The size of the data directory's disk.", disk and disk.size_bytes
    )
    yield _optional("tenantry_disk_free_bytes", "The disk's usable free space.", disk and disk.free_bytes)
    yield _optional(
        "tenantry_snapshot_interval_seconds",
        "The interval between a tenant's scheduled snapshots; no sample without a schedule.",
        statistics.snapshot_interval_seconds,
    )


def _connection_families(connections: Mapping[str, ConnectionCounts]) -> Iterable[Metric]:
    """Return the metrics of the connections to database servers; without a server they have no samples."""
    open_now = GaugeMetricFamily(
        "tenantry_database_connections",
        "Connections to the database server: in_use or idle.",
        labels=("backend", "state"),
    )
    capacity = GaugeMetricFamily(
        "tenantry_database_capacity_connections",
        "Connections that this process may open to the database server.",
        labels=("backend",),
    )
    waiters = GaugeMetricFamily(
        "tenantry_database_waiters", "Calls that wait for a connection.", labels=("backend",)
    )
    opened = CounterMetricFamily(
        "tenantry_database_connects", "Connections opened, by outcome.", labels=("backend", "outcome")
    )
    ended = CounterMetricFamily(
        "tenantry_database_disconnects",
        "Connections that ended: broken, or recycled because of their age or their tenants.",
        labels=("backend", "reason"),
    )
    for backend, counts in connections.items():
        open_now.add_metric((backend, "in_use"), counts.in_use)
        open_now.add_metric((backend, "idle"), counts.idle)
        capacity.add_metric((backend,), counts.connections_max)
        waiters.add_metric((backend,), counts.waiting)
        opened.add_metric((backend, "ok"), counts.opened_total)
        opened.add_metric((backend, "failed"), counts.failed_total)
        ended.add_metric((backend, "broken"), counts.broken_total)
        ended.add_metric((backend, "recycled"), counts.recycled_total)
    yield from (open_now, capacity, waiters, opened, ended)


def _optional(name: str, documentation: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, documentation)
    if value is not None:
        family.add_metric((), value)
    return family


def _labelled(
    family: CounterMetricFamily | GaugeMetricFamily, values: "dict[Any, int]"
) -> CounterMetricFamily | GaugeMetricFamily:
    for label, value in values.items():
        family.add_metric((str(label),), value)
    return family


def _exemplar(exemplar: tuple[str, float, float] | None) -> Exemplar | None:
    if exemplar is None:
        return None
    tenant_id, value, at_seconds = exemplar
    return Exemplar({"tenant_id": tenant_id}, value, at_seconds)


def _newest(exemplar: tuple[str, float, float] | None) -> float:
    return 0.0 if exemplar is None else exemplar[2]
