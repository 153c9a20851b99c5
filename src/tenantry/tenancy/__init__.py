"""Tenancy: actors, the pool, the catalog and the registry over them."""
