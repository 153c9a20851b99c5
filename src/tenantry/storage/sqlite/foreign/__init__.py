"""Databases that came from elsewhere."""
