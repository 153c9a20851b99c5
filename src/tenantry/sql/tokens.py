"""SQL's text: patterns of its tokens (https://www.sqlite.org/lang_keywords.html), and what kind of statement a text is."""

import re
from functools import lru_cache
from typing import Final, NamedTuple

COMMENT: Final = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
QUOTED: Final = r"""'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z)|\[[^\]]*(?:\]|\Z)"""
"""A string or a quoted name. Both patterns need `re.DOTALL`.

Without its end, each pattern matches to the end of the text: otherwise hostile text would be scanned once for each character.
"""

# A parameter's name, as in ``:limit``, is one token with its sign, so that it is not taken for a keyword.
_TOKEN: Final = re.compile(
    rf"(?P<comment>{COMMENT})|(?P<quoted>{QUOTED})|(?P<word>[:@$]?[^\W\d]\w*)|\S", re.DOTALL
)
_TEXTS_MAX: Final = 1024

_WRITES: Final = frozenset(["INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE"])
_READS: Final = frozenset(["SELECT", "VALUES", "EXPLAIN", "PRAGMA", "TABLE", "SHOW"])
_OTHERS: Final = frozenset(["ALTER", "ANALYZE", "CREATE", "DROP", "REINDEX"])


class SqlShape(NamedTuple):
    """What kind of statement a text is.

    Attributes:
        verb: Its main verb in upper case: of ``WITH few AS (…) UPDATE …`` that is UPDATE. Empty for a text without words.
        has_returning: Whether a clause RETURNING follows.
        has_order: Whether it has an ORDER BY or a LIMIT of its own, outside of parentheses.
        end: Where its last token ends, without semicolons and comments.
    """

    verb: str
    has_returning: bool
    has_order: bool
    end: int

    @property
    def is_write(self) -> bool:
        """Whether it inserts, updates or deletes rows."""
        return self.verb in _WRITES

    @property
    def returns_rows(self) -> bool:
        """Whether it is known to return rows."""
        return self.verb in _READS or (self.is_write and self.has_returning)

    @property
    def returns_nothing(self) -> bool:
        """Whether it is known to return no rows; a text that is not understood is left to the database."""
        return self.verb in _OTHERS or (self.is_write and not self.has_returning)


@lru_cache(maxsize=_TEXTS_MAX)
def shape_of(sql: str) -> SqlShape:
    """Return what kind of statement a text is. Only its tokens are looked at: whether it is valid, the database says."""
    verb, before, depth, end = "", "", 0, 0
    clauses = set()
    for token in _TOKEN.finditer(sql):
        text = token[0]
        if token["comment"] is not None or text == ";":
            continue
        end = token.end()
        if text in "()":
            depth += 1 if text == "(" else -1
        elif token["word"] is not None and before not in {".", "AS"}:
            text = text.upper()
            if not verb:
                verb = text
            elif depth == 0 and verb == "WITH" and before == ")" and text != "AS":
                verb = text  # the first word after the last of WITH's parentheses
            elif depth == 0:
                clauses.add(text)
        before = text
    has_order = not clauses.isdisjoint(["ORDER", "LIMIT"])
    return SqlShape(verb, "RETURNING" in clauses, has_order, end)
