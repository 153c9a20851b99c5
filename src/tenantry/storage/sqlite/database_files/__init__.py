"""The files of one database: the database itself, the lock file and the write-ahead log."""
