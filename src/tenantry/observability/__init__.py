"""Observability: the only part that knows prometheus_client, and how the service logs."""
