"""The durable list of tenants, its audit, and the keys to the admin API."""
