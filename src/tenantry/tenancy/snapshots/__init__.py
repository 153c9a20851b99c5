"""Snapshots and restores of tenants."""
