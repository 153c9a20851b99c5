"""The `Original` of a move: a tenant's schema with a journal.

Each table that moves has a journal table, whose rows contain a number and the columns of the primary key, and a trigger that adds the
keys of changed rows. The owner's row puts the write transactions of all processes in one order, so a transaction that commits later
has larger numbers, and no number below the last one that a pass has seen appears after the pass.

The triggers' functions run with the rights of the connection's role (``SECURITY DEFINER``), because a tenant's role has none on the
journal (`tenantry.storage.postgres.roles`). Their ``search_path`` excludes what a tenant's role could create in its schema.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from psycopg import Connection

from tenantry.errors import SnapshotError
from tenantry.storage.moves import JOURNAL, ROWS_PER_CHUNK, MovedRow, MovedTable, Position
from tenantry.storage.postgres.connections.lifecycle_tools import LifecycleTools
from tenantry.storage.postgres.copies.copied_values import from_server, types_read
from tenantry.storage.postgres.copies.numbering import last_number
from tenantry.storage.postgres.copies.tables import Table
from tenantry.storage.postgres.moves.moved_schema import BEGIN_SNAPSHOT, MovedSchema
from tenantry.storage.postgres.moves.moved_tables import (
    KEYS_TABLE,
    count_rows,
    read_columns,
    read_moved_tables,
)
from tenantry.storage.postgres.quoting import quoted

# No table of a tenant has a column of this name.
_NUMBER: Final = "tenantry_number"
_TRIGGERS_PER_TABLE: Final = 2
_CREATE_FUNCTION: Final = """
CREATE FUNCTION {journal}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $journal$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {journal} ({key}) SELECT {key} FROM {table};
        RETURN NULL;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO {journal} ({key}) VALUES ({new});
    END IF;
    IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND ({old}) IS DISTINCT FROM ({new}) THEN
        INSERT INTO {journal} ({key}) VALUES ({old});
    END IF;
    RETURN NULL;
END
$journal$
"""
_INSTALL: Final = (
    "CREATE TABLE {journal} AS SELECT {key} FROM {table} WITH NO DATA",
    f"ALTER TABLE {{journal}} ADD COLUMN {_NUMBER} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    _CREATE_FUNCTION,
    "CREATE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {journal}()",
    "CREATE TRIGGER {name}_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {journal}()",
)
_FUNCTIONS: Final = """
SELECT p.proname FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = %s AND starts_with(p.proname, %s)
"""
_TABLES: Final = """
SELECT c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND starts_with(c.relname, %s) AND c.relkind = 'r'
"""
_COUNT_TRIGGERS: Final = """
SELECT count(*) FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND starts_with(t.tgname, %s)
"""


class PostgresOriginal(MovedSchema):
    """See `Original`.

    Args:
        tools: The tools of the database.
        schema: The tenant's schema.
    """

    def __init__(self, tools: LifecycleTools, schema: str) -> None:
        super().__init__(tools, schema, doing=f"cannot move the schema {schema}")

    async def tables(self) -> Sequence[MovedTable]:
        """Read the tables from the server's catalogs; see `Original.tables`."""
        return await self._tools.work.run(self._doing, read_moved_tables, self._schema)

    async def counts(self, tables: Sequence[MovedTable]) -> dict[str, int]:
        """Count the rows of the tables; see `Original.counts`."""
        return await self._tools.copies.run(self._doing, count_rows, self._schema, tables)

    async def install(self) -> Sequence[MovedTable]:
        """Create the journal's tables, functions and triggers in one transaction; see `Original.install`."""
        return await self._tools.work.run(self._doing, _install, self._tools, self._schema)

    async def remove(self) -> None:
        """Drop the journal's functions, triggers and tables in one transaction; see `Original.remove`."""
        await self._tools.work.run(self._doing, _remove, self._tools, self._schema)

    @contextmanager
    def changes(self, after: Position, *, is_open: bool) -> Iterator["PostgresChanges"]:  # noqa: ARG002  # processes share the database
        """Read the changes in one transaction with REPEATABLE READ; see `Original.changes`."""
        with self._transaction(BEGIN_SNAPSHOT) as connection:
            yield PostgresChanges(connection, self._schema, after)

    async def sequences(self, tables: Sequence[MovedTable]) -> dict[str, int]:
        """Return the last numbers of the identity columns and the sequences of columns; see `Original.sequences`."""
        names = {table.name for table in tables}
        return await self._tools.work.run(self._doing, _last_numbers, self._schema, names)


