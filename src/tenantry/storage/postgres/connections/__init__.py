"""Connections to a PostgreSQL server: pipelines, pools, settings, checks at the start, locks and errors."""
