"""The engine runs batches of statements in C, without the interpreter's lock, on the connections of Python's sqlite3."""
