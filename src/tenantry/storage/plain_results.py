"""Converts the results of statements to plain values, which can be stored or sent to another process, and back."""

from typing import Any

from tenantry.sql.row import Columns, Row
from tenantry.sql.statements import Fetch, Result


def as_plain(result: Result) -> Any:
    """Convert named rows to a list of the column names, followed by the values of each row."""
    if isinstance(result, Row):
        return [result.keys(), tuple(result)]
    if isinstance(result, list) and result and isinstance(result[0], Row):
        return [result[0].keys(), *map(tuple, result)]
    return result


def as_fetched(fetch: Fetch, result: Any) -> Result:
    """Convert the rows of `as_plain`, as lists or tuples, back to the statement's original result."""
    if fetch is Fetch.ALL:
        return [tuple(row) for row in result]
    if not isinstance(result, (list, tuple)):
        return result
    if fetch is Fetch.ONE:
        return tuple(result)
    names, *rows = result or [()]
    columns = Columns(tuple(names))
    named = [Row(columns, tuple(values)) for values in rows]
    return named if fetch is Fetch.NAMED_ALL else named[0]
