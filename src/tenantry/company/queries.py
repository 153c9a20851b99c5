"""Builds the statements that read many rows: filters, a time window, and the keyset at which a page begins.

Every page, from the first to the last, reads one range of one index. Three rules ensure this, and tests check them with
`EXPLAIN QUERY PLAN`:

* The keyset always has a bound; the bound of the first page is a key before all keys. Without a bound SQLite would scan and
  sort.
* If the window limits a listing's start, the limit is part of the keyset's bound. SQLite uses only one bound for each end of a
  range, and might choose the wider of two bounds.
* The first given filter chooses the index, so the most selective filter comes first. The other filters are written
  ``NOT column <> ?``, for which SQLite never uses an index. SQLite has no statistics here: with two indexes SQLite may read all
  tasks of a project to find five tasks of one agent. PostgreSQL has statistics, and treats ``NOT column <> ?`` as ``column = ?``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeAlias

from tenantry.company.types import format_timestamp
from tenantry.errors import QueryError
from tenantry.pages import decode_cursor, page_rows
from tenantry.sql.repository import placeholders
from tenantry.sql.statements import Fetch, Sql, Statement
from tenantry.values import INT64_MAX

Key: TypeAlias = tuple[str | int, ...]
Filters: TypeAlias = Mapping[str, str | None]
"""Columns and their required values, the most selective first; a value of None means no filter."""

_FIRST_TIMESTAMP = "0001-01-01T00:00:00.000000Z"
_LAST_TIMESTAMP = "9999-12-31T23:59:59.999999Z"


class Window(NamedTuple):
    """A time window with inclusive ends; None leaves an end open."""

    since: datetime | None = None
    until: datetime | None = None


class _Condition(NamedTuple):
    sql: str
    values: Key


@dataclass(frozen=True, slots=True)
class Order:
    """A total order of a table's rows, the smallest key first unless `is_newest_first`.

    Attributes:
        columns: The key's columns, which a listing selects first.
        start: A key before the keys of all rows.
    """

    columns: tuple[str, ...]
    start: Key
    is_newest_first: bool = False

    @property
    def sql(self) -> str:
        """The ORDER BY terms."""
        return ", ".join(f"{column} DESC" if self.is_newest_first else column for column in self.columns)

    def range(self, after: Key, since: str | None, until: str | None) -> list[_Condition]:
        """Return the conditions that select the rows after a key and within a window."""
        if self.is_newest_first:
            start = after if until is None else min(after, (until, INT64_MAX))
            conditions, end = [self._keyset("<", start)], since
        else:
            start = after if since is None else max(after, (since, 0))
            conditions, end = [self._keyset(">", start)], until
        if end is not None:
            conditions.append(
                _Condition("timestamp >= ?" if self.is_newest_first else "timestamp <= ?", (end,))
            )
        return conditions

    def _keyset(self, comparison: str, key: Key) -> _Condition:
        return _Condition(f"({', '.join(self.columns)}) {comparison} ({placeholders(self.columns)})", key)


BY_ID = Order(("id",), ("",))
OLDEST_FIRST = Order(("timestamp", "seq"), (_FIRST_TIMESTAMP, 0))
NEWEST_FIRST = Order(("timestamp", "seq"), (_LAST_TIMESTAMP, INT64_MAX), is_newest_first=True)


@dataclass(frozen=True, slots=True)
class Listing:
    """A query whose result is read in pages.

    Attributes:
        name: The query's name in metrics and in cursors.
        select: ``SELECT … FROM …``, with the order's columns first.
        order: The order of the rows.
        done: The log event of success.
        failed: The log event of failure.
        required: The names of the required filters.
    """

    name: str
    select: str
    order: Order
    done: str
    failed: str
    required: tuple[str, ...] = ()

    def page(
        self, filters: Filters, window: Window, *, limit: int | None, cursor: str | None
    ) -> tuple[Statement, int]:
        """Return the statement of one page, and the page's maximum number of rows.

        The statement selects one row more than the page holds: the extra row shows whether another page follows.

        Raises:
            QueryError: A required filter is missing, or the limit, the window or the cursor is not valid.
        """
        for name in self.required:
            if not isinstance(filters[name], str):
                raise QueryError(f"{name} must be a string, not {type(filters[name]).__name__}")
        rows = page_rows(limit)
        key_types = map(type, self.order.start)
        after = self.order.start if cursor is None else decode_cursor(self.name, cursor, *key_types)
        where, values = _where([*_equals(filters), *self.order.range(after, *_bounds(window))])
        sql = f"{self.select} WHERE {where} ORDER BY {self.order.sql} LIMIT ?"
        return Statement(self.name, sql, (*values, rows + 1), Fetch.ALL), rows


def aggregate(name: str, select: Sql, filters: Filters, window: Window) -> Statement:
    """Return the statement that aggregates the rows within a window that match the filters.

    Raises:
        QueryError: The window is not valid.
    """
    since, until = _bounds(window)
    # Even without filters, the lower bound makes SQLite use the index on time, which covers the sum.
    conditions = [*_equals(filters), _Condition("timestamp >= ?", (since or _FIRST_TIMESTAMP,))]
    if until is not None:
        conditions.append(_Condition("timestamp <= ?", (until,)))
    where, values = _where(conditions)
    return Statement(name, select + f" WHERE {where}", values, Fetch.ONE)


def _equals(filters: Filters) -> list[_Condition]:
    given = [(column, str(value)) for column, value in filters.items() if value is not None]
    return [
        _Condition(f"NOT {column} <> ?" if is_checked_only else f"{column} = ?", (value,))
        for is_checked_only, (column, value) in enumerate(given)
    ]


def _where(conditions: Iterable[_Condition]) -> tuple[str, Key]:
    sql, values = zip(*conditions, strict=True)
    return " AND ".join(sql), tuple(value for group in values for value in group)


def _bounds(window: Window) -> tuple[str | None, str | None]:
    since, until = _bound("since", window.since), _bound("until", window.until)
    if since is not None and until is not None and until < since:
        raise QueryError(f"until ({until}) is before since ({since})")
    return since, until


def _bound(name: str, value: datetime | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise QueryError(f"{name} must be a datetime with a time zone, not {type(value).__name__}")
    try:
        return format_timestamp(value)
    except ValueError as error:
        raise QueryError(f"{name} {error}") from error
