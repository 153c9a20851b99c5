"""The rows of a closed tenant file, for a copy into another back end's database.

These functions block for a time that grows with the number of rows; each call runs on its own thread.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from tenantry.errors import SnapshotError
from tenantry.schemas.schema import Schema
from tenantry.storage.plain_tables import PlainTable
from tenantry.storage.sqlite.connections.immutable import ImmutableFile
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, error_text, is_undecodable, map_error
from tenantry.storage.sqlite.maintenance.maintenance_connection import IMMUTABLE, READ_ONLY, connect
from tenantry.storage.sqlite.tenant_files.plain_tables import describe_plain_table
from tenantry.storage.sqlite.tenant_files.tables import read_tables

_SHOWN_CHARACTERS_MAX: Final = 80
_VERSIONS: Final = "SELECT schema, max(version) FROM schema_migrations GROUP BY schema ORDER BY schema"
_OWNER: Final = "SELECT tenant_uid, epoch FROM tenantry_owner WHERE id = 1"
_KEYS: Final = "SELECT key, payload_hash, results, created_at FROM tenantry_idempotency"


class FileRows:
    """A tenant file that is open for reading; see `file_rows`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self.tables = read_tables(connection)

    @property
    def versions(self) -> Mapping[str, int]:
        """The last applied migration of each pack."""
        return dict(self._connection.execute(_VERSIONS)) if self._has("schema_migrations") else {}

    @property
    def owner(self) -> tuple[str | None, int]:
        """The stable key of the tenant that owns the file, and the file's epoch; None and 0 if the file names no owner."""
        row = self._connection.execute(_OWNER).fetchone() if self._has("tenantry_owner") else None
        return (None, 0) if row is None else (row[0], row[1])

    def describe(self, name: str) -> PlainTable:
        """Describe a table that no pack knows; see `describe_plain_table`."""
        return describe_plain_table(name, self._connection)

    def rows(self, name: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a table in the order of its key.

        Raises:
            SnapshotError: A text of a row is not valid UTF-8; the message names the table and the row.
        """
        number = 0
        try:
            for row in self._connection.execute(self.tables[name].select(columns)):
                number += 1
                yield row
        except DRIVER_ERRORS as error:
            if not is_undecodable(error):
                raise
            raise SnapshotError(
                f"table {name!r}, row {self.row_key(name, number + 1)}: {error_text(error)}: correct the text, or delete the row"
            ) from error

    def row_key(self, name: str, number: int) -> str:
        """Return the key of the row with this number in the order of `rows`, for a message; the first row has the number 1."""
        table = self.tables[name]
        try:
            row = self._connection.execute(table.select_key(), (number - 1,)).fetchone()
        except DRIVER_ERRORS:  # the key itself cannot be decoded
            row = None
        if row is None:
            return f"number {number}"
        names = table.key_names or ("rowid",)
        shown = ", ".join(f"{name} = {value!r}" for name, value in zip(names, row, strict=True))
        return shown[:_SHOWN_CHARACTERS_MAX]

    def idempotency_keys(self) -> Iterator[tuple[str, bytes, str, str]]:
        """Yield the idempotency keys; see `FilledFile.fill_idempotency_keys`."""
        if self._has("tenantry_idempotency"):
            yield from self._connection.execute(_KEYS)

    def last_number(self, name: str) -> int:
        """Return the last number that AUTOINCREMENT gave to a row of the table; 0 if the table has no AUTOINCREMENT."""
        if not self.tables[name].has_autoincrement:
            return 0
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def _has(self, table: str) -> bool:
        sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
        return self._connection.execute(sql, (table,)).fetchone() is not None


@contextmanager
def file_rows(path: Path, schemas: Sequence[Schema] = ()) -> Iterator[FileRows]:
    """Open a closed tenant file for reading. The connect hooks of `schemas` define what the file's schema may call.

    Raises:
        DatabaseCorruptError: The file is missing or damaged.
        PersistenceError: SQLite cannot read the file.
    """
    # A read-only connection would create the log of a file whose header names a write-ahead log.
    parameters = IMMUTABLE if ImmutableFile.find(path) else READ_ONLY
    try:
        with closing(connect(path, parameters, schemas=schemas)) as connection:
            connection.execute("BEGIN")
            yield FileRows(path, connection)
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot read {path}") from error
