"""Schemas of tenants: their names, roles, restore points, and the operations on a closed tenant."""
