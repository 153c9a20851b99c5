"""A metric for the expiry of a server's certificate."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class CertificateMetrics(Collector):
    """Collects the expiry time of the certificate that new connections use.

    Args:
        expires_at_seconds: Returns the expiry time as Unix time; None if there is no certificate.
    """

    def __init__(self, expires_at_seconds: Callable[[], float | None]) -> None:
        self._expires_at_seconds = expires_at_seconds

    def collect(self) -> Iterable[Metric]:
        """Return the metric, without a sample if there is no certificate."""
        family = GaugeMetricFamily(
            "tenantry_certificate_expiry_timestamp_seconds",
            "The expiry time of the certificate of new connections; no sample without TLS.",
        )
        expires_at_seconds = self._expires_at_seconds()
        if expires_at_seconds is not None:
            family.add_metric((), expires_at_seconds)
        yield family


def export_certificate(
    expires_at_seconds: Callable[[], float | None], collector_registry: CollectorRegistry
) -> CertificateMetrics:
    """Register a collector for the expiry of a server's certificate, and return the collector."""
    metrics = CertificateMetrics(expires_at_seconds)
    collector_registry.register(metrics)
    return metrics
