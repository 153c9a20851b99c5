"""Checks, repairs and copies of whole databases."""