class PostgresChanges:
    """See `Changes`."""

    def __init__(self, connection: Connection[tuple[Any, ...]], schema: str, after: Position) -> None:
        self._connection = connection
        self._schema = schema
        self._after = after
        self._columns = read_columns(connection, schema)
        journals = connection.execute(_sql(f"SELECT name, journal FROM {quoted(schema, JOURNAL)}")).fetchall()  # noqa: S608  # quoted
        self._journals = {name: quoted(schema, journal) for name, journal in journals}
        self._check_complete()
        self.position = {name: self._last(journal) for name, journal in self._journals.items()}

    def keys(self, table: MovedTable, copy: MovedTable) -> Iterator[Sequence[MovedRow]]:
        """Yield the different keys of the table's journal entries; see `Changes.keys`."""
        key = ", ".join(map(quoted, table.key))
        return self._chunks(f"SELECT DISTINCT {key} {self._entries(table)}", table, copy, table.key)

    def rows(self, table: MovedTable, copy: MovedTable) -> Iterator[Sequence[MovedRow]]:
        """Yield the present rows; see `Changes.rows`."""
        key, columns = (", ".join(map(quoted, names)) for names in (table.key, table.columns))
        name = quoted(self._schema, table.name)
        select = f"SELECT {columns} FROM {name} WHERE ({key}) IN (SELECT {key} {self._entries(table)})"  # noqa: S608  # quoted
        return self._chunks(select, table, copy, table.columns)

    def count(self, table: MovedTable) -> int:
        """Return the number of rows; see `Changes.count`."""
        return count_rows(self._connection, self._schema, [table])[table.name]

    def _check_complete(self) -> None:
        """Raise if a trigger of the journal is missing: dropping a table, even one that is created again, drops its triggers."""
        (count,) = self._connection.execute(_COUNT_TRIGGERS, (self._schema, JOURNAL)).fetchone() or (0,)
        if count != _TRIGGERS_PER_TABLE * len(self._journals):
            raise SnapshotError(
                "a table was dropped during the move, and the tenant was not moved: try again",
                is_retryable=True,
            )

    def _last(self, journal: str) -> int:
        sql = f"SELECT coalesce(max({_NUMBER}), 0) FROM {journal}"  # noqa: S608  # quoted
        (last,) = self._connection.execute(_sql(sql)).fetchone() or (0,)
        return int(last)

    def _entries(self, table: MovedTable) -> str:
        first, last = self._after.get(table.name, 0), self.position[table.name]
        return f"FROM {self._journals[table.name]} WHERE {_NUMBER} > {first:d} AND {_NUMBER} <= {last:d}"

    def _chunks(
        self, select: str, table: MovedTable, copy: MovedTable, names: tuple[str, ...]
    ) -> Iterator[Sequence[MovedRow]]:
        columns = self._columns[table.name].columns_named(names)
        declared = [copy.type_of[name] for name in names]
        with (
            self._connection.cursor() as cursor,
            cursor.copy(_sql(f"COPY ({select}) TO STDOUT")) as server,
        ):
            server.set_types(types_read(columns))
            rows = from_server(columns, declared, server.rows())
            if table.name == KEYS_TABLE and copy.type_of["created_at"] == "TEXT":
                rows = map(_with_file_instant, rows) if names == table.columns else rows
            while chunk := list(islice(rows, ROWS_PER_CHUNK)):
                yield chunk


def _with_file_instant(row: MovedRow) -> MovedRow:
    """Return a row of the idempotency keys with the instant as SQLite's own keys have it, which compare it as text."""
    *others, created_at = row
    return (*others, str(created_at).replace("Z", "+00:00"))


def _install(connection: Connection[tuple[Any, ...]], tools: LifecycleTools, schema: str) -> list[MovedTable]:
    with connection.transaction():
        tools.limit_waiting(connection)
        connection.execute(
            _sql(f"CREATE TABLE {quoted(schema, JOURNAL)} (name text PRIMARY KEY, journal text)")
        )
        tables = read_moved_tables(connection, schema)
        for number, table in enumerate(tables, 1):
            if table.refusal is not None:
                continue  # the caller refuses the move, and removes the journal
            name = f"{JOURNAL}_{number}"
            names = {
                "name": name,
                "journal": quoted(schema, name),
                "table": quoted(schema, table.name),
                "key": ", ".join(map(quoted, table.key)),
                **{
                    row: ", ".join(f"{row.upper()}.{quoted(one)}" for one in table.key)
                    for row in ("new", "old")
                },
            }
            for statement in _INSTALL:
                connection.execute(_sql(statement.format(**names)))
            insert = f"INSERT INTO {quoted(schema, JOURNAL)} VALUES (%s, %s)"  # noqa: S608  # quoted
            connection.execute(_sql(insert), (table.name, name))
    return tables


def _remove(connection: Connection[tuple[Any, ...]], tools: LifecycleTools, schema: str) -> None:
    with connection.transaction():
        tools.limit_waiting(connection)
        for (name,) in connection.execute(_FUNCTIONS, (schema, JOURNAL)).fetchall():
            connection.execute(_sql(f"DROP FUNCTION {quoted(schema, name)}() CASCADE"))
        for (name,) in connection.execute(_TABLES, (schema, JOURNAL)).fetchall():
            connection.execute(_sql(f"DROP TABLE {quoted(schema, name)}"))


def _last_numbers(connection: Connection[tuple[Any, ...]], schema: str, names: set[str]) -> dict[str, int]:
    numbers = {}
    for table in read_columns(connection, schema).values():
        if table.name in names and (column := _numbered(table)) is not None:
            numbers[table.name] = last_number(connection, schema, table.name, column)
    return numbers


def _numbered(table: Table) -> str | None:
    """Return the name of the column in which the server numbers new rows, if there is one."""
    return next((column.name for column in table.columns if column.is_numbered), None)


def _sql(text: str) -> bytes:
    return text.encode()
