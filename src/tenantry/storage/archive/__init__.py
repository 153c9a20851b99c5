"""Writing and reading of snapshots and bundles."""
