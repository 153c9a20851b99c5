"""Applies the migrations of schema packs on PostgreSQL."""
