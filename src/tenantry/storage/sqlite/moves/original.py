"""The `Original` of a move: a tenant's SQLite file with a journal.

Each table that moves has a journal table, whose rows contain a number and the columns of the primary key. These columns have no
declared types, so each value keeps its type. The table ``tenantry_journal`` names the journal table of each table.

``INSERT OR REPLACE`` deletes the rows that have a unique value of the new row, and SQLite runs no DELETE trigger for such a row
(https://www.sqlite.org/lang_conflict.html). A table with unique columns beside its primary key therefore has two more triggers, which
record the keys of rows with the new row's unique values before the statement takes effect.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from tenantry.errors import SnapshotError
from tenantry.schemas.schema import Schema
from tenantry.storage.moves import JOURNAL, ROWS_PER_CHUNK, MovedRow, MovedTable, Position
from tenantry.storage.sqlite.connections.immutable import ImmutableFile
from tenantry.storage.sqlite.database_files import log_note
from tenantry.storage.sqlite.database_files.database_file import is_missing
from tenantry.storage.sqlite.database_files.layout import TenantPaths
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, map_error
from tenantry.storage.sqlite.maintenance.maintenance_connection import IMMUTABLE, READ_ONLY, WRITABLE, connect
from tenantry.storage.sqlite.moves.tables import listed, read_tables, remove_journal, unique_columns
from tenantry.storage.sqlite.statements.idempotency import CREATE_SQL as IDEMPOTENCY_SQL
from tenantry.storage.sqlite.statements.sql_text import quoted
from tenantry.threads import run_in_thread

T = TypeVar("T")

# No table of a tenant has a column of this name.
_NUMBER: Final = "tenantry_number"
_JOURNALS: Final = f"SELECT name, journal FROM {JOURNAL}"  # noqa: S608  # our names
_ADD_JOURNAL: Final = f"INSERT INTO {JOURNAL} VALUES (?, ?, ?)"  # noqa: S608  # our names
_MISSING_TRIGGERS: Final = f"""
SELECT (SELECT sum(triggers) FROM {JOURNAL}) <> count(*) FROM sqlite_schema
WHERE type = 'trigger' AND substr(name, 1, ?) = ?
"""  # noqa: S608  # our names
_SPAN: Final = f"FROM {{journal}} WHERE {_NUMBER} > ? AND {_NUMBER} <= ?"
_KEYS: Final = f"SELECT DISTINCT {{key}} {_SPAN}"
_ROWS: Final = f"SELECT {{columns}} FROM {{table}} WHERE ({{key}}) IN (SELECT {{key}} {_SPAN})"  # noqa: S608  # our names


class SQLiteOriginal:
    """See `Original`."""

    def __init__(self, paths: TenantPaths, schemas: Sequence[Schema]) -> None:
        self._paths = paths
        self._schemas = schemas

    async def tables(self) -> Sequence[MovedTable]:
        """Read the tables from the file; see `Original.tables`."""
        return await run_in_thread(self._read, read_tables)

    async def counts(self, tables: Sequence[MovedTable]) -> dict[str, int]:
        """Count the rows of the tables; see `Original.counts`."""
        return await run_in_thread(self._read, lambda connection: _counts(tables, connection))

    async def install(self) -> Sequence[MovedTable]:
        """Create the journal's tables and triggers in one transaction; see `Original.install`."""
        return await run_in_thread(self._change, _install) or ()

    async def remove(self) -> None:
        """Drop the journal's triggers and tables in one transaction; see `Original.remove`."""
        await run_in_thread(self._change, remove_journal)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Do nothing, because opening a file is fast; see `Original.connected`."""
        yield

    @contextmanager
    def changes(self, after: Position, *, is_open: bool) -> Iterator["SQLiteChanges"]:
        """Read the changes in one read transaction; see `Original.changes`."""
        # A tenant that is open has a writer, and no second connection may write. A closed tenant's log may need a recovery.
        parameters = READ_ONLY if is_open else WRITABLE
        with mapped_errors(self._paths.database), closing(self._connect(parameters)) as connection:
            connection.execute("BEGIN")
            yield SQLiteChanges(connection, after)

    async def sequences(self, tables: Sequence[MovedTable]) -> dict[str, int]:
        """Return the counters of the tables with AUTOINCREMENT; see `Original.sequences`."""
        names = {table.name for table in tables}

        def read(connection: sqlite3.Connection) -> dict[str, int]:
            if not connection.execute(
                "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'"
            ).fetchone():
                return {}
            return {
                name: last
                for name, last in connection.execute("SELECT name, seq FROM sqlite_sequence")
                if name in names
            }

        return await run_in_thread(self._read, read)

    def _connect(self, parameters: str) -> sqlite3.Connection:
        return connect(self._paths.database, parameters, schemas=self._schemas)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        # A read-only connection cannot create the log of a closed database in a directory that is not writable.
        parameters = IMMUTABLE if ImmutableFile.find(self._paths.database) else READ_ONLY
        with mapped_errors(self._paths.database), closing(self._connect(parameters)) as connection:
            return work(connection)

    def _change(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        if is_missing(self._paths.database):
            return None
        log_note.check_fits(self._paths.lock, self._paths.database)
        with mapped_errors(self._paths.database), closing(self._connect(WRITABLE)) as connection:
            return work(connection)


class SQLiteChanges:
    """See `Changes`."""

    def __init__(self, connection: sqlite3.Connection, after: Position) -> None:
        self._connection = connection
        self._after = after
        _check_complete(connection)
        self._journals: dict[str, str] = dict(connection.execute(_JOURNALS))
        self.position = {
            table: connection.execute(f"SELECT coalesce(max({_NUMBER}), 0) FROM {journal}").fetchone()[0]  # noqa: S608  # our names
            for table, journal in self._journals.items()
        }

    def keys(self, table: MovedTable, copy: MovedTable) -> Iterator[Sequence[MovedRow]]:  # noqa: ARG002  # every form of a value is SQLite's own
        """Yield the different keys of the table's journal entries; see `Changes.keys`."""
        return self._chunks(_KEYS, table)

    def rows(self, table: MovedTable, copy: MovedTable) -> Iterator[Sequence[MovedRow]]:  # noqa: ARG002  # see `keys`
        """Yield the present rows; see `Changes.rows`."""
        return self._chunks(_ROWS, table)

    def count(self, table: MovedTable) -> int:
        """Return the number of rows; see `Changes.count`."""
        return _counts([table], self._connection)[table.name]

    def _chunks(self, sql: str, table: MovedTable) -> Iterator[Sequence[MovedRow]]:
        sql = sql.format(
            table=quoted(table.name),
            columns=listed(table.columns),
            key=listed(table.key),
            journal=self._journals[table.name],
        )
        span = (self._after.get(table.name, 0), self.position[table.name])
        cursor = self._connection.execute(sql, span)
        while rows := cursor.fetchmany(ROWS_PER_CHUNK):
            yield rows


