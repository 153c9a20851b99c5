"""Prometheus metrics of one registry, or of all processes that have a data directory open.

`RegistryMetrics` is for a program that alone has its data directory open: the usual synchronous collector of one registry.
`collect_all_processes` is for a program of several processes, of which Prometheus reaches one: it asks the other processes, and each
sample has the label ``process``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from tenantry.events import Event, Hook
from tenantry.tenancy.measurements.event_counts import EventCounts
from tenantry.tenancy.measurements.families import Distribution, Example, Family, Kind, Series, Value
from tenantry.tenancy.measurements.measurements import all_numbers
from tenantry.tenancy.peers.process_measurements import MEASURE_TIMEOUT_SECONDS, ProcessMeasured
from tenantry.tenancy.registry import TenantRegistry
from tenantry.tenancy.statistics import RegistryStatistics

PROCESS_LABEL: Final = "process"

_UP: Final = (
    "tenantry_process_up",
    "Whether the process answered this scrape: 1, or 0 for a process whose other samples are missing.",
)
_INFO: Final = ("tenantry_process_info", "The process id, and the version of tenantry.")


class Observed(Protocol):
    """An object with metrics: a `TenantRegistry`, or another object with these two methods."""

    def add_hook(self, hook: Hook) -> None:
        """Register a hook that is called with every later event."""

    def statistics(self) -> RegistryStatistics:
        """Return the registry's current state."""


def export_metrics(observed: Observed, collector_registry: CollectorRegistry) -> "RegistryMetrics":
    """Export the metrics of `observed` alone in `collector_registry`, and return the collector of these metrics.

    To export another registry's metrics instead, call ``collector_registry.unregister(metrics)`` first. If several processes have the
    data directory open, use `collect_all_processes`.
    """
    metrics = RegistryMetrics(observed.statistics)
    observed.add_hook(metrics.observe)
    collector_registry.register(metrics)
    return metrics


class RegistryMetrics(Collector):
    """Counts the events of a registry, and returns the counts as metric families when Prometheus scrapes."""

    def __init__(self, statistics: Callable[[], RegistryStatistics]) -> None:
        self._statistics = statistics
        self._counts = EventCounts()

    def observe(self, event: Event) -> None:
        """Count one event; the registry calls this method as a hook."""
        self._counts.observe(event)

    def describe(self) -> Iterable[Metric]:
        """Return the metric families without the registry's state, because registration must not read the state."""
        return [_metric(family, {None: series}) for family, series in self._counts.histograms()]

    def collect(self) -> Iterable[Metric]:
        """Return all metric families with their current samples."""
        for family, series in all_numbers(self._counts, self._statistics()):
            yield _metric(family, {None: series})


class ProcessesMetrics(Collector):
    """The metrics of all processes that have a data directory open, at one moment."""

    def __init__(self, families: Sequence[Family], processes: Sequence[ProcessMeasured]) -> None:
        answered = [one for one in processes if one.series is not None]
        # Whether a process answered is known of every process; the other numbers only of those that did.
        self._measured = [
            (family, [(_label(one), (one.series or {}).get(family.name, {})) for one in answered])
            for family in families
        ]
        self._measured += [
            (
                Family(Kind.GAUGE, *_UP),
                [(_label(one), {(): float(one.series is not None)}) for one in processes],
            ),
            (
                Family(Kind.GAUGE, *_INFO, labels=("pid", "version")),
                [(_label(one), {(str(one.pid), one.version): 1.0}) for one in answered if one.version],
            ),
        ]

    @property
    def names(self) -> set[str]:
        """The names of the metric families."""
        return {family.name for family, _ in self._measured}

    def collect(self) -> Iterable[Metric]:
        """Yield all metric families; each family has the samples of all processes that answered."""
        for family, processes in self._measured:
            yield _metric(family, dict(processes))

    def parts(self) -> Iterator[tuple[Metric, bool]]:
        """Yield each metric family in parts, with the samples of one process each, and whether the part is the first of its family."""
        for family, processes in self._measured:
            for number, (label, series) in enumerate(processes):
                yield _metric(family, {label: series}), number == 0


async def collect_all_processes(
    registry: TenantRegistry, timeout_seconds: float = MEASURE_TIMEOUT_SECONDS
) -> ProcessesMetrics:
    """Return the current metrics of all processes that have the registry's data directory open.

    Each sample has the label ``process``, a small number that a process keeps until it ends, and that the next process takes over. The
    result has the method ``collect``, so ``prometheus_client.generate_latest`` takes it. Do not export the same registry with
    `export_metrics` in the same exposition.

    Args:
        registry: An open registry of this process.
        timeout_seconds: The longest wait for all other processes. A process that does not answer in time has only the sample 0 of
            ``tenantry_process_up``.
    """
    return ProcessesMetrics(*await registry.measurements(timeout_seconds))


def _label(process: ProcessMeasured) -> str:
    """Return the value of the label ``process``. An empty value is the same as no label for Prometheus."""
    return "" if process.number is None else str(process.number)


def _metric(family: Family, series_by_process: Mapping[str | None, Series]) -> Metric:
    """Return a family with the series of each process; the key None stands for a registry without the label ``process``."""
    own_label = () if None in series_by_process else (PROCESS_LABEL,)
    metric: Metric = _KINDS[family.kind](
        family.name, family.documentation, labels=(*own_label, *family.labels)
    )
    texts = [*(format(bound, "g") for bound in family.bounds), "+Inf"]
    for process, series in series_by_process.items():
        first = () if process is None else (process,)
        for labels, value in series.items():
            _add(metric, (*first, *labels), value, texts)
    return metric


_KINDS: Final[dict[Kind, Any]] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


def _add(metric: Any, labels: tuple[str, ...], value: Value, texts: Sequence[str]) -> None:
    if not isinstance(value, Distribution):
        metric.add_metric(labels, value)
        return
    buckets: list[Any] = []
    cumulative = 0
    for text, count, example in zip(texts, value.counts, value.examples, strict=True):
        cumulative += count
        buckets.append((text, cumulative, _exemplar(example)))
    metric.add_metric(labels, buckets, value.total)


def _exemplar(example: Example | None) -> Exemplar | None:
    if example is None:
        return None
    return Exemplar({"tenant_id": example.tenant_id}, example.value, example.at_seconds)
