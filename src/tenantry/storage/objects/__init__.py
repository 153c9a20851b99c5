"""Object storage, which keeps the snapshots."""
