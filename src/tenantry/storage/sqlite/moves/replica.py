"""The `Replica` of a move: a SQLite file at the tenant's new place, which no process has open.

The rules of a SQLite database are its triggers. Foreign keys are off on the connections of this module, which is SQLite's default.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from tenantry.schemas.schema import Schema
from tenantry.storage.moves import MovedRow, MovedTable
from tenantry.storage.sqlite.database_files.checkpoint import truncate_log
from tenantry.storage.sqlite.maintenance.maintenance_connection import WRITABLE, connect
from tenantry.storage.sqlite.moves.original import mapped_errors
from tenantry.storage.sqlite.moves.tables import listed, read_tables
from tenantry.storage.sqlite.statements.idempotency import CREATE_SQL as IDEMPOTENCY_SQL
from tenantry.storage.sqlite.statements.sql_text import quoted
from tenantry.threads import run_in_thread

T = TypeVar("T")

_TRIGGERS: Final = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY rowid"


class SQLiteReplica:
    """See `Replica`."""

    def __init__(self, database: Path, schemas: Sequence[Schema]) -> None:
        self._database = database
        self._schemas = schemas
        self._triggers: list[str] = []  # the statements that create the removed triggers

    async def suspend_rules(self) -> Sequence[MovedTable]:
        """Drop the triggers; see `Replica.suspend_rules`."""
        return await run_in_thread(self._work, self._suspend)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Do nothing, because opening a file is fast; see `Replica.connected`."""
        yield

    @contextmanager
    def writer(self) -> Iterator["SQLiteReplicaWriter"]:
        """Write in one transaction; see `Replica.writer`."""
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield SQLiteReplicaWriter(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    async def restore_rules(self, sequences: Mapping[str, int]) -> None:
        """Create the triggers again, raise the counters, and leave one checkpointed file; see `Replica.restore_rules`."""
        await run_in_thread(self._work, lambda connection: self._restore(sequences, connection))

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with (
            mapped_errors(self._database),
            closing(connect(self._database, WRITABLE, schemas=self._schemas)) as connection,
        ):
            yield connection

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._connected() as connection:
            return work(connection)

    async def validate_rules(self) -> None:
        """Do nothing; see `Replica.validate_rules`."""

    def _suspend(self, connection: sqlite3.Connection) -> list[MovedTable]:
        # A tenant without idempotency keys may lack the table, to which a pass may add keys.
        for sql in IDEMPOTENCY_SQL:
            connection.execute(sql)
        found = connection.execute(_TRIGGERS).fetchall()
        self._triggers = [sql for _, sql in found]
        for name, _ in found:
            connection.execute(f"DROP TRIGGER {quoted(name)}")
        return read_tables(connection)

    def _restore(self, sequences: Mapping[str, int], connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for sql in self._triggers:
                connection.execute(sql)
            if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone():
                for name, last in sequences.items():
                    _raise_counter(name, last, connection)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        truncate_log(connection)


class SQLiteReplicaWriter:
    """See `ReplicaWriter`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def delete(self, table: MovedTable, keys: Sequence[MovedRow]) -> None:
        """Delete rows; see `ReplicaWriter.delete`."""
        where = " AND ".join(f"{quoted(one)} = ?" for one in table.key)
        self._connection.executemany(f"DELETE FROM {quoted(table.name)} WHERE {where}", keys)  # noqa: S608  # our names

    def insert(self, table: MovedTable, rows: Sequence[MovedRow]) -> None:
        """Insert rows; see `ReplicaWriter.insert`."""
        marks = ", ".join("?" * len(table.columns))
        sql = f"INSERT INTO {quoted(table.name)} ({listed(table.columns)}) VALUES ({marks})"  # noqa: S608  # our names
        self._connection.executemany(sql, rows)

    def has(self, table: MovedTable, rows: Sequence[MovedRow]) -> bool:
        """Compare the rows with SQLite's own comparison; see `ReplicaWriter.has`."""
        # The columns of the key come first, because SQLite searches the table by them.
        key = [f"{quoted(one)} = ?" for one in table.key]
        others = [f"{quoted(one)} IS ?" for one in table.columns]
        sql = f"SELECT 1 FROM {quoted(table.name)} WHERE {' AND '.join((*key, *others))}"  # noqa: S608  # our names
        places = [table.columns.index(one) for one in table.key]
        return all(
            self._connection.execute(sql, (*(row[place] for place in places), *row)).fetchone() is not None
            for row in rows
        )

    def count(self, table: MovedTable) -> int:
        """Return the number of rows; see `ReplicaWriter.count`."""
        found: int = self._connection.execute(f"SELECT count(*) FROM {quoted(table.name)}").fetchone()[0]  # noqa: S608  # our names
        return found


def _raise_counter(name: str, last: int, connection: sqlite3.Connection) -> None:
    """Raise a table's AUTOINCREMENT counter to at least `last`; a no-op for a table without AUTOINCREMENT."""
    updated = connection.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (last, name))
    has_counter = (
        "autoincrement"
        in (
            connection.execute("SELECT lower(sql) FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
            or ("",)
        )[0]
    )
    if not updated.rowcount and has_counter:
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, last))
