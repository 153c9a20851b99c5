"""Reads the rows of a SELECT in pages, in the order of a key. Each page begins after the last key of the previous page.

Theory of operation. A page's statement is::

    WITH tenantry_stream AS (the caller's SELECT)
    SELECT *, (key) = (last key) FROM tenantry_stream WHERE (key) >= (last key) ORDER BY key LIMIT chunk + 2

The caller's SELECT comes first, so that its placeholders keep their numbers. SQLite and PostgreSQL treat the SELECT like a view, so an
index can serve both the condition and the order.

The condition is ``>=``, not ``>``, so a page begins with the last row of the previous page. The result leaves out this row. The
added column marks the rows whose key is equal to the last key according to the database. More than one marked row shows that the key is
not unique, which only the database can decide: 'a' and 'A' are equal under some collations. Two rows with the same key are refused,
because a page that ends between them would lose one row. Each page reads two rows more than `chunk_rows`, so the second row with the same
key is seen even if the first row is deleted before the next page.

A comparison with NULL is never true, so a page would skip rows whose key contains NULL. SQLite sorts NULL before all values
(https://www.sqlite.org/lang_select.html), so a row with NULL in its key is read, and refused, before its key can begin a page.
PostgreSQL sorts NULL after all values, and ``NULLS FIRST`` would make its indexes useless for the order. There a page is followed by
``UNION ALL SELECT … WHERE key IS NULL LIMIT 1``. PostgreSQL runs this part only if the page has fewer rows than the limit, which means
once, at the end of the stream.

For a comparison, SQLite converts the last key to the type of the column, but for ORDER BY it converts nothing. The parts of a UNION may have
columns of different types in SQLite (https://www.sqlite.org/datatype3.html, section 3.3). Numbers sort before texts, but ``'12' >= 13`` is false if the
column contains texts, so a page would skip that row. With UNION, INTERSECT or EXCEPT, the page's statement therefore has ``+column`` for each
column of the key in SQLite, to compare without conversion. An index can then serve only ORDER BY, not the comparison.
"""

