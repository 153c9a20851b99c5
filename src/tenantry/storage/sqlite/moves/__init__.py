"""Moves of tenants from and to SQLite files; see `tenantry.storage.moves`."""
