"""Fleet jobs, which do the same work on many tenants."""