from collections.abc import Collection, Sequence
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
    """The position of one stream. `Queries.stream` describes the arguments.

    Raises:
        QueryError: The SQL, the key or the number of rows is not allowed.
    """

    def __init__(
        self, name: str, sql: str | Sql, parameters: Sequence[object], key: Sequence[str], chunk_rows: int
    ) -> None:
        self.name = name
        self._select = _select(name, sql)
        self._is_compound = any(shape_of(text).is_compound for text in _texts(sql))
        self._parameters = parameters
        self._key = _checked_key(name, key)
        if type(chunk_rows) is not int or not 1 <= chunk_rows <= STREAM_CHUNK_ROWS_MAX:
            raise QueryError(
                f"{name}: chunk_rows must be a whole number from 1 to {STREAM_CHUNK_ROWS_MAX}, not {chunk_rows!r}"
            )
        self._chunk_rows = chunk_rows
        self._columns: Columns | None = None
        self._positions: Sequence[int] = ()
        self._last: tuple[Any, ...] | None = None  # the key at which the next page begins
        self._has_ended = False

    def next_page(self) -> Statement[list[Row]] | None:
        """Return the statement of the next page, or None after the last page."""
        if self._has_ended:
            return None
        names = [f'{_TABLE}."{column}"' for column in self._key]
        limit = self._chunk_rows + 1
        if self._last is None:
            order = f"ORDER BY {', '.join(names)} LIMIT ?"
            sql = self._select + f"SELECT *, 0 FROM {_TABLE} {order}"  # noqa: S608  # a checked name
            return Statement(self.name, sql, (*self._parameters, limit), Fetch.NAMED_ALL)
        pages = {
            "sqlite": _page(names, [f"+{name}" for name in names] if self._is_compound else names),
            "postgres": _page_and_nulls(names, limit + 1),
        }
        parameters = (*self._parameters, *self._last, *self._last, limit + 1)
        return Statement(self.name, self._select + Sql(pages), parameters, Fetch.NAMED_ALL)

    def explain(self, error: QueryError) -> QueryError:
        """Return the error of a page's statement, with a special message if the result lacks a column of the key."""
        if f"{_TABLE}." not in str(error):
            return error
        return QueryError(
            f"{self.name}: the result lacks a column of the stream's key ({', '.join(self._key)}): select the column, or name other "
            "columns in key=(…)",
            code=error.code,
        )

    def take(self, found: Sequence[Row]) -> list[Row]:
        """Return the rows of a page, without the added column and without the last row of the previous page.

        Raises:
            QueryError: The key is missing, contains NULL, or is not unique.
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
                f"{self.name}: key=(…) must name columns of the stream's result, but {error}"
            ) from None
        self._columns = columns
        return columns

    def _check(self, keys: Sequence[tuple[Any, ...]], is_last: Sequence[object]) -> None:
        before = None
        for key, has_last_key in zip(keys, is_last, strict=True):
            if None in key:
                raise QueryError(
                    f"{self.name}: the column {self._key[key.index(None)]!r} of the stream's key contains NULL, so a page could lose "
                    "rows: choose a key that is never NULL, or exclude such rows with WHERE"
                )
            if key == before or (has_last_key and key != self._last):
                raise self._not_unique()
            before = key
        if sum(map(bool, is_last)) > 1:
            raise self._not_unique()

    def _not_unique(self) -> QueryError:
        return QueryError(
            f"{self.name}: two rows have the same values of the stream's key ({', '.join(self._key)}), so a page could lose a row: "
            "add a unique column to key=(…)"
        )


def _page(names: Sequence[str], compared: Sequence[str]) -> str:
    """Return the SELECT of a page after the first. Its values are the last key, the last key again, and the limit."""
    key, last = f"({', '.join(compared)})", f"({', '.join('?' * len(compared))})"
    order = ", ".join(names)
    # The names were checked.
    return f"SELECT *, {key} = {last} FROM {_TABLE} WHERE {key} >= {last} ORDER BY {order} LIMIT ?"  # noqa: S608


def _page_and_nulls(names: Sequence[str], limit: int) -> str:
    """Return the SELECT of a page for PostgreSQL, which ends with a row whose key contains NULL if there is such a row."""
    is_null = " OR ".join(f"{name} IS NULL" for name in names)
    nulls = f"SELECT *, NULL::boolean FROM {_TABLE} WHERE {is_null} LIMIT 1"  # noqa: S608  # checked names
    return f"({_page(names, names)}) UNION ALL ({nulls}) LIMIT {limit}"


def _texts(sql: str | Sql) -> Collection[str]:
    return [sql] if isinstance(sql, str) else sql.texts.values()


def _select(name: str, sql: str | Sql) -> str | Sql:
    if isinstance(sql, Sql):
        return Sql({dialect: _with(name, text) for dialect, text in sql.texts.items()})
    return _with(name, sql)


def _with(name: str, sql: str) -> str:
    shape = shape_of(sql)
    if shape.is_write or shape.returns_nothing:
        raise QueryError(
            f"{name}: a stream can only read, and this is {shape.verb}; nothing was sent: use fetch_all() for rows of RETURNING"
        )
    if shape.has_order:
        raise QueryError(
            f"{name}: a stream adds its own ORDER BY and LIMIT; nothing was sent: remove ORDER BY and LIMIT, and name the columns of the "
            "order in key=(…); if ORDER BY and LIMIT select the rows, put them into a subquery in FROM"
        )
    # A semicolon or a comment at the end is cut off, because it would hide the closing parenthesis.
    # PostgreSQL would write down the whole result of a query that is named twice.
    return f"WITH {_TABLE} AS NOT MATERIALIZED ({sql[: shape.end]}) "


def _checked_key(name: str, key: Sequence[str]) -> tuple[str, ...]:
    if isinstance(key, str) or not 1 <= len(key) <= _KEY_COLUMNS_MAX:
        raise QueryError(
            f"{name}: key= must be a tuple of 1 to {_KEY_COLUMNS_MAX} column names, such as ('created_at', 'id'), not {key!r}"
        )
    for column in key:
        if not column.isidentifier():
            raise QueryError(
                f"{name}: {column!r} in key= is not a column name: give the column a plain name with AS"
            )
    return tuple(key)
