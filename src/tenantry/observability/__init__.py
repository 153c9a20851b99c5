"""Prometheus metrics of a registry, and the configuration of logging for the `tenantry` program."""

from tenantry.observability.logging import configure_logging
from tenantry.observability.metrics import RegistryMetrics, export_metrics

__all__ = ["RegistryMetrics", "configure_logging", "export_metrics"]
