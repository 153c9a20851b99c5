"""Calls between the processes that have one data directory open: each call goes to the process that owns its tenant."""
