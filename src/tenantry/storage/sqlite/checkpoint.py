"""The checkpoint that ends a write-ahead log, in one place."""

import sqlite3


def truncate_log(connection: sqlite3.Connection) -> bool:
    """Write the whole write-ahead log into the database and cut the log to nothing.

    https://www.sqlite.org/pragma.html#pragma_wal_checkpoint. Only a database's one writer may do this, see
    `tenantry.storage.sqlite.store`.

    Args:
        connection: The writer; it waits for readers as long as its busy timeout says.

    Returns:
        False if a reader kept the log from being cut; then it is as long as it was.

    Raises:
        sqlite3.Error: SQLite could not write the database.
    """
    is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy
