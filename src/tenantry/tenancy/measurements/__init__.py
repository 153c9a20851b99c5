"""What a registry measures, as plain numbers; `tenantry.observability` turns the numbers into Prometheus metrics."""