def _install(connection: sqlite3.Connection) -> list[MovedTable]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # The first call with an idempotency key would create this table, without a journal.
        for sql in IDEMPOTENCY_SQL:
            connection.execute(sql)
        connection.execute(
            f"CREATE TABLE {JOURNAL} (name TEXT PRIMARY KEY, journal TEXT NOT NULL, triggers INTEGER) STRICT"
        )
        tables = read_tables(connection)
        for number, table in enumerate(tables, 1):
            journal = f"{JOURNAL}_{number}"
            connection.execute(f"CREATE TABLE {journal} ({_NUMBER} INTEGER PRIMARY KEY, {listed(table.key)})")
            triggers = list(_triggers(table, journal, connection))
            for sql in triggers:
                connection.execute(sql)
            connection.execute(_ADD_JOURNAL, (table.name, journal, len(triggers)))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return tables


def _triggers(table: MovedTable, journal: str, connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the statements that create the triggers of a table."""
    name, key = quoted(table.name), listed(table.key)
    new, old = (", ".join(f"{row}.{quoted(column)}" for column in table.key) for row in ("new", "old"))
    into = f"INSERT INTO {journal} ({key})"
    has_changed = " OR ".join(f"new.{quoted(one)} IS NOT old.{quoted(one)}" for one in table.key)
    yield f"CREATE TRIGGER {journal}_insert AFTER INSERT ON {name} BEGIN {into} VALUES ({new}); END"  # noqa: S608  # our names
    yield f"CREATE TRIGGER {journal}_delete AFTER DELETE ON {name} BEGIN {into} VALUES ({old}); END"
    yield (
        f"CREATE TRIGGER {journal}_update AFTER UPDATE ON {name} BEGIN {into} VALUES ({new}); "
        f"{into} SELECT {old} WHERE {has_changed}; END"
    )
    unique = list(unique_columns(table, connection))
    if not unique:
        return
    replaced = " ".join(
        f"{into} SELECT {key} FROM {name} WHERE {' AND '.join(f'{quoted(one)} = new.{quoted(one)}' for one in columns)};"  # noqa: S608  # our names
        for columns in unique
    )
    changed = listed(sorted({column for columns in unique for column in columns}))
    yield f"CREATE TRIGGER {journal}_before_insert BEFORE INSERT ON {name} BEGIN {replaced} END"
    yield f"CREATE TRIGGER {journal}_before_update BEFORE UPDATE OF {changed} ON {name} BEGIN {replaced} END"


def _check_complete(connection: sqlite3.Connection) -> None:
    """Raise if a trigger of the journal is missing: dropping a table, even one that is created again, drops its triggers."""
    if connection.execute(_MISSING_TRIGGERS, (len(JOURNAL), JOURNAL)).fetchone()[0]:
        raise SnapshotError(
            "a table was dropped during the move, and the tenant was not moved: try again", is_retryable=True
        )


def _counts(tables: Sequence[MovedTable], connection: sqlite3.Connection) -> dict[str, int]:
    return {
        table.name: connection.execute(f"SELECT count(*) FROM {quoted(table.name)}").fetchone()[0]  # noqa: S608  # our names
        for table in tables
    }


@contextmanager
def mapped_errors(database: Path) -> Iterator[None]:
    """Map the driver's errors of a move to the errors of tenantry."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot move {database}") from error
