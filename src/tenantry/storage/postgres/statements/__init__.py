"""Batches of statements: translation, values, the head with guard and mark, writes, keyed writes and reads."""
