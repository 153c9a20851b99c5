"""Snapshots, restores, clones and bundles of tenants."""
