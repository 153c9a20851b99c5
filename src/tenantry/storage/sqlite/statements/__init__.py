"""SQL from repositories and migrations: what it may do, and whole batches of it."""
