"""Moves of tenants to another back end, while their callers keep reading and writing."""
