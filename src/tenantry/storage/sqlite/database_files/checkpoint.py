"""The checkpoint that empties a write-ahead log."""

import sqlite3


def truncate_log(connection: sqlite3.Connection) -> bool:
    """Write the whole write-ahead log into the database and truncate the log.

    https://www.sqlite.org/pragma.html#pragma_wal_checkpoint. Only a database's one writer may do this, see
    `tenantry.storage.sqlite.store`. It waits for readers for its busy timeout.

    Returns:
        False if a reader prevented the truncation; then the log is as long as before.
    """
    is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy
