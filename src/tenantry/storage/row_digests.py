"""The digest of a table's rows, which shows after a copy that both databases have the same rows.

The digest does not depend on the order of the rows, because two databases return the rows in different orders.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

_DIGEST_BYTES: Final = 16
_REPEATED_CHARACTERS_MAX: Final = 64
_DIGEST_MAX: Final = 1 << (8 * _DIGEST_BYTES)


class RowDigest:
    """The number and the digest of the rows that passed.

    Args:
        json_columns: The positions of the columns with JSON that a database stores as parsed values. Such columns are compared as
            parsed values, because a database may return the same value as another text.
    """

    def __init__(self, json_columns: Sequence[int] = ()) -> None:
        self.rows = 0
        self._digest = 0
        self._json_columns = json_columns

    def passed(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows, and add each row to the digest."""
        blake, json_columns = hashlib.blake2b, self._json_columns
        for row in rows:
            compared = _with_parsed(row, json_columns) if json_columns else row
            self._digest += int.from_bytes(
                blake(repr(compared).encode(), digest_size=_DIGEST_BYTES).digest(), "little"
            )
            self.rows += 1
            yield row

    def consume(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add all rows to the digest."""
        for _ in self.passed(rows):
            pass

    @property
    def value(self) -> tuple[int, int]:
        """The number of rows, and their digest."""
        return self.rows, self._digest % _DIGEST_MAX


def _with_parsed(row: tuple[Any, ...], json_columns: Sequence[int]) -> tuple[Any, ...]:
    parsed = list(row)
    for position in json_columns:
        if (text := row[position]) is not None:
            parsed[position] = _parsed_again(text) if len(text) <= _REPEATED_CHARACTERS_MAX else _parsed(text)
    return tuple(parsed)


def _parsed(text: str) -> object:
    # PostgreSQL stores a number of jsonb as an exact decimal, so 1e5 comes back as 100000.
    return json.dumps(json.loads(text, parse_int=_number, parse_float=_number), sort_keys=True)


_parsed_again = lru_cache(maxsize=1024)(_parsed)  # many rows have the same short JSON, such as []


def _number(text: str) -> str:
    return f"\0{Decimal(text).normalize()}"  # no string of jsonb contains a NUL
