"""The checkpoint that empties a write-ahead log."""

import sqlite3


def truncate_log(connection: sqlite3.Connection) -> bool:
    """Write the whole write-ahead log into the database and truncate the log.

    Only the database's single writer may call this function, see `tenantry.storage.sqlite.store`. The call waits for readers, at most for
    the connection's busy timeout (https://www.sqlite.org/pragma.html#pragma_wal_checkpoint). If a reader prevents the truncation,
    the result is False, and the log keeps its length.
    """
    is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy
