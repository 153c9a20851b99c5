"""Reads a database that its owner may be using, without creating, changing or recovering any file.

The calling process must not have the database open, because closing a file releases the process's locks on the file
(https://www.sqlite.org/howtocorrupt.html, section 2.2).
"""

from contextlib import closing
from pathlib import Path

from tenantry.sql.statements import Result, Statement
from tenantry.storage.sqlite.connections.immutable import open_immutable
from tenantry.storage.sqlite.connections.opening import SQLiteOptions, open_reader
from tenantry.storage.sqlite.database_files.ownership import OWNER_SQL
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, map_connection_error, map_error
from tenantry.storage.sqlite.statements.execution import run_statement


class Inspection:
    """A read-only connection to a database with a rollback journal."""

    def __init__(self, path: Path) -> None:
        try:
            self._connection = open_reader(SQLiteOptions(path=path))
        except DRIVER_ERRORS as error:
            raise map_connection_error(error, f"cannot open {path}") from error

    async def read(self, statement: Statement) -> Result:
        """Run one read-only statement."""
        try:
            return run_statement(statement, self._connection)
        except DRIVER_ERRORS as error:
            raise map_error(error, statement.name) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def read_closed_owner(path: Path) -> str | None:
    """Return the stable key of the tenant that owns a closed database; empty if the database names no owner.

    The result is None if the database is not closed, because only the owner can then read the database without creating files.
    """
    try:
        found = open_immutable(SQLiteOptions(path=path))
    except DRIVER_ERRORS as error:
        raise map_connection_error(error, f"cannot open {path}") from error
    if found is None:
        return None
    connection, immutable_file = found
    with closing(connection):
        try:
            row = connection.execute(OWNER_SQL).fetchone()
        except DRIVER_ERRORS as error:
            if not immutable_file.is_unchanged():  # the owner has begun to write
                return None
            raise map_error(error, f"cannot read {path}") from error
    if not immutable_file.is_unchanged():
        return None
    return "" if row is None else str(row[0])
