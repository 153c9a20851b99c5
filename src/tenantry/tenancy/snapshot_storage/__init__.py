"""The storage of snapshots: where it is, and which data directory owns it."""
