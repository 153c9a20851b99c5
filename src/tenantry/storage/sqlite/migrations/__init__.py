"""Runs migrations on SQLite databases."""
