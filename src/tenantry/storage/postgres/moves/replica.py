"""The `Replica` of a move: a schema at the tenant's new place, which no process has open.

The rules of a schema are the packs' triggers and foreign keys. Triggers are disabled. Foreign keys are dropped, because only a
superuser may disable them, and created again without a check of the rows, which the original has checked (``NOT VALID``). New rows
are checked from then on. `PostgresReplica.validate_rules` checks the others while the tenant is open, so that the schema is again
as the migrations have made it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import Connection

from tenantry.errors import SnapshotError
from tenantry.eventlog import EventLog
from tenantry.storage.moves import MovedRow, MovedTable
from tenantry.storage.postgres.connections.lifecycle_tools import LifecycleTools
from tenantry.storage.postgres.copies.copied_values import (
    ValueRefusedError,
    as_stored,
    compared_columns,
    from_server,
    to_server,
    types_read,
)
from tenantry.storage.postgres.copies.numbering import raise_number
from tenantry.storage.postgres.copies.tables import Column
from tenantry.storage.postgres.moves.moved_schema import MovedSchema
from tenantry.storage.postgres.moves.moved_tables import count_rows, read_columns, read_moved_tables
from tenantry.storage.postgres.quoting import quoted
from tenantry.storage.row_digests import RowDigest

FOREIGN_KEY_INVALID: Final = "tenantry.move.foreign_key_invalid"

_NOT_VALID: Final = "NOT VALID"
_FOREIGN_KEYS: Final = """
SELECT c.relname, f.conname, pg_get_constraintdef(f.oid), f.convalidated FROM pg_catalog.pg_constraint AS f
JOIN pg_catalog.pg_class AS c ON c.oid = f.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND f.contype = 'f' AND f.conparentid = 0 ORDER BY c.relname, f.conname
"""


class PostgresReplica(MovedSchema):
    """See `Replica`.

    Args:
        tools: The tools of the database.
        schema: The schema at the new place.
    """

    def __init__(self, tools: LifecycleTools, schema: str) -> None:
        super().__init__(tools, schema, doing=f"cannot move to the schema {schema}")
        self._log = EventLog(schema=schema)
        # The tables, and the statements that add the dropped keys.
        self._foreign_keys: list[tuple[str, str]] = []

    async def suspend_rules(self) -> Sequence[MovedTable]:
        """Disable the triggers and drop the foreign keys; see `Replica.suspend_rules`."""
        return await self._tools.work.run(self._doing, self._suspend)

    @contextmanager
    def writer(self) -> Iterator["PostgresReplicaWriter"]:
        """Write in one transaction; see `Replica.writer`."""
        with self._transaction() as connection:
            yield PostgresReplicaWriter(connection, self._schema)

    async def restore_rules(self, sequences: Mapping[str, int]) -> None:
        """Enable the triggers, add the foreign keys, and raise the counters; see `Replica.restore_rules`."""
        await self._tools.work.run(self._doing, self._restore, sequences)

    async def validate_rules(self) -> None:
        """Check the rows against the foreign keys, without locking out writes; see `Replica.validate_rules`."""
        await self._tools.copies.run(self._doing, self._validate)

    def _suspend(self, connection: Connection[tuple[Any, ...]]) -> list[MovedTable]:
        with connection.transaction():
            for table, name, definition, _ in connection.execute(_FOREIGN_KEYS, (self._schema,)).fetchall():
                place = quoted(self._schema, table)
                connection.execute(_sql(f"ALTER TABLE {place} DROP CONSTRAINT {quoted(name)}"))
                added = definition if definition.endswith(_NOT_VALID) else f"{definition} {_NOT_VALID}"
                self._foreign_keys.append((place, f"ADD CONSTRAINT {quoted(name)} {added}"))
            tables = read_moved_tables(connection, self._schema)
            for moved in tables:
                connection.execute(
                    _sql(f"ALTER TABLE {quoted(self._schema, moved.name)} DISABLE TRIGGER USER")
                )
        return tables

    def _restore(self, connection: Connection[tuple[Any, ...]], sequences: Mapping[str, int]) -> None:
        with connection.transaction():
            for place, added in self._foreign_keys:
                connection.execute(_sql(f"ALTER TABLE {place} {added}"))
            for table in read_columns(connection, self._schema).values():
                name = quoted(self._schema, table.name)
                connection.execute(_sql(f"ALTER TABLE {name} ENABLE TRIGGER USER"))
                for column in table.columns:
                    if column.is_numbered:
                        raise_number(
                            connection, self._schema, table.name, column.name, sequences.get(table.name, 0)
                        )

    def _validate(self, connection: Connection[tuple[Any, ...]]) -> None:
        for table, name, _, is_valid in connection.execute(_FOREIGN_KEYS, (self._schema,)).fetchall():
            if is_valid:
                continue
            place = quoted(self._schema, table)
            try:
                connection.execute(_sql(f"ALTER TABLE {place} VALIDATE CONSTRAINT {quoted(name)}"))
            except psycopg.errors.ForeignKeyViolation:
                # The original did not enforce the key for these rows either.
                self._log.warning(FOREIGN_KEY_INVALID, table=table, constraint=name)


class PostgresReplicaWriter:
    """See `ReplicaWriter`. Keys go by COPY into a temporary table, because one statement with all keys is faster than one for each."""

    def __init__(self, connection: Connection[tuple[Any, ...]], schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self._tables = read_columns(connection, schema)
        self._keys_tables: dict[str, str] = {}  # the temporary table of each table

    def delete(self, table: MovedTable, keys: Sequence[MovedRow]) -> None:
        """Delete rows; see `ReplicaWriter.delete`."""
        chosen = self._choose(table, keys)
        sql = f"DELETE FROM {self._place(table)} AS t USING {chosen} AS k WHERE {_same_key(table)}"  # noqa: S608  # quoted
        self._connection.execute(_sql(sql))

    def insert(self, table: MovedTable, rows: Sequence[MovedRow]) -> None:
        """Insert rows; see `ReplicaWriter.insert`."""
        self._copy(table, self._place(table), table.columns, rows)

    def has(self, table: MovedTable, rows: Sequence[MovedRow]) -> bool:
        """Read the rows back, and compare them as parsed values; see `ReplicaWriter.has`."""
        positions = [table.columns.index(one) for one in table.key]
        chosen = self._choose(table, [tuple(row[position] for position in positions) for row in rows])
        columns = self._columns(table, table.columns)
        compared = compared_columns(columns)
        given, stored = RowDigest(compared), RowDigest(compared)
        given.consume(as_stored(columns, rows))
        names = ", ".join(f"t.{quoted(one)}" for one in table.columns)
        select = f"SELECT {names} FROM {self._place(table)} AS t JOIN {chosen} AS k ON {_same_key(table)}"  # noqa: S608  # quoted
        with self._connection.cursor() as cursor, cursor.copy(_sql(f"COPY ({select}) TO STDOUT")) as copy:
            copy.set_types(types_read(columns))
            stored.consume(from_server(columns, table.types, copy.rows()))
        return given.value == stored.value

    def count(self, table: MovedTable) -> int:
        """Return the number of rows; see `ReplicaWriter.count`."""
        return count_rows(self._connection, self._schema, [table])[table.name]

    def _choose(self, table: MovedTable, keys: Sequence[MovedRow]) -> str:
        """Write keys into the table's temporary table, which is dropped at the end of the transaction, and return its name."""
        chosen = self._keys_tables.get(table.name)
        if chosen is None:
            chosen = self._keys_tables[table.name] = f"pg_temp.tenantry_keys_{len(self._keys_tables)}"
            names = ", ".join(map(quoted, table.key))
            create = f"CREATE TEMPORARY TABLE {chosen} ON COMMIT DROP AS SELECT {names} FROM {self._place(table)} WITH NO DATA"  # noqa: S608  # quoted
            self._connection.execute(_sql(create))
        else:
            self._connection.execute(_sql(f"TRUNCATE {chosen}"))
        self._copy(table, chosen, table.key, keys)
        return chosen

    def _copy(self, table: MovedTable, target: str, names: tuple[str, ...], rows: Sequence[MovedRow]) -> None:
        columns = self._columns(table, names)
        statement = f"COPY {target} ({', '.join(map(quoted, names))}) FROM STDIN"
        try:
            with self._connection.cursor() as cursor, cursor.copy(_sql(statement)) as copy:
                for row in to_server(columns, rows):
                    copy.write_row(row)
        except ValueRefusedError as refused:
            raise SnapshotError(
                f"table {table.name!r}: {refused}: correct the row, or delete it, then try again"
            ) from refused

    def _columns(self, table: MovedTable, names: tuple[str, ...]) -> tuple[Column, ...]:
        return self._tables[table.name].columns_named(names)

    def _place(self, table: MovedTable) -> str:
        return quoted(self._schema, table.name)


def _same_key(table: MovedTable) -> str:
    return " AND ".join(f"t.{quoted(one)} = k.{quoted(one)}" for one in table.key)


def _sql(text: str) -> bytes:
    return text.encode()
