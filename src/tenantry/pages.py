"""Pages of results, with a cursor for the next page (keyset pagination).

A cursor contains the sort key of the last row. Every page therefore costs the same time, and a row that is inserted between two
reads neither repeats nor hides another row. A cursor is a URL-safe string; callers must not rely on its format.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import TypeVar

from tenantry.errors import QueryError

T_co = TypeVar("T_co", covariant=True)

PAGE_ROWS_MAX = 10_000
_CURSOR_CHARACTERS_MAX = 1_048_576
_INT64_MAX = 2**63 - 1


class Page(tuple[T_co, ...]):  # noqa: SLOT001  # CPython gives a tuple's subclass no slots
    """One page of results: a tuple with the cursor of the next page.

    Attributes:
        next_cursor: The `cursor` argument for the next page; None if this is the last page.
    """

    next_cursor: str | None

    def __new__(cls, rows: Sequence[T_co], next_cursor: str | None = None) -> "Page[T_co]":
        """Return `rows` as a page."""
        page = super().__new__(cls, rows)
        page.next_cursor = next_cursor
        return page


def page_rows(limit: int | None) -> int:
    """Return the number of rows that a page may have: `limit`, or `PAGE_ROWS_MAX` if `limit` is None.

    Raises:
        QueryError: `limit` is below 1 or above `PAGE_ROWS_MAX`.
    """
    if limit is None:
        return PAGE_ROWS_MAX
    if type(limit) is not int or not 1 <= limit <= PAGE_ROWS_MAX:
        raise QueryError(
            f"limit must be a whole number from 1 to {PAGE_ROWS_MAX}, not {limit!r}: use the cursor to get more rows"
        )
    return limit


def encode_cursor(query: str, *key: str | int) -> str:
    """Return the cursor for the rows of `query` after the row with this sort key."""
    text = json.dumps([query, *key], ensure_ascii=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode("ascii")).rstrip(b"=").decode("ascii")


def decode_cursor(query: str, cursor: str, *types: type[str] | type[int]) -> tuple[str | int, ...]:
    """Return the sort key in a cursor: one value for each of `types`.

    Raises:
        QueryError: The string is not a cursor, or is the cursor of another query.
    """
    try:
        padded = cursor[:_CURSOR_CHARACTERS_MAX].encode("ascii") + b"=" * (-len(cursor) % 4)
        kind, *key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (AttributeError, TypeError, ValueError, binascii.Error, RecursionError) as error:
        raise QueryError("this is not a cursor: pass the next_cursor of a page unchanged") from error
    if kind != query or len(key) != len(types) or not all(map(_is_key, key, types)):
        raise QueryError(
            f"this cursor does not continue {query}: it belongs to another query; use the next_cursor of this query, or no cursor for the first page"
        )
    return tuple(key)


def _is_key(value: object, expected: type[str] | type[int]) -> bool:
    if expected is int:
        return type(value) is int and -_INT64_MAX - 1 <= value <= _INT64_MAX
    return type(value) is str
