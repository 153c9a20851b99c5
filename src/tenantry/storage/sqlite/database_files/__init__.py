"""The files of one database: their names, the lock, the write-ahead log."""
