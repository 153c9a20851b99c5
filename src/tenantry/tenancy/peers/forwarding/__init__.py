"""The caller's side: gives leases of the tenants of other processes, and forwards their calls."""
