"""Authorizes and runs the SQL of repositories and migrations."""
