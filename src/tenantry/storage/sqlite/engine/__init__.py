"""The engine: an optional C extension, and the choice between it and Python."""
