"""Prometheus metrics of a registry or of all processes of a data directory, and the configuration of logging for the `tenantry` program."""

from typing import TYPE_CHECKING

from tenantry.lazy_names import lazy_names as _lazy_names

if TYPE_CHECKING:
    from tenantry.observability.exposition import Exposition, accepts_openmetrics, expose_all_processes
    from tenantry.observability.logging import configure_logging
    from tenantry.observability.metrics import (
        ProcessesMetrics,
        RegistryMetrics,
        collect_all_processes,
        export_metrics,
    )

__all__ = [
    "Exposition",
    "ProcessesMetrics",
    "RegistryMetrics",
    "accepts_openmetrics",
    "collect_all_processes",
    "configure_logging",
    "export_metrics",
    "expose_all_processes",
]

# Commands configure logging and export no metrics.
__getattr__ = _lazy_names(
    __name__,
    {
        "tenantry.observability.exposition": ("Exposition", "accepts_openmetrics", "expose_all_processes"),
        "tenantry.observability.logging": ("configure_logging",),
        "tenantry.observability.metrics": (
            "ProcessesMetrics",
            "RegistryMetrics",
            "collect_all_processes",
            "export_metrics",
        ),
    },
)
