"""Makes the statement that runs a migration's SQL script, and refuses statements that would outlive the migration.

PostgreSQL would run a script of several statements as one message, and a COMMIT in the script would end tenantry's transaction: the
first half of the script would stay, without the migration's row. So the script runs inside a DO block, whose EXECUTE refuses
transaction control (https://www.postgresql.org/docs/current/plpgsql-transactions.html). The server's parser splits the script, and
each statement sees the tables that the statements before it have created.

The migration's connection belongs to the pool and later serves other tenants. So a script may not change the connection's settings,
prepared statements or notifications: the words at the beginning of its statements are checked. Temporary tables, which would hide a
tenant's tables, end with the step. These checks prevent mistakes; they are not a boundary against hostile packs, whose Python code
runs in the same process anyway.
"""

import re
from collections.abc import Iterator
from itertools import count
from typing import Final

from tenantry.sql.tokens import COMMENT, POSTGRES_QUOTED, POSTGRES_WORD
from tenantry.storage.postgres.statements.translation import OWN_TABLES
from tenantry.storage.python_migrations import BrokenScriptError

END_STEP: Final = "DO $$BEGIN SET CONSTRAINTS ALL IMMEDIATE; DISCARD TEMP; END$$"
"""Ends a step before its row is written: checks deferred constraints, and drops temporary tables."""

_REFUSED_CODE: Final = "42501"  # insufficient_privilege
_TOKEN: Final = re.compile(
    rf"(?P<comment>{COMMENT})|(?P<word>(?![eE]'){POSTGRES_WORD})|(?P<quoted>{POSTGRES_QUOTED})|\S",
    re.DOTALL,
)
# END is not here: it may end the body of a function that begins with BEGIN ATOMIC. EXECUTE refuses it where it is a statement.
_TRANSACTIONS: Final = frozenset(["ABORT", "BEGIN", "COMMIT", "RELEASE", "ROLLBACK", "SAVEPOINT", "START"])
_OUTLIVING: Final = frozenset(
    [
        *("CLOSE", "COPY", "DEALLOCATE", "DECLARE", "DISCARD", "EXECUTE", "FETCH", "LISTEN", "LOAD", "MOVE"),
        *("NOTIFY", "PREPARE", "RESET", "UNLISTEN", "VACUUM"),
    ]
)
# SET LOCAL ends with the transaction, but these settings would hide the tenant's tables from tenantry's own statements.
_SCHEMA_SETTINGS: Final = frozenset(["ROLE", "SCHEMA", "SEARCH_PATH", "SESSION", "TRANSACTION"])


def step_of(script: str) -> str:
    """Return the one statement that runs all statements of a script.

    Raises:
        BrokenScriptError: The script has a statement that would change the connection, or names a table of tenantry.
    """
    if "\0" in script:
        raise BrokenScriptError(
            f"line {line_of(script, script.index(chr(0)) + 1)} of the script contains the character NUL: remove the character",
            code="22021",  # character_not_in_repertoire
        )
    for words in statements_of(script):
        _check(words)
    outer, inner = _tags(script)
    # The line break ends a comment in the script's last line.
    return f"DO {outer}BEGIN EXECUTE {inner}{script}\n{inner}; END{outer}"


def check_single(sql: str) -> None:
    """Check that a text of a Python migration is one statement.

    Raises:
        BrokenScriptError: The text has several statements.
    """
    if sum(map(bool, statements_of(sql))) > 1:
        raise BrokenScriptError(
            "the function passes several statements at once: pass one statement to each call", code="42601"
        )


def line_of(script: str, position: int) -> int:
    """Return the line of a character of the script; the first character has the position 1, as in PostgreSQL's errors."""
    return script.count("\n", 0, max(position - 1, 0)) + 1


def _check(words: list[str]) -> None:
    own = OWN_TABLES.intersection(map(str.lower, words))
    if own:
        raise BrokenScriptError(
            f"a migration may not use the table {min(own)}: remove the statement", code=_REFUSED_CODE
        )
    verb, *rest = [word.upper() for word in words[:3]] or [""]
    if verb == "SET":
        _check_set(rest)
    if verb in _TRANSACTIONS | _OUTLIVING:
        why = (
            "tenantry runs it in a transaction"
            if verb in _TRANSACTIONS
            else "its effect would outlive the migration"
        )
        raise BrokenScriptError(
            f"a migration may not use {verb}: {why}: remove the statement", code=_REFUSED_CODE
        )


def _check_set(words: list[str]) -> None:
    if words[:1] == ["CONSTRAINTS"]:
        return
    if words[:1] == ["LOCAL"] and _SCHEMA_SETTINGS.isdisjoint(words[1:2]):
        return
    raise BrokenScriptError(
        f"a migration may not use SET {' '.join(words[:2])}: the setting would outlive the migration or hide the tenant's tables: "
        "use SET LOCAL, and do not set search_path or the role",
        code=_REFUSED_CODE,
    )


def statements_of(script: str) -> Iterator[list[str]]:
    """Yield the words and the quoted names of each statement, without strings, comments and quotes."""
    words: list[str] = []
    for token in _TOKEN.finditer(script):
        text = token[0]
        if text == ";":
            yield words
            words = []
        elif token["word"] is not None:
            words.append(text)
        elif text.startswith('"'):
            words.append(text[1:-1])
    yield words


def _tags(script: str) -> tuple[str, str]:
    """Return two dollar quotes that the script does not contain."""
    free = (f"$tenantry_{number}$" for number in count() if f"tenantry_{number}" not in script)
    return next(free), next(free)
