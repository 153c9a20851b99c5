"""Creates the accepted tables, which the packs do not define, to learn how SQLite stores the definitions of these tables.

The definitions come from an untrusted file, so SQLite runs them under an authorizer. The authorizer only allows columns,
constraints and indexes that call harmless functions.
"""

import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from tenantry.storage.sqlite.errors import DRIVER_ERRORS
from tenantry.storage.sqlite.foreign.schema_objects import SchemaObject, read_schema, refused_objects
from tenantry.storage.sqlite.statements.authorizer import Judge, RefusedActionError, judged
from tenantry.storage.sqlite.statements.sql_text import quoted

_MAKING: Final = frozenset(
    [
        *(sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_INDEX),
        *(sqlite3.SQLITE_READ, sqlite3.SQLITE_REINDEX),
    ]
)
_COMPUTING: Final = frozenset([sqlite3.SQLITE_SELECT])
_SCHEMA_TABLES: Final = frozenset(["sqlite_master", "sqlite_schema"])
# These functions run in linear time, and their results are not much larger than the arguments, unlike `instr`, `like` and `printf`.
_HARMLESS_FUNCTIONS: Final = frozenset(
    [
        *("abs", "coalesce", "ifnull", "iif", "json_valid", "length", "lower", "ltrim", "max", "min"),
        *("nullif", "round", "rtrim", "substr", "substring", "trim", "typeof", "upper"),
        *("current_date", "current_time", "current_timestamp", "date", "datetime", "julianday"),
        *("strftime", "time", "unixepoch"),
    ]
)
_HIDDEN_GENERATED: Final = (2, 3)  # https://www.sqlite.org/pragma.html#pragma_table_xinfo


def make_accepted(accepting: Sequence[SchemaObject], connection: sqlite3.Connection) -> list[SchemaObject]:
    """Create the accepted tables and indexes in the database of the expected schema, and return their rows in the schema table.

    If an accepted object is not a plain table or index, this function raises `ForeignSchemaError`.
    """
    names = {one.key for one in accepting}
    for one in accepting:
        if one.type not in {"table", "index"} or (
            one.sql is None and not one.name.startswith("sqlite_autoindex_")
        ):
            raise refused_objects("accepted tables must not have triggers, and views are not accepted", [one])
        if one.sql is None:
            continue
        try:
            with judged(_judge_only(_MAKING), connection):
                connection.execute(one.sql)
            if one.type == "table":
                _check_columns(one, connection)
        except (*DRIVER_ERRORS, ValueError, RefusedActionError) as error:
            raise refused_objects(
                "an accepted table must not be virtual, have generated columns, or call a function that is not allowed "
                f"({ascii(str(error))[:200]})",
                [one],
            ) from error
    return [one for one in read_schema(connection) if one.key in names]


def _check_columns(table: SchemaObject, connection: sqlite3.Connection) -> None:
    columns = connection.execute(f"PRAGMA table_xinfo({quoted(table.name)})").fetchall()
    for *_, default, _, hidden in columns:
        if hidden in _HIDDEN_GENERATED:
            raise ValueError("a generated column")
        if default is not None:
            # SQLite checks a default value's functions only when the default is used. EXPLAIN checks the functions without a call.
            with judged(_judge_only(_COMPUTING), connection):
                connection.execute(f"EXPLAIN SELECT {default}").close()


def _judge_only(actions: Collection[int]) -> Judge:
    """Return an authorizer that allows only the given actions and calls of harmless functions."""

    def judge(action: int, first: str | None, second: str | None, _database: str | None) -> str | None:
        is_allowed = (
            action in actions
            or (action in {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE} and first in _SCHEMA_TABLES)
            or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _HARMLESS_FUNCTIONS)
        )
        return None if is_allowed else f"{second or first or 'an action'}"

    return judge
