"""Files and directories that survive a power failure, locks between processes, and the space that is left on a disk."""
