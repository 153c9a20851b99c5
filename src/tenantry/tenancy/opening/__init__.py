"""Opening tenants for their callers: the opener, leases, quarantine, and closing tenants that failed."""
