"""Converts numbered placeholders (``?1``) to named placeholders (``:n1``).

In SQLite a numbered placeholder such as ``?1`` has the name ``?1`` (https://www.sqlite.org/c3ref/bind_parameter_name.html).
Python 3.12.0 to 3.12.3 therefore issues a warning about named placeholders when the values are a sequence
(https://github.com/python/cpython/issues/117995), and with ``-W error`` the call fails. Named placeholders take their values from
a mapping, which every version of Python accepts.
"""

import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tenantry.sql.tokens import COMMENT, QUOTED

# Comments, strings and quoted names are matched first, because a question mark inside them is not a placeholder.
_TOKEN: Final = re.compile(
    rf"{COMMENT}|{QUOTED}|\?(?P<number>[0-9]*)|(?P<name>[:@$][A-Za-z_0-9])",
    re.DOTALL,
)


class NumberedStatement(NamedTuple):
    """A statement whose numbered placeholders were converted to names."""

    sql: str
    values_count: int

    def names(self, parameters: Sequence[object]) -> dict[str, object]:
        """Return the values by placeholder name."""
        if isinstance(parameters, Mapping):  # The driver also accepts a mapping from numbers to values.
            return {f"n{number}": value for number, value in parameters.items()}
        if len(parameters) != self.values_count:
            raise sqlite3.ProgrammingError(
                f"the statement takes {self.values_count} values, but {len(parameters)} were given"
            )
        return {f"n{number}": value for number, value in enumerate(parameters, start=1)}


def find_numbered(sql: str) -> NumberedStatement | None:
    """Return the statement with its numbered placeholders converted; None without numbered placeholders, or with named ones."""
    tokens = list(_TOKEN.finditer(sql))
    if not any(token["number"] for token in tokens) or any(token["name"] for token in tokens):
        return None
    count = 0

    def name(token: re.Match[str]) -> str:
        nonlocal count
        if token["number"] is None:
            return token[0]
        # A plain question mark gets the largest number so far, plus one (https://www.sqlite.org/lang_expr.html#varparam).
        number = int(token["number"] or count + 1)
        count = max(count, number)
        return f":n{number}"

    named = _TOKEN.sub(name, sql)
    return NumberedStatement(named, count)
