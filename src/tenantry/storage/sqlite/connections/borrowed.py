"""Lends a connection that the engine has opened to a connection of Python's sqlite3, for the jobs of Python."""

import sqlite3
from typing import TYPE_CHECKING, Final

from tenantry.storage.sqlite.connections.functions import add_functions
from tenantry.storage.sqlite.connections.pace import PROCESS

if TYPE_CHECKING:
    from tenantry.storage.sqlite.engine.native import NativeDatabase

CACHED_STATEMENTS: Final = 128
"""The prepared statements that Python keeps for each connection."""


def borrow(database: "NativeDatabase") -> sqlite3.Connection:
    """Return a connection of Python that uses the engine's connection to a file. The caller closes this connection instead of the engine's.

    Opening the file a second time would take longer, and SQLite would keep the first descriptor open until all connections to the file
    are closed ("Posix Advisory Locking" in SQLite's os_unix.c).
    """
    connection = sqlite3.connect(
        ":memory:", isolation_level=None, check_same_thread=False, cached_statements=CACHED_STATEMENTS
    )
    try:
        database.lend(connection)
        PROCESS.watch(connection)
        add_functions(connection)
    except BaseException:
        connection.close()
        raise
    return connection
