"""Folds and quotes the names of tables, indexes, views and triggers as SQLite does."""

import string
from typing import Final

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def folded(name: str) -> str:
    """Return a name with its ASCII letters in lower case, because SQLite ignores the case of ASCII letters only."""
    return name.translate(_LOWER)


def quoted(name: str) -> str:
    """Return the name of a table, an index, a view or a trigger in quotes."""
    return '"' + name.replace('"', '""') + '"'
