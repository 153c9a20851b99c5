"""Reads and raises the last number of a column in which the server numbers new rows."""

from typing import Any, Final

from psycopg import Connection

from tenantry.storage.postgres.quoting import quoted

# The view pg_sequences would read the numbers of all tenants.
_LAST_NUMBER: Final = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence(%s, %s)::regclass), 0)"


def last_number(connection: Connection[tuple[Any, ...]], schema: str, table: str, column: str) -> int:
    """Return the number of the row that was numbered last; 0 if there was none."""
    found = connection.execute(_LAST_NUMBER, (quoted(schema, table), column)).fetchone()
    return 0 if found is None else int(found[0])


def raise_number(
    connection: Connection[tuple[Any, ...]], schema: str, table: str, column: str, last: int
) -> None:
    """Continue the numbering after `last` and after the largest number in the table, so that the next row gets an unused number."""
    name = quoted(schema, table)
    select = f"SELECT max({quoted(column)}) FROM {name}"  # noqa: S608  # quoted
    (largest,) = connection.execute(select.encode()).fetchone() or (None,)
    number = max(last, largest or 0)
    if number > 0:
        connection.execute("SELECT setval(pg_get_serial_sequence(%s, %s), %s)", (name, column, number))
