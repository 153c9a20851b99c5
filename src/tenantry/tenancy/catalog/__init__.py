"""The catalog: the durable list of tenants, the audit, and the API keys of the admin API."""
