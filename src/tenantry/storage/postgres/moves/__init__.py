"""Moves of tenants from and to schemas of PostgreSQL; see `tenantry.storage.moves`."""
