"""How snapshots and bundles are written and read."""
