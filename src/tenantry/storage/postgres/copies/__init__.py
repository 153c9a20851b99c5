"""Copies of a tenant, from its schema into a SQLite file and back."""
