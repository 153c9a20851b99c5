"""How commands reach the admin API: over a network, or in this process."""
