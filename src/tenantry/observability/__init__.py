"""Prometheus metrics of a registry, and the configuration of logging for the `tenantry` program."""

from typing import TYPE_CHECKING

from tenantry.lazy_names import lazy_names as _lazy_names

if TYPE_CHECKING:
    from tenantry.observability.logging import configure_logging
    from tenantry.observability.metrics import RegistryMetrics, export_metrics

__all__ = ["RegistryMetrics", "configure_logging", "export_metrics"]

# Commands configure logging and export no metrics.
__getattr__ = _lazy_names(
    __name__,
    {
        "tenantry.observability.logging": ("configure_logging",),
        "tenantry.observability.metrics": ("RegistryMetrics", "export_metrics"),
    },
)
