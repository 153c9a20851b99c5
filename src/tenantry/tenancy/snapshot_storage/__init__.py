"""The location and the owner of the snapshot storage."""
