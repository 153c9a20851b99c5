"""The order in which tables are filled, so that the rows that foreign keys refer to come first."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, NamedTuple

from psycopg import Connection

from tenantry.storage.postgres.quoting import quoted

_SELECT: Final = """
SELECT c.conname, n.nspname, t.relname, r.relname, c.condeferrable
FROM pg_catalog.pg_constraint AS c
JOIN pg_catalog.pg_class AS t ON t.oid = c.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
JOIN pg_catalog.pg_class AS r ON r.oid = c.confrelid
WHERE c.contype = 'f' AND n.nspname = %s AND c.conparentid = 0 ORDER BY t.relname, c.conname
"""


class ForeignKey(NamedTuple):
    """A foreign key of a table in the schema."""

    name: str
    schema: str
    table: str
    parent: str
    is_deferrable: bool


def in_order(
    connection: Connection[tuple[Any, ...]], schema: str, tables: Collection[str]
) -> tuple[list[str], list[ForeignKey]]:
    """Return the tables in the order to fill them, and the foreign keys in circles, which no order can satisfy."""
    keys = [ForeignKey(*row) for row in connection.execute(_SELECT, (schema,)).fetchall()]
    # A table that refers to itself needs no order: COPY checks its foreign keys after its last row.
    followed = [key for key in keys if key.table != key.parent]
    circles: list[ForeignKey] = []
    while True:
        graph = {name: {key.parent for key in followed if key.table == name} for name in sorted(tables)}
        try:
            return [name for name in TopologicalSorter(graph).static_order() if name in tables], circles
        except CycleError as error:
            nodes = error.args[1]
            broken = [key for key in followed if key.table == nodes[1] and key.parent == nodes[0]]
            circles += broken
            followed = [key for key in followed if key not in broken]


@contextmanager
def deferred_circles(
    connection: Connection[tuple[Any, ...]], circles: Sequence[ForeignKey]
) -> Iterator[None]:
    """Check the foreign keys at the end of the block, instead of after each table."""
    for key in circles:
        if not key.is_deferrable:
            _alter(connection, key, "DEFERRABLE")
        connection.execute(f"SET CONSTRAINTS {quoted(key.schema, key.name)} DEFERRED".encode())
    yield
    for key in circles:
        connection.execute(f"SET CONSTRAINTS {quoted(key.schema, key.name)} IMMEDIATE".encode())
    for key in circles:
        if not key.is_deferrable:
            _alter(connection, key, "NOT DEFERRABLE")


def _alter(connection: Connection[tuple[Any, ...]], key: ForeignKey, how: str) -> None:
    table = quoted(key.schema, key.table)
    connection.execute(f"ALTER TABLE {table} ALTER CONSTRAINT {quoted(key.name)} {how}".encode())
