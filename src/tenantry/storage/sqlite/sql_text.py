"""Pieces of SQL's text: patterns of its tokens (https://www.sqlite.org/lang_keywords.html), and names in quotes."""

import string
from typing import Final

COMMENT: Final = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
QUOTED: Final = r"""'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z)|\[[^\]]*(?:\]|\Z)"""
"""A string or a quoted name. Both patterns need `re.DOTALL`.

Without its end either goes to the end of the text: otherwise hostile text would be read once for each of its characters.
"""


_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def folded(name: str) -> str:
    """Return a name as SQLite compares it: it tells cases apart beyond ASCII, and does not take U+212A for a K."""
    return name.translate(_LOWER)


def quoted(name: str) -> str:
    """Return the name of a table, an index, a view or a trigger in quotes."""
    return '"' + name.replace('"', '""') + '"'
