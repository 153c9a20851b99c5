"""Pieces of SQL's text: patterns of its tokens (https://www.sqlite.org/lang_keywords.html), and names in quotes."""

import string
from typing import Final

COMMENT: Final = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
QUOTED: Final = r"""'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z)|\[[^\]]*(?:\]|\Z)"""
"""A string or a quoted name. Both patterns need `re.DOTALL`.

Without its end, each pattern matches to the end of the text: otherwise hostile text would be scanned once for each character.
"""


_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def folded(name: str) -> str:
    """Return a name in the form in which SQLite compares it: only ASCII letters are compared without case."""
    return name.translate(_LOWER)


def quoted(name: str) -> str:
    """Return the name of a table, an index, a view or a trigger in quotes."""
    return '"' + name.replace('"', '""') + '"'
