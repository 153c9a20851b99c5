"""The text that Prometheus scrapes: the metrics of all processes of a data directory, and other metrics of this process."""

import asyncio
from collections.abc import Iterable, Iterator
from copy import copy
from itertools import chain
from types import SimpleNamespace
from typing import Final, NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client import exposition as text
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from tenantry.observability.metrics import ProcessesMetrics, collect_all_processes
from tenantry.tenancy.registry import TenantRegistry

_OPENMETRICS_TYPE: Final = "application/openmetrics-text"
_OPENMETRICS_END: Final = b"# EOF\n"


class Exposition(NamedTuple):
    """The text of all metrics, and its media type for the header ``Content-Type``."""

    body: bytes
    media_type: str


def accepts_openmetrics(accept: str) -> bool:
    """Return whether a client with this header ``Accept`` wants OpenMetrics, which has exemplars."""
    return _OPENMETRICS_TYPE in accept


async def expose_all_processes(
    registry: TenantRegistry,
    *,
    collectors: CollectorRegistry | None = REGISTRY,
    more: Iterable[Metric] = (),
    is_openmetrics: bool = False,
    has_exemplars: bool = False,
) -> Exposition:
    """Return the text of the metrics of all processes that have the registry's data directory open; see `collect_all_processes`.

    The event loop runs tenants' calls between two metric families, and between two processes of a family, because the text takes about
    10 ms for each process.

    Args:
        registry: An open registry of this process.
        collectors: Other metrics, which have no label ``process``; by default those of prometheus_client's default registry, and None for
            no others. A family of tenantry that `export_metrics` registered there is left out, because a family may occur only once.
        more: Further metric families.
        is_openmetrics: Whether to return OpenMetrics; see `accepts_openmetrics`.
        has_exemplars: Whether to include OpenMetrics exemplars, which reveal tenants and therefore must not be public.
    """
    processes = await collect_all_processes(registry)
    write = openmetrics.generate_latest if is_openmetrics else text.generate_latest
    pieces = []
    # Writing the text on a thread would block the event loop for longer than one piece does, by the interpreter lock.
    for metric, is_first in chain(processes.parts(), _others(processes, collectors, more)):
        shown = metric if has_exemplars else _without_exemplars(metric)
        written = write(SimpleNamespace(collect=lambda one=shown: (one,))).removesuffix(_OPENMETRICS_END)
        pieces.append(written if is_first else _without_head(written))
        await asyncio.sleep(0)
    if is_openmetrics:
        pieces.append(_OPENMETRICS_END)
    media_type = openmetrics.CONTENT_TYPE_LATEST if is_openmetrics else text.CONTENT_TYPE_LATEST
    return Exposition(b"".join(pieces), media_type)


def _others(
    processes: ProcessesMetrics, collectors: CollectorRegistry | None, more: Iterable[Metric]
) -> Iterator[tuple[Metric, bool]]:
    names = processes.names
    if collectors is not None:
        yield from ((family, True) for family in collectors.collect() if family.name not in names)
    yield from ((family, True) for family in more)


def _without_head(written: bytes) -> bytes:
    """Return the samples of a metric without the lines that describe it."""
    while written.startswith(b"# "):
        written = written.partition(b"\n")[2]
    return written


def _without_exemplars(family: Metric) -> Metric:
    found = copy(family)  # a copy, because the collector may keep the original family
    found.samples = [sample._replace(exemplar=None) for sample in family.samples]
    return found
