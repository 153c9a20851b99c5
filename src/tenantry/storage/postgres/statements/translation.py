"""Translates the SQL of a statement for PostgreSQL, and refuses statements that would affect more than their own transaction.

A statement's text has ``?`` for each value, and PostgreSQL wants ``$1``. One pass over the tokens of PostgreSQL
(https://www.postgresql.org/docs/current/sql-syntax-lexical.html) numbers the placeholders and finds the kind of the statement. Each text is
translated once in a process.

All callers share the connection, and a batch shares its transaction. So a statement may not begin or end a transaction, change a
setting, or leave a prepared statement, a cursor or a lock behind, and DO and CALL, which can commit half of a batch, are refused too.
The server itself refuses a text with two statements. These checks prevent mistakes. They are no boundary against hostile SQL, which can
also name another schema. With the option ``roles`` of the database, the server refuses that. A function that resets the role can still
do it, so nobody who is not trusted may create functions.

The operators ``?``, ``?|`` and ``?&`` of jsonb are not available, because ``?`` is a placeholder: use the functions ``jsonb_exists``,
``jsonb_exists_any`` and ``jsonb_exists_all``.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

from tenantry.errors import QueryError
from tenantry.sql.tokens import POSTGRES_QUOTED, POSTGRES_WORD

DIALECT: Final = "postgres"
PLACEHOLDERS_MAX: Final = 65_535
"""The most values that one message of PostgreSQL's protocol carries."""

_TEXTS_MAX: Final = 4096
_TOKEN: Final = re.compile(
    rf"(?P<line>--[^\n]*)|(?P<comment>/\*)|(?P<escaped>[uU]&\")|(?P<word>(?![eE]'){POSTGRES_WORD})|(?P<quoted>{POSTGRES_QUOTED})"
    r"|(?P<number>\d[\w.]*)|(?P<placeholder>\?[0-9]*)|\S",
    re.DOTALL,
)
_COMMENT_MARK: Final = re.compile(r"/\*|\*/")

_TRANSACTIONS: Final = frozenset(
    ["ABORT", "BEGIN", "COMMIT", "END", "RELEASE", "ROLLBACK", "SAVEPOINT", "START"]
)
_REFUSED_VERBS: Final = _TRANSACTIONS | frozenset(
    [
        *(
            "CALL",
            "CHECKPOINT",
            "CLOSE",
            "COPY",
            "DEALLOCATE",
            "DECLARE",
            "DISCARD",
            "DO",
            "EXECUTE",
            "FETCH",
        ),
        *("LISTEN", "LOAD", "MOVE", "NOTIFY", "PREPARE", "RESET", "SET", "UNLISTEN", "VACUUM"),
    ]
)
# Functions that act on the whole connection or on other connections.
_REFUSED_FUNCTIONS: Final = frozenset(
    [
        *("pg_advisory_lock", "pg_advisory_lock_shared", "pg_cancel_backend", "pg_notify", "pg_reload_conf"),
        *("pg_terminate_backend", "pg_try_advisory_lock", "pg_try_advisory_lock_shared", "set_config"),
    ]
)
_TEMPORARY: Final = frozenset(["TEMP", "TEMPORARY"])
_TEMPORARY_SCHEMA: Final = re.compile(r"pg_temp(_[0-9]+)?")
OWN_TABLES: Final = frozenset(
    ["schema_migrations", "tenantry_batches", "tenantry_idempotency", "tenantry_owner"]
)
"""tenantry's own tables in a tenant's schema. Statements may only read them."""

_WRITES: Final = frozenset(["INSERT", "UPDATE", "DELETE", "MERGE"])
_QUERIES: Final = frozenset(["SELECT", "VALUES", "TABLE"])
_RETURNING_ROWS: Final = _QUERIES | {"EXPLAIN", "SHOW"}
_RETURNING_NOTHING: Final = frozenset(
    [
        *("ALTER", "ANALYZE", "CLUSTER", "COMMENT", "CREATE", "DROP", "GRANT", "IMPORT", "LOCK", "REASSIGN"),
        *("REFRESH", "REINDEX", "REVOKE", "SECURITY", "TRUNCATE"),
    ]
)


class Translation(NamedTuple):
    """An SQL text for PostgreSQL.

    Attributes:
        sql: The text with numbered placeholders.
        placeholders: The number of values.
        is_write: Whether the statement inserts, updates, deletes or merges rows.
        returns_rows: Whether the statement is known to return rows.
        returns_nothing: Whether the statement is known to return no rows. Only the server knows a misspelt verb.
    """

    sql: bytes
    placeholders: int
    is_write: bool
    returns_rows: bool
    returns_nothing: bool


