"""Object storage: where snapshots are kept."""
