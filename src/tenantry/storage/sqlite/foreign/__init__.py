"""Checks and adoption of database files that other programs or installations made."""
