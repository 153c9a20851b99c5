"""Counts the events of a registry.

The number of label values is bounded: tenants' ids are not labels, and appear only as the examples of histograms' buckets.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tenantry.errors import CallTimeoutError
from tenantry.events import (
    NO_ANSWER,
    BatchFinished,
    CallForwarded,
    CallRefused,
    Event,
    FleetTenantFinished,
    OperationEnded,
    PoolWaited,
    StoreConnected,
    StoreMigrated,
    TenantMoved,
    TenantOpened,
)
from tenantry.tenancy.catalog.actor import CATALOG_NAME
from tenantry.tenancy.measurements.families import Labels, Measured, by, counter, gauge
from tenantry.tenancy.measurements.histogram import Histogram

# Cached reads take tens of microseconds, durable commits hundreds, and migrations or a slow disk seconds.
SECONDS_BUCKETS: Final = (
    *(25e-6, 50e-6, 100e-6, 250e-6, 500e-6),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
REQUESTS_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
OPERATIONS_MAX: Final = 200
"""The maximum number of operations with a label of their own; further operations are counted as ``other``."""

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
    "forwarded_call_duration_seconds": (
        "The time of a call of this process to the process that has the tenant open.",
        ("outcome",),
    ),
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


class EventCounts:
    """Counts the events of a registry; `observe` is a hook."""

    def __init__(self) -> None:
        self._histograms = {
            name: Histogram(f"tenantry_{name}", documentation, labels, _bounds(name))
            for name, (documentation, labels) in _HISTOGRAMS.items()
        }
        self._query = self._histograms["query_duration_seconds"]
        self._queue_wait = self._histograms["queue_wait_duration_seconds"]
        self._batch = self._histograms["batch_duration_seconds"]
        self._batch_requests = self._histograms["batch_requests"]
        self._forwarded = self._histograms["forwarded_call_duration_seconds"]
        self._pool_wait = self._histograms["pool_wait_duration_seconds"]
        self._refused: dict[str, int] = {}
        self._moved_rows: dict[Labels, int] = {}
        self._succeeded_seconds: dict[str, float] = {}
        self._operations: set[str] = set()
        self._channels: dict[str, str] = {}

    def observe(self, event: Event) -> None:
        """Count one event."""
        match event:
            case BatchFinished():
                self._observe_batch(event)
            case CallForwarded():
                self._forwarded.observe(
                    (event.outcome,), event.duration_seconds, event.tenant_id, time.time()
                )
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

    def histograms(self) -> list[Measured]:
        """Return the histograms."""
        return [histogram.measured() for histogram in self._histograms.values()]

    def measured(self) -> Iterator[Measured]:
        """Yield all families with their numbers."""
        yield from self.histograms()
        yield self._calls().measured()
        yield counter(
            "tenantry_calls_refused",
            "Calls refused by a limit or a deadline.",
            by(self._refused.copy()),
            "outcome",
        )
        yield counter(
            "tenantry_moved_rows",
            "Rows of tenants moved to another back end.",
            dict(self._moved_rows.copy()),
            *("source", "target"),
        )
        yield gauge(
            "tenantry_lifecycle_last_success_timestamp_seconds",
            "The time of the last successful lifecycle operation in this process.",
            by(self._succeeded_seconds.copy()),
            "action",
        )

    def forwarded_calls(self) -> dict[str, int]:
        """Return the number of calls that this process forwarded, by outcome."""
        return {outcome: sum(numbers.counts) for (outcome,), numbers in self._forwarded.series().items()}

    def _observe_move(self, event: TenantMoved) -> None:
        labels = (event.source, event.target)
        self._moved_rows[labels] = self._moved_rows.get(labels, 0) + event.rows
        pauses = self._histograms["move_pause_duration_seconds"]
        pauses.observe(labels, event.pause_seconds, event.tenant_id, time.time())

    def _observe_batch(self, event: BatchFinished) -> None:
        now = time.time()
        tenant_id, backend, channel = event.tenant_id, event.backend, (event.backend, event.channel)
        for operation, outcome, submitted_seconds in event.calls:
            name = operation if operation in self._operations else self._operation(operation)
            if name not in self._channels and tenant_id != CATALOG_NAME:
                self._channels[name] = event.channel
            labels = (backend, name, outcome)
            self._query.observe(labels, event.finished_seconds - submitted_seconds, tenant_id, now)
            self._queue_wait.observe(channel, event.started_seconds - submitted_seconds, tenant_id, now)
        self._batch.observe(channel, event.finished_seconds - event.started_seconds, tenant_id, now)
        self._batch_requests.observe(channel, len(event.calls), tenant_id, now)

    def _calls(self) -> Histogram:
        """Return a histogram of the tenants' calls by channel; the calls are added up at each scrape.

        The channel of an operation is unknown until its first call has run. Earlier, refused calls are added after this call.
        """
        calls = Histogram(
            "tenantry_call_duration_seconds",
            "The duration of the calls of all tenants. A call that did not reach its tenant has the channel none.",
            ("backend", "channel", "outcome"),
            SECONDS_BUCKETS,
        )
        for (backend, operation, outcome), series in self._query.series().items():
            if operation in self._channels:
                calls.add((backend, self._channels[operation], outcome), series)
        for (outcome,), series in self._pool_wait.series().items():
            if outcome != "ok":
                calls.add(("none", "none", outcome), series)
        for (outcome,), series in self._forwarded.series().items():
            if outcome == NO_ANSWER:
                calls.add(("none", "none", CallTimeoutError.outcome), series)
        return calls

    def _timed(self, name: str, labels: Labels, event: Any) -> None:
        self._histograms[name].observe(labels, event.duration_seconds, event.tenant_id, time.time())

    def _operation(self, operation: str) -> str:
        if operation not in self._operations:
            if len(self._operations) >= OPERATIONS_MAX:
                return "other"
            self._operations.add(operation)
        return operation


def _bounds(name: str) -> Sequence[float]:
    return REQUESTS_BUCKETS if name.endswith("_requests") else SECONDS_BUCKETS
