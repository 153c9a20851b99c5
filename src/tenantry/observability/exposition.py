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

from tenantry.observability.metrics import collect_all_processes
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
    has_exemplars: bool = True,
) -> Exposition:
    """Return the text of the metrics of all processes that have the registry's data directory open; see `collect_all_processes`.

    The event loop runs tenants' calls between two metric families, because the text takes some milliseconds for each process.

    Args:
        registry: An open registry of this process.
        collectors: Other metrics, which have no label ``process``; by default those of prometheus_client's default registry, and None for
            no others. A family of tenantry that `export_metrics` registered there is left out, because a family may occur only once.
        more: Further metric families.
        is_openmetrics: Whether to return OpenMetrics; see `accepts_openmetrics`.
        has_exemplars: Whether to include OpenMetrics exemplars, which reveal tenants and therefore must not be public.
    """
    families = list((await collect_all_processes(registry)).collect())
    write, end = (
        (openmetrics.generate_latest, _OPENMETRICS_END) if is_openmetrics else (text.generate_latest, b"")
    )
    pieces = []
    # Writing the text on a thread would block the event loop for longer than one metric family does, by the interpreter lock.
    for family in chain(families, _others(families, collectors, more)):
        shown = family if has_exemplars else _without_exemplars(family)
        pieces.append(write(SimpleNamespace(collect=lambda one=shown: (one,))).removesuffix(end))
        await asyncio.sleep(0)
    media_type = openmetrics.CONTENT_TYPE_LATEST if is_openmetrics else text.CONTENT_TYPE_LATEST
    return Exposition(b"".join(pieces) + end, media_type)


def _others(
    families: Iterable[Metric], collectors: CollectorRegistry | None, more: Iterable[Metric]
) -> Iterator[Metric]:
    names = {family.name for family in families}
    if collectors is not None:
        yield from (family for family in collectors.collect() if family.name not in names)
    yield from more


def _without_exemplars(family: Metric) -> Metric:
    found = copy(family)  # a copy, because the collector may keep the original family
    found.samples = [sample._replace(exemplar=None) for sample in family.samples]
    return found
