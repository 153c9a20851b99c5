"""Connections to one database, and the threads that run their jobs."""
