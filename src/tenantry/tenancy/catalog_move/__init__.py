"""Moves the catalog to another back end: ``tenantry catalog move``."""
