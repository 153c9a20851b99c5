"""The digest of a table's rows, which shows after a copy that both databases have the same rows.

The digest does not depend on the order of the rows, because two databases return the rows in different orders.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeAlias

_DIGEST_BYTES: Final = 16
_REPEATED_CHARACTERS_MAX: Final = 64
_DIGEST_MAX: Final = 1 << (8 * _DIGEST_BYTES)


Compared: TypeAlias = Callable[[Any], object]
"""Returns the part of a value that is compared. It is not called for NULL."""


class RowDigest:
    """The number and the digest of the rows that passed.

    Args:
        compared: What is compared of each value of a column, by the column's position; all other values are compared as they are.
            A database may store another text of the same value.
    """

    def __init__(self, compared: Mapping[int, Compared] | None = None) -> None:
        self.rows = 0
        self._digest = 0
        self._compared = tuple((compared or {}).items())

    def passed(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows, and add each row to the digest."""
        blake, compared = hashlib.blake2b, self._compared
        for row in rows:
            shown = repr(_reduced(row, compared) if compared else row)
            self._digest += int.from_bytes(
                blake(shown.encode(), digest_size=_DIGEST_BYTES).digest(), "little"
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


def parsed_json(text: str) -> object:
    """Return the value of a JSON text, in a form that is equal for equal values."""
    return _parsed_again(text) if len(text) <= _REPEATED_CHARACTERS_MAX else _parsed(text)


def exact_number(value: Any) -> object:
    """Return a number, or the text of a number, in a form that is equal for equal numbers."""
    return str(Decimal(value).normalize()) if isinstance(value, str) else value


def existence(_: Any) -> object:
    """Return that there is a value: the server has accepted the value, and returns it in the form of its type."""
    return True


def _reduced(row: tuple[Any, ...], compared: Sequence[tuple[int, Compared]]) -> tuple[Any, ...]:
    values = list(row)
    for position, reduce in compared:
        if (value := row[position]) is not None:
            values[position] = reduce(value)
    return tuple(values)


def _parsed(text: str) -> object:
    # PostgreSQL stores a number of jsonb as an exact decimal, so 1e5 comes back as 100000.
    return json.dumps(json.loads(text, parse_int=_number, parse_float=_number), sort_keys=True)


_parsed_again = lru_cache(maxsize=1024)(_parsed)  # many rows have the same short JSON, such as []


def _number(text: str) -> str:
    return f"\0{Decimal(text).normalize()}"  # no string of jsonb contains a NUL
