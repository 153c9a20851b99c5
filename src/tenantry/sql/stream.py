"""The pages of a stream: rows of a SELECT in the order of a key, each page beginning after the last key of the one before.

Theory of operation. A page's statement is::

    WITH tenantry_stream AS (the caller's SELECT)
    SELECT *, (key) = (last key) FROM tenantry_stream WHERE (key) >= (last key) ORDER BY key LIMIT chunk + 2

The caller's SELECT comes first, so that its placeholders keep their numbers. SQLite and PostgreSQL treat it like a view, so that an
index serves both the condition and the order.

The condition is ``>=`` and not ``>``, so that the page begins with the last row of the page before, which is left out. The added
column says which rows the database itself takes to have the last key. Their number shows a key that is not unique where only the
database can see it: the texts 'a' and 'A' are equal under some collations. Two rows of one key are refused, because the end of a page
between them would lose one. The second row more than `chunk_rows` shows this in time, also if the first one is deleted before the
next page.

A comparison with NULL is never true, so a row whose key holds NULL would be passed over. SQLite sorts NULL before all values
(https://www.sqlite.org/lang_select.html), so such a row is read, and refused, before a page could begin after it.
"""

from collections.abc import Sequence
from typing import Any, Final

from tenantry.errors import QueryError
from tenantry.sql.row import Columns, Row
from tenantry.sql.statements import Fetch, Sql, Statement
from tenantry.sql.tokens import shape_of

STREAM_CHUNK_ROWS: Final = 1_000
STREAM_CHUNK_ROWS_MAX: Final = 10_000
_KEY_COLUMNS_MAX: Final = 16
_TABLE: Final = "tenantry_stream"


class Stream:
    """The state of one stream: which page comes next.

    Args:
        name: The name of its statements.
        sql: The caller's SELECT.
        parameters: One value for each of its placeholders.
        key: The columns of the key.
        chunk_rows: How many rows a page gives.

    Raises:
        QueryError: The SQL, the key or the number of rows is refused.
    """

    def __init__(
        self, name: str, sql: str | Sql, parameters: Sequence[object], key: Sequence[str], chunk_rows: int
    ) -> None:
        self.name = name
        self._select = _select(name, sql)
        self._parameters = parameters
        self._key = _checked_key(name, key)
        if type(chunk_rows) is not int or not 1 <= chunk_rows <= STREAM_CHUNK_ROWS_MAX:
            raise QueryError(
                f"{name}: chunk_rows must be a whole number from 1 to {STREAM_CHUNK_ROWS_MAX}, not {chunk_rows!r}"
            )
        self._chunk_rows = chunk_rows
        self._columns: Columns | None = None
        self._positions: Sequence[int] = ()
        self._last: tuple[Any, ...] | None = None  # the key that the next page begins at
        self._has_ended = False

    def next_page(self) -> Statement[list[Row]] | None:
        """Return the statement of the next page, or None after the last one."""
        if self._has_ended:
            return None
        columns = ", ".join(f'{_TABLE}."{column}"' for column in self._key)
        order = f"ORDER BY {columns} LIMIT ?"
        if self._last is None:
            sql = self._select + f"SELECT *, 0 FROM {_TABLE} {order}"  # noqa: S608  # a checked name
            return Statement(self.name, sql, (*self._parameters, self._chunk_rows + 1), Fetch.NAMED_ALL)
        key, last = f"({columns})", f"({', '.join('?' * len(self._key))})"
        page = f"SELECT *, {key} = {last} FROM {_TABLE} WHERE {key} >= {last} {order}"  # noqa: S608  # likewise
        parameters = (*self._parameters, *self._last, *self._last, self._chunk_rows + 2)
        return Statement(self.name, self._select + page, parameters, Fetch.NAMED_ALL)

    def take(self, found: Sequence[Row]) -> list[Row]:
        """Return the rows of a page that was read, without the added column and the last row of the page before.

        Raises:
            QueryError: The key is missing, holds NULL, or is not unique.
        """
        if not found:
            self._has_ended = True
            return []
        columns = self._columns or self._read_columns(found[0])
        rows = [Row(columns, row[:-1]) for row in found]
        keys = [tuple(row[position] for position in self._positions) for row in rows]
        self._check(keys, [row[-1] for row in found])
        begin = 1 if found[0][-1] else 0
        end = begin + self._chunk_rows
        self._has_ended = len(rows) <= end
        if not self._has_ended:
            self._last = keys[end - 1]
        return rows[begin:end]

    def _read_columns(self, row: Row) -> Columns:
        columns = Columns(row.keys()[:-1])
        try:
            self._positions = [columns.position(column) for column in self._key]
        except LookupError as error:
            raise QueryError(
                f"{self.name}: the key of a stream is made of columns of its result: {error}; pass key=(…)"
            ) from None
        self._columns = columns
        return columns

    def _check(self, keys: Sequence[tuple[Any, ...]], is_last: Sequence[object]) -> None:
        before = None
        for key, has_last_key in zip(keys, is_last, strict=True):
            if None in key:
                raise QueryError(
                    f"{self.name}: the column {self._key[key.index(None)]!r} of the stream's key holds NULL, and a page that began "
                    "there would lose rows: choose a key that is never NULL, or leave such rows out with WHERE"
                )
            if key == before or (has_last_key and key != self._last):
                raise self._not_unique()
            before = key
        if sum(map(bool, is_last)) > 1:
            raise self._not_unique()

    def _not_unique(self) -> QueryError:
        return QueryError(
            f"{self.name}: two rows have the same values of the stream's key ({', '.join(self._key)}), and the end of a page between "
            "them would lose one: add a unique column to key=(…)"
        )


def _select(name: str, sql: str | Sql) -> str | Sql:
    if isinstance(sql, Sql):
        return Sql({dialect: _with(name, text) for dialect, text in sql.texts.items()})
    return _with(name, sql)


def _with(name: str, sql: str) -> str:
    shape = shape_of(sql)
    if shape.is_write or shape.returns_nothing:
        raise QueryError(
            f"{name}: a stream reads, and this is {shape.verb}; nothing was sent: use fetch_all() for rows of RETURNING"
        )
    if shape.has_order:
        raise QueryError(
            f"{name}: a stream is in the order of its key and has no end of its own; nothing was sent: leave ORDER BY and LIMIT out, "
            "and name the columns of the order in key=(…); where they choose the rows, put them into a subquery in FROM"
        )
    # Without a semicolon or a comment at the end, which would hide the parenthesis.
    return f"WITH {_TABLE} AS ({sql[: shape.end]}) "


def _checked_key(name: str, key: Sequence[str]) -> tuple[str, ...]:
    if isinstance(key, str) or not 1 <= len(key) <= _KEY_COLUMNS_MAX:
        raise QueryError(
            f"{name}: key= is a tuple of 1 to {_KEY_COLUMNS_MAX} names of columns, such as ('created_at', 'id'), not {key!r}"
        )
    for column in key:
        if not column.isidentifier():
            raise QueryError(
                f"{name}: {column!r} in key= is not the name of a column: give it a plain name with AS"
            )
    return tuple(key)
