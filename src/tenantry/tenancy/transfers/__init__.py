"""Transfers of tenants' databases: clones, exports, imports and adoptions."""
