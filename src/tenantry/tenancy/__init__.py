"""Tenancy: the registry, with the catalog, the pool and the actors below it."""
