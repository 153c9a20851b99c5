"""Durable files and directories, which survive a power failure; lock files; and the free space of a disk."""