class _Words:
    """The words of a text outside of strings and comments."""

    def __init__(self) -> None:
        self.verb = ""
        self.all: set[str] = set()
        self.outermost: set[str] = set()
        self.names: set[str] = set()
        self._depth = 0
        self._before = ""

    def add_word(self, text: str) -> None:
        word = text.upper()
        self.all.add(word)
        self.names.add(text.lower())
        if not self.verb:
            self.verb = word
        elif self._depth == 0 and self._before not in {".", "AS"}:
            is_main_verb = word in _WRITES | _QUERIES and self._before not in {"WITH", "RECURSIVE", ","}
            if self.verb == "WITH" and is_main_verb:
                self.verb = word
            else:
                self.outermost.add(word)
        self._before = word

    def add_quoted(self, text: str) -> None:
        if text.startswith('"'):
            self.names.add(text[1:-1].lower())
        self._before = "'"

    def add_other(self, text: str) -> None:
        self._depth += (text == "(") - (text == ")")
        self._before = text


@lru_cache(maxsize=_TEXTS_MAX)
def translate(sql: str) -> Translation:
    """Return an SQL text for PostgreSQL.

    Raises:
        QueryError: The statement is not allowed, or cannot be sent. The message does not name the statement.
    """
    words, parts, end, count = _Words(), [], 0, 0
    position = 0
    while (token := _TOKEN.search(sql, position)) is not None:
        position = token.end()
        if token["comment"] is not None:
            position = _end_of_comment(sql, position)
        elif token["escaped"] is not None:
            raise QueryError(
                'a statement may not write a name with Unicode escapes (U&"…"): write the name itself in quotes'
            )
        elif token["word"] is not None:
            words.add_word(token[0])
        elif token["quoted"] is not None:
            words.add_quoted(token[0])
        elif token["placeholder"] is not None:
            # A plain question mark gets the largest number so far, plus one, as in SQLite.
            number = int(token[0][1:] or count + 1)
            count = max(count, number)
            parts += [sql[end : token.start()], f"${number}"]
            end = position
        elif token["line"] is None and token[0] != ";":
            words.add_other(token[0])
    _check(words, count)
    text = "".join([*parts, sql[end:]])
    if "\0" in text:
        raise QueryError(
            "the SQL contains the character NUL, which PostgreSQL cannot read: remove the character"
        )
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"the SQL cannot be encoded as UTF-8: {error.reason}") from error
    verb = "SELECT" if words.verb == "WITH" else words.verb
    is_write = verb in _WRITES
    makes_table = verb == "SELECT" and "INTO" in words.outermost
    returns_rows = "RETURNING" in words.outermost if is_write else verb in _RETURNING_ROWS and not makes_table
    returns_nothing = is_write or makes_table or verb in _RETURNING_NOTHING
    return Translation(encoded, count, is_write, returns_rows, returns_nothing and not returns_rows)


def _end_of_comment(sql: str, position: int) -> int:
    """Return the end of a comment; PostgreSQL's comments can contain comments."""
    depth = 1
    while depth and (mark := _COMMENT_MARK.search(sql, position)) is not None:
        depth += 1 if mark[0] == "/*" else -1
        position = mark.end()
    return len(sql) if depth else position


def _check(words: _Words, placeholders: int) -> None:
    if placeholders > PLACEHOLDERS_MAX:
        raise QueryError(
            f"the statement has {placeholders} values, but PostgreSQL takes at most {PLACEHOLDERS_MAX}: send fewer rows at a time"
        )
    refused = (
        words.verb if words.verb in _REFUSED_VERBS else min(words.names & _REFUSED_FUNCTIONS, default="")
    )
    if words.verb in {"CREATE", "SELECT", "WITH"} and not _TEMPORARY.isdisjoint(words.outermost):
        refused = "temporary tables, views or sequences"
    elif any(map(_TEMPORARY_SCHEMA.fullmatch, words.names)):
        refused = "the schema pg_temp"
    if refused:
        advice = "; use tenant.transaction() for a transaction" if refused in _TRANSACTIONS else ""
        raise QueryError(
            f"a statement may not use {refused}, because all callers of this database share the connection{advice}"
        )
    is_query = words.verb in _RETURNING_ROWS | {"WITH"} and words.all.isdisjoint(_WRITES | {"INTO"})
    own = words.names & OWN_TABLES
    if own and not is_query:
        raise QueryError(
            f"a statement may not use the table {min(own)} for anything but reading, because this table holds tenantry's own data"
        )
