"""The object storage of snapshots."""
