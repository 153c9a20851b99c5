"""Grafana's dashboards of tenantry, as Python; ``python -m dashboards`` writes the JSON that is checked in."""
