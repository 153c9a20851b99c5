"""Tenants' databases on PostgreSQL servers: one schema for each tenant. Needs the extra ``postgres``."""
