"""The names of tables, indexes, views and triggers as SQLite reads and writes them."""

import string
from typing import Final

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def folded(name: str) -> str:
    """Return a name in the form in which SQLite compares it: only ASCII letters are compared without case."""
    return name.translate(_LOWER)


def quoted(name: str) -> str:
    """Return the name of a table, an index, a view or a trigger in quotes."""
    return '"' + name.replace('"', '""') + '"'
