"""Patterns of SQL's tokens, and the kind of statement in an SQL text, for SQLite and PostgreSQL.

The references are https://www.sqlite.org/lang_keywords.html and https://www.postgresql.org/docs/current/sql-syntax-lexical.html. The
kind of a statement is found before the tenant's database is known, so one pattern reads the texts of both dialects.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

COMMENT: Final = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
QUOTED: Final = r"""'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z)|\[[^\]]*(?:\]|\Z)"""
"""A string or a quoted name in SQLite. `COMMENT` and this pattern need `re.DOTALL`.

An unterminated comment, string or name extends to the end of the text. Otherwise hostile text would be scanned once for each character.
"""

POSTGRES_QUOTED: Final = (
    r"""[eE]'(?:[^'\\]|''|\\.)*(?:'|\Z)|'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)"""
    r"""|(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?:(?P=tag)|\Z)"""
)
"""A string, a quoted name or a dollar-quoted string in PostgreSQL. A pattern may contain it once, because it has the group `tag`."""

POSTGRES_WORD: Final = r"[^\W\d][\w$]*"
"""A keyword or an unquoted name in PostgreSQL. Match it before `POSTGRES_QUOTED`'s dollar quotes, because a name may contain ``$``."""

# A parameter such as ``:limit`` is one token together with its colon, so that ``limit`` is not mistaken for a keyword. A bracket
# directly behind a name, ``)`` or another bracket is a subscript of PostgreSQL's and not a quoted name of SQLite's.
_TOKEN: Final = re.compile(
    rf"(?P<comment>{COMMENT})|(?P<subscript>(?<=[\w\])\[\"])\[)"
    rf"|(?P<quoted>{POSTGRES_QUOTED}|{QUOTED})|(?P<word>[:@$]?[^\W\d][\w$]*)|\S",
    re.DOTALL,
)
_TEXTS_MAX: Final = 1024

_WRITES: Final = frozenset(["INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE"])
_READS: Final = frozenset(["SELECT", "VALUES", "EXPLAIN", "PRAGMA", "TABLE", "SHOW"])
_COMPOUND: Final = frozenset(["UNION", "INTERSECT", "EXCEPT"])
_BEFORE_QUERY: Final = frozenset(["AS", "MATERIALIZED"])  # the words before a query of WITH
_OTHERS: Final = frozenset(
    [
        *("ALTER", "ANALYZE", "COMMENT", "CREATE", "DO", "DROP", "GRANT", "LOCK", "REFRESH", "REINDEX"),
        *("REVOKE", "TRUNCATE"),
    ]
)


class SqlShape(NamedTuple):
    """The kind of statement in an SQL text.

    Attributes:
        verb: The main verb in upper case, such as UPDATE for ``WITH few AS (…) UPDATE …``. '' for a text without words.
        has_returning: Whether the statement has a RETURNING clause.
        is_compound: Whether the statement, or a SELECT inside it, has UNION, INTERSECT or EXCEPT.
        has_order: Whether the statement has an ORDER BY or a LIMIT outside of parentheses.
        end: The position after the last token that is not a semicolon or a comment.
        has_writing_with: Whether WITH contains an INSERT, UPDATE, DELETE or MERGE, as in PostgreSQL's
            ``WITH gone AS (DELETE … RETURNING id) SELECT …``.
    """

    verb: str
    has_returning: bool
    is_compound: bool
    has_order: bool
    end: int
    has_writing_with: bool = False

    @property
    def is_write(self) -> bool:
        """Whether the statement inserts, updates or deletes rows."""
        return self.verb in _WRITES or self.has_writing_with

    @property
    def returns_rows(self) -> bool:
        """Whether the statement is known to return rows."""
        return self.verb in _READS or (self.verb in _WRITES and self.has_returning)

    @property
    def returns_nothing(self) -> bool:
        """Whether the statement is known to return no rows; False for an unknown verb, which only the database can judge."""
        return self.verb in _OTHERS or (self.verb in _WRITES and not self.has_returning)


@lru_cache(maxsize=_TEXTS_MAX)
def shape_of(sql: str) -> SqlShape:
    """Return the kind of statement in a text. This function reads only the tokens and does not check the syntax."""
    opener = ""  # the token before the last opening parenthesis
    verb, before, depth, end, is_compound, has_writing_with = "", "", 0, 0, False, False
    clauses = set()
    for token in _TOKEN.finditer(sql):
        text = token[0]
        if token["comment"] is not None or text == ";":
            continue
        end = token.end()
        if text == "(":
            opener = before
        if text in "()":
            depth += 1 if text == "(" else -1
        elif token["word"] is not None and before not in {".", "AS"}:
            text = text.upper()
            is_compound = is_compound or text in _COMPOUND
            if not verb:
                verb = text
            elif depth == 0 and verb == "WITH" and before == ")" and text != "AS":
                verb = text  # the first word after the last closing parenthesis of WITH
            elif depth == 0:
                clauses.add(text)
            elif verb == "WITH" and before == "(" and opener in _BEFORE_QUERY:
                has_writing_with = has_writing_with or text in _WRITES
        before = text
    has_order = not clauses.isdisjoint(["ORDER", "LIMIT"])
    return SqlShape(verb, "RETURNING" in clauses, is_compound, has_order, end, has_writing_with)
