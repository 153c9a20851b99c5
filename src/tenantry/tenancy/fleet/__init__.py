"""The same work over many tenants."""
