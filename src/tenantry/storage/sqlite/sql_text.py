"""Pieces of SQL's text: patterns of its tokens (https://www.sqlite.org/lang_keywords.html), and names in quotes."""

from typing import Final

COMMENT: Final = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
QUOTED: Final = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]"""
"""A string or a quoted name. Both patterns need `re.DOTALL`."""


def quoted(name: str) -> str:
    """Return the name of a table, an index, a view or a trigger in quotes."""
    return '"' + name.replace('"', '""') + '"'
